"""Where training starts: a network with an output for each class, with whatever trained weights fit into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convscope.errors import ConvscopeError, ModelError, UsageError, some
from convscope.instrument.canvas import on_canvas
from convscope.models.checkpoint import read_state, unprefixed
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier, PerChannel
from convscope.models.copying import copied
from convscope.models.registry import (
    RANDOM,
    SOURCES,
    TRAINED,
    WITHOUT,
    Found,
    Request,
    lasting_spec,
    parse,
    parse_without,
    resized,
)
from convscope.models.run import WEIGHTS, Settings, read_settings
from convscope.models.zoo import ARCHITECTURES
from convscope.training.freeze import head_names

CODE = ("file", "module")  # sources that are a user's own Python


@dataclass(frozen=True)
class Start:
    """A classifier to train. ``spec`` and ``options`` build its network; ``loaded``: which parameters are trained
    already; ``head``: those of the head, where a run that it goes on from says so; ``origin``: where the trained ones
    came from, in words; ``run``: that run."""

    classifier: Classifier
    spec: str
    options: dict[str, Any]
    loaded: frozenset[str]
    origin: str
    run: Path | None = None
    remarks: tuple[str, ...] = ()
    head: frozenset[str] = frozenset()


def start(
    model: str,
    classes: Classes,
    *,
    weights: str | Path | None = None,
    size: tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    head: str = "auto",
    seed: int = 0,
) -> Start:
    """The network that ``model`` names, for these classes.

    Trained weights that come with it (or are in ``weights``) are taken as far as they fit; what depends on the classes
    starts anew, unless they are the same ones in the same order. Without trained weights all starts at random, from
    ``seed``. ``head``: "softmax" has an output a class, "binary" a single one for two classes, "auto" what the
    architecture is made for. The user's random state is left alone.
    """
    prefix, name, wanted = parse(model)
    origin_run = Path(name).expanduser() if prefix == "run" else None
    run = read_settings(origin_run) if origin_run is not None else None
    chosen = dict(options or {})
    if run is not None:
        if chosen:
            raise UsageError(f"run:{name} has its options in config.yaml: give it no {', '.join(chosen)}")
        spec, chosen, size = run.spec, run.options, size or run.framing.size
    else:
        spec = model
    with _seeded(seed):
        found, chosen = _build(spec, chosen, len(classes), size, head, run)
        classifier = _classifier(found, classes, run, size, mean, std, spec)
        state, origin, same = _trained(model, wanted, weights, classes, dict(options or {}), run)
        last = set() if same or not state else _last(classifier)
        loaded, left, dropped = _load(found.network, state, origin, last)
        if loaded:
            _plain_start(found.network, loaded)
    remarks = []
    if left and run is None:
        remarks.append(f"{len(left)} of the tensors in {origin} have no place here: {some(left, 4)}")
    if weights is not None and dropped:
        remarks.append(
            f"the last layer starts anew: {origin} does not say which classes it was trained for (a run's folder does)"
        )
    return Start(
        classifier,
        lasting_spec(spec),
        chosen,
        frozenset(loaded),
        lasting_spec(model) if run is not None and weights is None else origin or "random weights",
        origin_run,
        tuple(remarks),
        frozenset(run.head_parameters if run is not None else ()),
    )


def _classifier(
    found: Found,
    classes: Classes,
    run: Settings | None,
    size: tuple[int, int] | None,
    mean: PerChannel | None,
    std: PerChannel | None,
    spec: str,
) -> Classifier:
    """It sees as the run did that it goes on from, else as its source says, else as the user does."""
    sees = run or found
    framing = resized(sees.framing, size) if size is not None and size != sees.framing.size else sees.framing
    if framing.size is None:
        raise UsageError(f"{spec} does not say how large its input is: give --size, such as --size 128")
    classifier = Classifier(
        found.network.eval(),
        classes,
        mean=mean if mean is not None else sees.mean,
        std=std if std is not None else sees.std,
        framing=framing,
        channels=sees.channels,
        background=sees.background,
        name=spec,
    )
    with on_canvas(classifier, cure="--size sets the canvas"), torch.no_grad():
        try:
            classifier(classifier.blank())
        except ConvscopeError as error:
            raise ModelError(f"{error}: give it as many outputs as there are classes, {len(classes)}") from None
    return classifier


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _build(
    spec: str, options: dict[str, Any], classes: int, size: tuple[int, int] | None, head: str, run: Settings | None
) -> tuple[Found, dict[str, Any]]:
    """The network with random weights, and the options that build it again."""
    prefix, name, _ = parse(spec)
    given = options.get("num_classes")
    if given is not None and given != 1 and given != classes and run is None:
        raise UsageError(f"num_classes={given}, but the photos have {classes} classes")
    outputs = 1 if _binary(prefix, name, options, classes, head) else classes
    options = {**options, "num_classes": outputs}
    try:
        return _copied(SOURCES[prefix](Request(name, RANDOM, options, size)), prefix), options
    except UsageError:
        # A user's factory may know its number of classes itself; whether that is right shows on the first image.
        if prefix not in CODE or given is not None:
            raise
    options.pop("num_classes")
    return _copied(SOURCES[prefix](Request(name, RANDOM, options, size)), prefix), options


def _copied(found: Found, prefix: str) -> Found:
    """A user's Python may hand out a module that is hers: a copy of it is trained."""
    return replace(found, network=copied(found.network)) if prefix in CODE else found


def _binary(prefix: str, name: str, options: Mapping[str, Any], classes: int, head: str) -> bool:
    """Whether the network gets a single output, whose sign tells two classes apart."""
    import inspect

    if head == "auto":
        build = ARCHITECTURES[name].build if prefix == "convscope" and name in ARCHITECTURES else None
        own = inspect.signature(build).parameters["num_classes"].default if build is not None else None
        return classes == 2 and options.get("num_classes", own) == 1
    if head == "binary" and classes != 2:
        raise UsageError(f"a binary head tells 2 classes apart, the photos have {classes}: use a softmax head")
    return head == "binary"


def _trained(
    model: str,
    wanted: str,
    weights: str | Path | None,
    classes: Classes,
    options: dict[str, Any],
    run: Settings | None,
) -> tuple[Mapping[str, Tensor], str, bool]:
    """The trained weights to begin with, where they are from, and whether they were trained for these very classes."""
    prefix, name, _ = parse(model)
    if weights is not None:
        return read_state(weights), str(weights), False
    if run is not None:
        return read_state(Path(name).expanduser() / WEIGHTS), model, run.classes.names == classes.names
    if wanted == RANDOM or (prefix == "convscope" and name in ARCHITECTURES and ARCHITECTURES[name].pretrained is None):
        return {}, "", False
    below = parse(parse_without(model)[1])[0] if prefix == WITHOUT else prefix
    if below in CODE:
        return {}, "", False  # as its factory made it, all of it to be trained
    options = {key: value for key, value in options.items() if key != "num_classes"}
    found = SOURCES[prefix](Request(name, wanted or TRAINED, options))
    same = found.classes is not None and found.classes.names == classes.names
    return found.network.state_dict(), model, same


def _load(
    network: nn.Module, state: Mapping[str, Tensor], origin: str, last: set[str]
) -> tuple[set[str], list[str], bool]:
    """Put in what fits by name and shape, but for the ``last`` layer: one of the right size that was trained for other
    classes is not this one.

    The parameters that are trained now, what found no place, and whether the last layer would have fitted.
    """
    if not state:
        return set(), [], False
    own = {key: value for key, value in network.state_dict().items() if isinstance(value, Tensor)}
    state = unprefixed(state, own)
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    dropped = [fitting.pop(key) for key in last if key in fitting]
    if not fitting.keys() & dict(network.named_parameters()).keys():
        raise ModelError(
            f"weights {origin} do not fit {type(network).__name__}: none of its {len(own)} tensors is in there"
        )
    network.load_state_dict({**own, **fitting})
    loaded = {name for name, _ in network.named_parameters() if name in fitting}
    return loaded, [key for key in state if key not in own], bool(dropped)


def _plain_start(network: nn.Module, loaded: set[str]) -> None:
    """Linear layers that start anew on a trained base begin as torch begins them.

    Some sources begin them by the number of classes, so large for a few that the first epochs go by undoing it.
    """
    for path, module in network.named_modules():
        own = [f"{path}.{name}".lstrip(".") for name in module._parameters]
        if isinstance(module, nn.Linear) and not any(name in loaded for name in own):
            module.reset_parameters()


def _last(classifier: Classifier) -> set[str]:
    """The parameters of the layer that runs last, which in a classifier is the one that knows the classes."""
    try:
        return set(head_names(classifier, classifier.blank()))
    except UsageError:  # no parameters, or none that belong to a module that runs
        return set()
