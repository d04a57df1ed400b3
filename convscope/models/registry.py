"""Model specifiers: one string names any model. Each source registers its prefix; there is no other list.

    timm:NAME  torchvision:NAME[@WEIGHTS]  hf-hub:ORG/NAME  convscope:NAME  run:DIR  file.py:Factory  pkg.mod:factory
    without:LAYER,LAYER:MODEL

``@random`` after a name asks for an untrained network; without it a model has its trained weights or loading fails.
"""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from convscope.errors import UsageError, unknown
from convscope.images.frame import Framing, canvas_of
from convscope.models.checkpoint import load_state, read_state
from convscope.models.classes import Classes, as_classes
from convscope.models.classifier import Classifier, PerChannel

TRAINED, RANDOM = "trained", "random"
WITHOUT = "without"  # a source of its own: another model's network, layers of which do nothing


@dataclass(frozen=True)
class Request:
    """What a source is asked for.

    ``weights``: "trained", "random", or the name of an entry. ``size``: the canvas wanted. ``bare``: weights are not to
    be loaded, because others will be or because they do not matter.
    """

    name: str
    weights: str = TRAINED
    options: Mapping[str, Any] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    bare: bool = False

    @property
    def trained(self) -> bool:
        return self.weights != RANDOM and not self.bare

    def build(self, factory: Callable[..., Any], **fixed: Any) -> Any:
        """Call a factory with the options; options that it does not take are the user's to mend.

        ``fixed``: what the source itself passes. Any other error is the factory's own and passes through.
        """
        named = self._check(factory, fixed)
        try:
            return factory(**fixed, **self.options)
        except TypeError as error:
            # A factory with **options hands them on: what the one below does not take was asked for by the user.
            refused = re.search(r"unexpected keyword argument '(\w+)'", str(error))
            if refused and refused[1] in self.options.keys() - named:
                raise UsageError(f"{self.name}: it takes no option {refused[1]!r}") from None
            raise

    def _check(self, factory: Callable[..., Any], fixed: Mapping[str, Any]) -> set[str]:
        """The options that a factory names. The user's are held against them, unless it takes any."""
        try:
            parameters = inspect.signature(factory).parameters.values()
        except (TypeError, ValueError):  # a callable written in C may not say
            return set()
        by_name = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in fixed]
        passes_on = any(p.kind is p.VAR_KEYWORD for p in parameters)
        for option in self.options:
            if option in fixed or not (passes_on or any(p.name == option for p in by_name)):
                raise unknown("option", option, [p.name for p in by_name], f"of {self.name}")
        missing = [p.name for p in by_name if p.default is p.empty and p.name not in self.options]
        if missing:
            raise UsageError(f"{self.name} needs the option{'s' * (len(missing) > 1)} {', '.join(missing)}")
        return {p.name for p in by_name}


@dataclass(frozen=True)
class Found:
    """What a source gives: a network and how it wants its pixels."""

    network: nn.Module
    classes: Classes | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    framing: Framing = field(default_factory=Framing)
    channels: int | None = None
    background: str = "white"


SOURCES: dict[str, Callable[[Request], Found]] = {}


def source(prefix: str) -> Callable[[Callable[[Request], Found]], Callable[[Request], Found]]:
    """Register what loads ``prefix:...``."""

    def register(function: Callable[[Request], Found]) -> Callable[[Request], Found]:
        SOURCES[prefix] = function
        return function

    return register


def parse(spec: str) -> tuple[str, str, str]:
    """A specifier -> prefix, name, weights."""
    import convscope.models.removal
    import convscope.models.sources  # noqa: F401  (registers them)

    if Path(spec, "config.yaml").is_file():  # a run's folder, without the prefix
        return "run", spec, TRAINED
    if spec.startswith(f"{WITHOUT}:"):
        layers, inner = parse_without(spec)
        below, name, weights = parse(inner)
        return WITHOUT, f"{layers}:{name if below in ('file', 'module') else f'{below}:{name}'}", weights
    if re.match(r".+\.py:\w", spec):
        file, _, name = spec.rpartition(":")
        prefix, start = "file", f"{file}:"
    else:
        prefix, _, name = spec.partition(":")
        start = ""
    if not name and "/" in spec and not spec.endswith(".py"):
        near = difflib.get_close_matches(Path(spec).name, _runs_beside(Path(spec)), n=3)
        nearest = f"; nearest: {', '.join(str(Path(spec).parent / one) for one in near)}" if near else ""
        raise UsageError(f"model {spec!r}: there is no such run folder{nearest}")
    if not name or not prefix:
        hint = "write SOURCE:NAME, such as convscope:efficientnet_lite0, torchvision:vgg16, net.py:Net or run:FOLDER"
        raise UsageError(f"model {spec!r} does not say where it comes from: {hint}")
    if prefix == "run":
        return prefix, name, TRAINED
    name, at, weights = name.partition("@")
    if not name or (at and not weights):
        raise UsageError(f"model {spec!r}: write NAME, NAME@WEIGHTS or NAME@random")
    if prefix not in SOURCES and re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", prefix) and name.isidentifier():
        prefix, start = "module", f"{prefix}:"
    if prefix not in SOURCES:
        raise unknown("model source", prefix, SOURCES)
    return prefix, start + name, weights or TRAINED


def parse_without(spec: str) -> tuple[str, str]:
    """Of ``without:LAYER,LAYER:MODEL`` the layers and the model."""
    layers, _, inner = spec.removeprefix(f"{WITHOUT}:").partition(":")
    if not layers or not inner:
        raise UsageError(f"model {spec!r}: write {WITHOUT}:LAYER,LAYER:MODEL")
    return layers, inner


def lasting(source: str) -> str:
    """A path that holds from any folder; what is no path, such as a set's name, stays."""
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def lasting_spec(spec: str) -> str:
    """A specifier that holds from any folder: the path of a file or a run is made absolute."""
    prefix, name, _ = parse(spec)
    if prefix == "run":
        return f"run:{lasting(name)}"
    if prefix == WITHOUT:
        layers, inner = parse_without(spec)
        return f"{WITHOUT}:{layers}:{lasting_spec(inner)}"
    if prefix != "file":
        return spec
    file, _, factory = name.rpartition(":")
    return f"{os.path.abspath(os.path.expanduser(file))}:{factory}"


def plain_loading(spec: str, **asked: Any) -> dict[str, Any] | None:
    """What ``load_classifier`` was asked for, in plain types and with paths that hold from any folder; None where that
    cannot be written down."""
    found: dict[str, Any] = {"spec": lasting_spec(spec)}
    for name, value in asked.items():
        if value is None or value == {}:
            continue
        if name in ("weights", "classes") and isinstance(value, (str, Path)):
            value = lasting(str(value))
        elif name in ("mean", "std") and not isinstance(value, (int, float)):
            value = np.asarray(value).tolist()
        found[name] = value
    try:
        return dict(json.loads(json.dumps(found)))
    except (TypeError, ValueError):
        return None


def _runs_beside(path: Path) -> list[str]:
    """The names of runs where one was looked for."""
    return [found.parent.name for found in path.parent.glob("*/config.yaml")]


def load_classifier(
    spec: str,
    *,
    weights: str | Path | None = None,
    classes: Classes | str | Path | Sequence[str] | None = None,
    mean: PerChannel | None = None,
    std: PerChannel | None = None,
    size: int | tuple[int, int] | None = None,
    options: Mapping[str, Any] | None = None,
    structure_only: bool = False,
) -> Classifier:
    """A Classifier from a specifier.

    ``weights``: a checkpoint file to load into it. ``classes``: names, or a file of them. ``mean``, ``std``, ``size``:
    override what the source says; a network of the zoo that flattens is built for ``size``. ``options``: passed to the
    architecture or factory. ``structure_only``: the weights do not matter (a table of layers), so none are fetched.
    """
    prefix, name, wanted = parse(spec)
    if weights is not None and wanted not in (TRAINED, RANDOM):
        raise UsageError(f"{spec} names weights and --weights names others: give one of them")
    state = read_state(weights) if weights is not None else None
    named = as_classes(classes)
    canvas = canvas_of(size) if size is not None else None
    bare = weights is not None or structure_only
    found = SOURCES[prefix](Request(name, wanted, dict(options or {}), canvas, bare))
    if state is not None:
        load_state(found.network, state, str(weights))
    return Classifier(
        found.network.eval(),
        named or found.classes,
        mean=mean if mean is not None else found.mean,
        std=std if std is not None else found.std,
        framing=resized(found.framing, canvas) if canvas is not None else found.framing,
        channels=found.channels,
        background=found.background,
        name=spec,
    )


def resized(framing: Framing, size: int | tuple[int, int]) -> Framing:
    """The same policy at another canvas: the share of the photo that is cut away stays as it is.

    Where there was no canvas yet, the photo is made to cover it and its centre is cut out, as ``Scope`` does.
    """
    canvas = canvas_of(size)
    if framing.size is None:
        return replace(framing, size=canvas, short=min(canvas))
    if framing.short is None:
        return replace(framing, size=canvas)
    return replace(framing, size=canvas, short=round(framing.short * min(canvas) / min(framing.size)))
