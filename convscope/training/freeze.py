"""Which parameters learn: chosen by name, glob or stage; what is frozen stays as it is, its statistics too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn

from convscope.errors import UsageError, unknown
from convscope.instrument.layers import resolve
from convscope.instrument.trace import Trace, trace
from convscope.models.classifier import Classifier

ALL = "*"
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


def learning(
    classifier: Classifier,
    image: Tensor,
    loaded: frozenset[str],
    unfreeze: Sequence[str] | None,
    freeze: Sequence[str] = (),
    head: frozenset[str] = frozenset(),
) -> tuple[set[str], list[str]]:
    """The names of the parameters that learn, and the patterns that say so whatever the network came from.

    Without ``unfreeze``, what starts anew learns: the head on a trained base, or all of a network without trained
    weights. With it, what it names learns as well. ``freeze`` has the last word. ``head``: its parameters, where they
    are known; by default what starts anew, or the layer that runs last. A pattern is a glob over the paths of
    modules and parameters (``layer4``, ``features.2?``, ``*``), ``@head``, ``@stage:-1`` or another stage: all layers
    from the one before on, up to the last of its resolution.
    """
    network = classifier.network
    names = [name for name, _ in network.named_parameters()]
    new = {name for name in names if name not in loaded}
    if unfreeze is None:
        unfreeze = [] if loaded and new else [ALL]
    last = (new if loaded else set()) | head or set(head_names(classifier, image))
    chosen = last.union(*(matching(classifier, image, pattern, names, last) for pattern in unfreeze))
    kept = set[str]().union(*(matching(classifier, image, pattern, names, last) for pattern in freeze))
    chosen -= kept
    if not chosen:
        raise UsageError(f"{', '.join(freeze) or 'that'} freezes all of the network: nothing is left to learn")
    return chosen, list(unfreeze)


def matching(
    classifier: Classifier, image: Tensor, pattern: str, names: Sequence[str], head: set[str] | None = None
) -> set[str]:
    """The parameters that a pattern names; one that names none is an error."""
    if pattern == "@head":
        return set(head) if head is not None else set(head_names(classifier, image))
    if pattern.startswith("@"):
        return _of_stage(classifier, image, pattern)
    found = {name for name in names if any(fnmatchcase(part, pattern) for part in _above(name))}
    if not found:
        layers = [
            name
            for name, module in classifier.network.named_modules()
            if name and any(True for _ in module.parameters())
        ]
        raise unknown("layer with parameters", pattern, layers, "convscope layers lists them")
    return found


def _above(name: str) -> Iterator[str]:
    """A parameter's name and the paths of the modules that hold it."""
    parts = name.split(".")
    return (".".join(parts[: i + 1]) for i in range(len(parts)))


def head_names(classifier: Classifier, image: Tensor) -> list[str]:
    """The parameters of the layer that runs last."""
    ran = _owners(trace(classifier.network, image, through=classifier), classifier.network)
    if not ran:
        raise UsageError(f"{classifier.name} has no layer with parameters that runs as a module")
    return _own(classifier.network, ran[-1][0])


def _of_stage(classifier: Classifier, image: Tensor, pattern: str) -> set[str]:
    network = classifier.network
    wanted = resolve(network, pattern, image, through=classifier)
    stages = [address.key for address in resolve(network, "@stages", image, through=classifier)]
    taken = trace(network, image, through=classifier)
    found: set[str] = set()
    for address in wanted:
        here = stages.index(address.key) if address.key in stages else len(stages) - 1
        first = _done(taken, stages[here - 1]) if here else 0
        last = _done(taken, stages[here])
        for path, done in _owners(taken, network):
            if first < done <= last:
                found.update(_own(network, path))
    if not found:
        raise UsageError(f"{pattern}: there are no parameters in that stage")
    return found


def _done(taken: Trace, key: str) -> int:
    event = taken.event(key)
    return event.done if event is not None else 0


def _owners(taken: Trace, network: nn.Module) -> list[tuple[str, int]]:
    """Modules with parameters of their own that ran, and how many operations were done by then."""
    return [
        (event.address.path, event.done)
        for event in taken.events
        if not event.address.function and network.get_submodule(event.address.path)._parameters
    ]


def _own(network: nn.Module, path: str) -> list[str]:
    own = network.get_submodule(path)._parameters
    return [f"{path}.{name}" if path else name for name, value in own.items() if value is not None]


def set_modes(network: nn.Module, chosen: set[str]) -> None:
    """Training mode where something learns. What is frozen works as in use: its BatchNorm keeps its statistics, its
    dropout is off; a module without parameters follows the nearest one around it that has some."""
    trained = {path for name in chosen for path in _above(name)} | {""}
    holding = {name for name, module in network.named_modules() if any(True for _ in module.parameters())}
    for path, module in network.named_modules():
        owner = path
        while owner and owner not in holding:
            owner = owner.rpartition(".")[0]
        module.training = owner in trained


def freeze_others(network: nn.Module, chosen: set[str]) -> None:
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in chosen)


def set_dropout(network: nn.Module, share: float) -> None:
    """Change every dropout of a network to drop this share."""
    found = 0
    for module in network.modules():
        if isinstance(module, DROPOUTS):
            module.p = share
            found += 1
        elif isinstance(getattr(module, "drop_rate", None), (int, float)):  # timm's networks call the function
            module.drop_rate = share  # type: ignore[assignment]
            found += 1
    if not found:
        raise UsageError(f"{type(network).__name__} has no dropout whose share could be set")
