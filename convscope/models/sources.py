"""Where models come from: one function a source, each registered under its prefix."""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from convscope.errors import ConvscopeError, ModelError, UsageError, unknown
from convscope.images.frame import Framing
from convscope.models.checkpoint import load_state
from convscope.models.classes import Classes, imagenet
from convscope.models.registry import RANDOM, TRAINED, Found, Request, source
from convscope.models.run import read_run
from convscope.models.zoo import ARCHITECTURES

IMAGENET_CLASSES = 1000


@source("convscope")
def from_zoo(request: Request) -> Found:
    """An architecture of convscope's own zoo."""
    if request.name not in ARCHITECTURES:
        raise unknown("architecture", request.name, ARCHITECTURES)
    entry = ARCHITECTURES[request.name]
    if request.weights == TRAINED and entry.pretrained is None:
        raise ModelError(
            f"convscope:{request.name} comes without trained weights: pass --weights FILE, train it, or write "
            f"convscope:{request.name}@random to look at the untrained network"
        )
    network = request.build(entry.build)
    classes = imagenet() if entry.class_names == "imagenet" and "num_classes" not in request.options else None
    if request.weights == TRAINED and entry.pretrained is not None:
        load_state(network, entry.pretrained(), f"of convscope:{request.name}")
    size = entry.size if isinstance(entry.size, tuple) else (entry.size, entry.size)
    short = None if entry.crop is None else math.floor(min(size) / entry.crop)
    framing = Framing(size, short, entry.interpolation)
    return Found(network, classes, entry.mean, entry.std, framing, entry.channels)


@source("torchvision")
def from_torchvision(request: Request) -> Found:
    """A torchvision classifier, ``torchvision:NAME`` (default weights) or ``torchvision:NAME@WEIGHTS``."""
    from torchvision import models

    known = [name for name in models.list_models() if "/" not in name and not name.startswith("quantized_")]
    known = [name for name in known if models.get_model_builder(name).__module__.count(".") == 2]  # classifiers only
    if request.name not in known:
        raise unknown("torchvision model", request.name, known)
    enum = models.get_model_weights(request.name)
    if request.weights in (TRAINED, RANDOM):
        entry = enum.DEFAULT
    elif request.weights in enum.__members__:
        entry = enum[request.weights]
    else:
        raise unknown(f"weights of torchvision:{request.name}", request.weights, [*enum.__members__, RANDOM])
    weights = None if request.weights == RANDOM else entry
    with _fetching(f"torchvision:{request.name}", f"torchvision's {Path(entry.url).name} into the folder of torch.hub"):
        network = request.build(
            lambda **options: models.get_model(request.name, weights=weights, **_quiet(request.name), **options)
        )
    preset = entry.transforms()
    framing = Framing(tuple(preset.crop_size * 2)[:2], preset.resize_size[0], preset.interpolation.value)
    classes = _names_for(network, tuple(entry.meta["categories"]))
    return Found(network, classes, preset.mean, preset.std, framing, 3)


def _quiet(name: str) -> dict[str, Any]:
    # Without init_weights=False these two warn that their slow initialisation will change.
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


@source("timm")
def from_timm(request: Request) -> Found:
    """A timm model, ``timm:NAME`` or ``timm:NAME.TAG``."""
    import timm

    if request.weights not in (TRAINED, RANDOM):
        raise UsageError(f"timm:{request.name}@{request.weights}: timm names weights with a dot, timm:NAME.TAG")
    if not timm.is_model(request.name):
        raise unknown("timm model", request.name.split(".")[0], timm.list_models())
    if "." in request.name and request.name not in timm.list_pretrained():
        tags = timm.list_pretrained(request.name.split(".")[0] + ".*")
        raise unknown("timm weights", request.name, tags)
    return _timm(request, request.name)


@source("hf-hub")
def from_hub(request: Request) -> Found:
    """A timm model on the Hugging Face hub, ``hf-hub:ORG/NAME``."""
    if request.name.count("/") != 1:
        raise UsageError(f"hf-hub:{request.name}: write hf-hub:ORG/NAME")
    return _timm(request, f"hf-hub:{request.name}")


def _timm(request: Request, name: str) -> Found:
    import timm

    with _fetching(f"timm's {name}" if ":" not in name else name, "the model's file into the Hugging Face cache"):
        pretrained = request.weights != RANDOM
        network = request.build(lambda **options: timm.create_model(name, pretrained=pretrained, **options))
    config = timm.data.resolve_model_data_config(network)
    size = tuple(config["input_size"][1:])
    if config["crop_mode"] == "squash":
        framing = Framing(size, None, config["interpolation"])
    else:
        framing = Framing(size, math.floor(min(size) / config["crop_pct"]), config["interpolation"])
    labels = network.pretrained_cfg.get("label_names")
    classes = _names_for(network, tuple(labels)) if labels else _names_for(network, None)
    return Found(network, classes, config["mean"], config["std"], framing, config["input_size"][0])


def _names_for(network: nn.Module, names: tuple[str, ...] | None) -> Classes | None:
    """ImageNet's classes with their synsets for 1,000 outputs; the source's own names where they are others."""
    heads = [m for m in network.modules() if isinstance(m, nn.Linear)]
    outputs = heads[-1].out_features if heads else IMAGENET_CLASSES
    if outputs == IMAGENET_CLASSES and (names is None or names[0] == "tench"):
        return imagenet()
    return Classes(names) if names is not None and len(names) == outputs else None


@source("run")
def from_run(request: Request) -> Found:
    """A run folder that convscope wrote."""
    folder = Path(request.name)
    if not folder.is_dir():
        raise UsageError(f"run:{folder}: no such folder")
    return read_run(folder)


@source("file")
def from_file(request: Request) -> Found:
    """A user's own module: ``file.py:Factory``, a class, function or ready module in a Python file."""
    file, _, factory = request.name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise UsageError(f"model {request.name}: no such file {file}")
    return _made(request, _import_file(path.resolve()), factory)


@source("module")
def from_module(request: Request) -> Found:
    """A user's own module: ``pkg.mod:factory`` in an importable package."""
    module, _, factory = request.name.partition(":")
    with _path_first(Path.cwd()):
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not (module + ".").startswith(error.name + "."):
                raise
            hint = "; is its name spelt right, or meant as a source such as timm:NAME?"
            raise UsageError(f"model {request.name}: there is no Python module {module!r}{hint}") from None
        return _made(request, found, factory)


def _made(request: Request, module: ModuleType, factory: str) -> Found:
    if not hasattr(module, factory):
        known = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        raise unknown(f"name in {module.__name__}", factory, known)
    made = getattr(module, factory)
    network = made if isinstance(made, nn.Module) else request.build(made)
    if not isinstance(network, nn.Module):
        raise UsageError(f"model {request.name} gave {type(network).__name__}, not a torch.nn.Module")
    return Found(network)


def _import_file(path: Path) -> ModuleType:
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"model {path}: cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    with _path_first(path.parent):
        sys.modules[name] = module  # dataclasses and the like look themselves up while the file runs
        try:
            spec.loader.exec_module(module)
        except SyntaxError as error:
            raise UsageError(f"model {path}: line {error.lineno} is not Python ({error.msg})") from None
        finally:
            if before is None:
                del sys.modules[name]
            else:
                sys.modules[name] = before
    return module


@contextmanager
def _path_first(folder: Path) -> Iterator[None]:
    """Let a user's file import its neighbours, for as long as it is being loaded."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def _fetching(what: str, where: str) -> Iterator[None]:
    """Weights that cannot be fetched are one line with the remedies."""
    try:
        yield
    except ConvscopeError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if isinstance(error, (RuntimeError, ValueError)) and "hash" not in reason and "weights" not in reason:
            raise
        raise ModelError(
            f"the weights of {what} could not be fetched ({reason}). Connect to the internet, or put {where}, "
            "or pass --weights FILE, or add @random to look at the untrained network"
        ) from None
