"""Where training starts: a network with an output for each class, with whatever trained weights fit into it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from convscope.errors import ConvscopeError, ModelError, UsageError
from convscope.models.checkpoint import read_state, unprefixed
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier, PerChannel
from convscope.models.registry import RANDOM, SOURCES, TRAINED, Found, Request, parse, resized
from convscope.models.run import WEIGHTS, Settings, read_settings
from convscope.models.zoo import ARCHITECTURES

CODE = ("file", "module")  # sources that are a user's own Python


@dataclass(frozen=True)
class Start:
    """A classifier to train. ``spec`` and ``options`` build its network; ``loaded``: which parameters are trained
    already; ``origin``: where those came from, in words; ``run``: the run that it goes on from."""

    classifier: Classifier
    spec: str
    options: dict[str, Any]
    loaded: frozenset[str]
    origin: str
    run: Path | None = None
    remarks: tuple[str, ...] = ()


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
    run = read_settings(Path(name)) if prefix == "run" else None
    chosen = dict(options or {})
    if run is not None:
        if chosen:
            raise UsageError(f"run:{name} has its options in config.yaml: give it no {', '.join(chosen)}")
        spec, chosen, size = run.spec, run.options, size or run.framing.size
    else:
        spec = model
    with _seeded(seed):
        found, chosen = _build(spec, chosen, len(classes), size, head, run)
        state, origin, same = _trained(model, wanted, weights, classes, dict(options or {}), run, size)
        loaded, left = _load(found.network, state, origin, keep_head=same)
        if loaded:
            _plain_start(found.network, loaded)
    classifier = _classifier(found, classes, run, size, mean, std, spec)
    remarks = (f"{len(left)} of the tensors in {origin} have no place here: {_some(left)}",) if left and not run else ()
    return Start(
        classifier,
        _lasting(spec),
        chosen,
        frozenset(loaded),
        origin or "random weights",
        Path(name) if run is not None else None,
        remarks,
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
        name=spec,
    )
    blank = torch.full((1, classifier.channels, *framing.size), 0.5)
    try:
        with torch.no_grad():
            classifier(blank)
    except ConvscopeError as error:
        raise ModelError(f"{error}: give it as many outputs as there are classes, {len(classes)}") from None
    except RuntimeError as error:
        first = (str(error).splitlines() or ["no reason given"])[0]
        height, width = framing.size
        raise ModelError(f"{spec} fails on an input of {height}x{width} ({first}); --size sets the canvas") from error
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
        return SOURCES[prefix](Request(name, RANDOM, options, size)), options
    except UsageError:
        # A user's factory may know its number of classes itself; whether that is right shows on the first image.
        if prefix not in CODE or given is not None:
            raise
    options.pop("num_classes")
    return SOURCES[prefix](Request(name, RANDOM, options, size)), options


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
    size: tuple[int, int] | None,
) -> tuple[Mapping[str, Tensor], str, bool]:
    """The trained weights to begin with, where they are from, and whether they were trained for these very classes."""
    prefix, name, _ = parse(model)
    if weights is not None:
        return read_state(weights), str(weights), False
    if run is not None:
        return read_state(Path(name) / WEIGHTS), model, run.classes.names == classes.names
    if wanted == RANDOM or (prefix == "convscope" and name in ARCHITECTURES and ARCHITECTURES[name].pretrained is None):
        return {}, "", False
    if prefix in CODE:
        return {}, "", False  # as its factory made it, all of it to be trained
    options = {key: value for key, value in options.items() if key != "num_classes"}
    found = SOURCES[prefix](Request(name, wanted or TRAINED, options))
    same = found.classes is not None and found.classes.names == classes.names
    return found.network.state_dict(), model, same


def _load(
    network: nn.Module, state: Mapping[str, Tensor], origin: str, *, keep_head: bool
) -> tuple[set[str], list[str]]:
    """Put in what fits by name and shape: the parameters that are trained now, and what found no place."""
    if not state:
        return set(), []
    own = {key: value for key, value in network.state_dict().items() if isinstance(value, Tensor)}
    state = unprefixed(state, own)
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    if not keep_head:
        # A last layer of the right size that was trained for other classes is not this one.
        for key in _last(network):
            fitting.pop(key, None)
    if not fitting.keys() & dict(network.named_parameters()).keys():
        raise ModelError(
            f"weights {origin} do not fit {type(network).__name__}: none of its {len(own)} tensors is in there"
        )
    network.load_state_dict({**own, **fitting})
    return {name for name, _ in network.named_parameters() if name in fitting}, [key for key in state if key not in own]


def _plain_start(network: nn.Module, loaded: set[str]) -> None:
    """Linear layers that start anew on a trained base begin as torch begins them.

    Some sources begin them by the number of classes, so large for a few that the first epochs go by undoing it.
    """
    for path, module in network.named_modules():
        own = [f"{path}.{name}".lstrip(".") for name in module._parameters]
        if isinstance(module, nn.Linear) and not any(name in loaded for name in own):
            module.reset_parameters()


def _last(network: nn.Module) -> list[str]:
    """The tensors of the layer that is defined last, which in a classifier is the one that knows the classes."""
    owners = [name for name, module in network.named_modules() if module._parameters]
    own = network.get_submodule(owners[-1])._parameters
    return [f"{owners[-1]}.{name}".lstrip(".") for name in own]


def _lasting(spec: str) -> str:
    """A specifier that holds from any folder: a file's path is made absolute."""
    prefix, name, _ = parse(spec)
    if prefix != "file":
        return spec
    file, _, factory = name.rpartition(":")
    return f"{os.path.abspath(file)}:{factory}"


def _some(keys: list[str], most: int = 4) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")
