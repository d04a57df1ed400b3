"""Where models come from: one function a source, each registered under its prefix."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from types import ModuleType
from typing import Any

import torch
from torch import nn

from convscope.errors import ConvscopeError, ModelError, UsageError, unknown
from convscope.images.frame import Framing, canvas_of
from convscope.models.checkpoint import load_state, read_state
from convscope.models.classes import Classes, as_classes, imagenet
from convscope.models.classifier import unwrapped
from convscope.models.fetch import UNREADABLE, fetching, hub_cache, one_line, silence, without_them
from convscope.models.registry import RANDOM, TRAINED, Found, Request, resized, source
from convscope.models.run import read_run
from convscope.models.zoo import ARCHITECTURES


@source("convscope")
def from_zoo(request: Request) -> Found:
    """An architecture of convscope's own zoo, built for the canvas that is asked for."""
    if request.name not in ARCHITECTURES:
        raise unknown("architecture", request.name, ARCHITECTURES)
    entry = ARCHITECTURES[request.name]
    what = f"convscope:{request.name}"
    if request.weights not in (TRAINED, RANDOM):
        raise unknown(f"weights of {what}", request.weights, [RANDOM])
    if request.trained and entry.pretrained is None:
        train = f"train it, convscope train PHOTOS --model {what}"
        raise ModelError(f"{what} comes without trained weights: {train}; {without_them(what)}")
    framing = Framing(canvas_of(entry.size), None, entry.interpolation)
    if entry.crop is not None:
        framing = replace(framing, short=math.floor(min(canvas_of(entry.size)) / entry.crop))
    options = dict(request.options)
    if "size" in inspect.signature(entry.build).parameters:  # a network that flattens is made for one canvas
        options["size"] = request.size or canvas_of(options.get("size", entry.size))
        framing = resized(framing, options["size"])
    names = imagenet() if entry.class_names == "imagenet" else None
    if names is not None:
        _keep_head(request, what, len(names))
    network = replace(request, options=options).build(entry.build)
    if request.trained and entry.pretrained is not None:
        load_state(network, entry.pretrained(), f"of {what}")
    classes = names if names is not None and options.get("num_classes", len(names)) == len(names) else None
    return Found(network, classes, entry.mean, entry.std, framing, entry.channels)


def _keep_head(request: Request, what: str, classes: int | None) -> None:
    """Refuse another number of classes than the trained weights have: the last layer would silently be untrained."""
    wanted = request.options.get("num_classes", classes)
    if request.trained and classes is not None and wanted != classes:
        raise UsageError(
            f"{what} has trained weights for {classes} classes, not for num_classes={wanted}: {without_them(what)}"
        )


@source("torchvision")
def from_torchvision(request: Request) -> Found:
    """A torchvision classifier, ``torchvision:NAME`` (default weights) or ``torchvision:NAME@WEIGHTS``."""
    from torchvision import models

    known = [name for name in models.list_models() if "/" not in name and not name.startswith("quantized_")]
    known = [name for name in known if models.get_model_builder(name).__module__.count(".") == 2]  # classifiers only
    if request.name not in known:
        raise unknown("torchvision model", request.name, known)
    what = f"torchvision:{request.name}"
    enum = models.get_model_weights(request.name)
    if request.weights in (TRAINED, RANDOM):
        entry = enum.DEFAULT
    elif request.weights in enum.__members__:
        entry = enum[request.weights]
    else:
        raise unknown(f"weights of {what}", request.weights, [*enum.__members__, RANDOM])
    count = len(entry.meta["categories"])
    _keep_head(request, what, count)
    builder = models.get_model_builder(request.name)
    network: Any
    if not request.trained:
        network = _built(request, builder, weights=None, **_as_trained(request))
    else:
        file = Path(torch.hub.get_dir(), "checkpoints", Path(entry.url).name)
        with fetching(what, f"put {file.name} into {file.parent}, or {without_them(what)}"):
            if not file.exists():
                if reason := silence(entry.url):
                    raise ConnectionError(reason)
                entry.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
            read_state(file)  # torchvision will read it too, but it would run what is in a pickle
            network = _built(request, builder, weights=entry)
    preset = entry.transforms()
    framing = Framing(tuple(preset.crop_size * 2)[:2], preset.resize_size[0], preset.interpolation.value)
    classes = imagenet() if request.options.get("num_classes", count) == len(imagenet()) else None
    mean, std = preset.mean, preset.std
    if getattr(network, "transform_input", False):
        # googlenet and inception_v3 undo this normalisation and do another, channel by channel. Both at once are one of
        # mean and std 0.5, without the slicing, which nothing that reads a trace could follow.
        network.transform_input = False
        mean = std = [0.5] * 3
    return Found(network, classes, mean, std, framing, 3)


def _as_trained(request: Request) -> dict[str, Any]:
    """What torchvision sets with the weights of these two, so that without them the network is the same one."""
    if request.name not in ("googlenet", "inception_v3"):
        return {}
    set_with_weights = {"transform_input": True, "init_weights": False, "aux_logits": request.name == "inception_v3"}
    return {key: value for key, value in set_with_weights.items() if key not in request.options}


@source("timm")
def from_timm(request: Request) -> Found:
    """A timm model, ``timm:NAME`` or ``timm:NAME.TAG``."""
    import timm

    if request.weights not in (TRAINED, RANDOM):
        raise UsageError(f"timm:{request.name}@{request.weights}: timm names weights with a dot, timm:NAME.TAG")
    name, _, tag = request.name.partition(".")
    if not timm.is_model(name):
        raise unknown("timm model", name, timm.list_models())
    tagged = timm.list_pretrained(name + ".*")
    if tag and request.name not in tagged:
        raise unknown("timm weights", request.name, tagged)
    if request.trained and not timm.models.is_model_pretrained(name):
        raise ModelError(f"timm:{name} comes without trained weights: {without_them(f'timm:{name}')}")
    config = timm.get_pretrained_cfg(request.name)
    place, classes = (config.hf_hub_id, config.num_classes) if config is not None else (None, None)
    return _timm(request, f"timm:{request.name}", request.name, place, classes)


@source("hf-hub")
def from_hub(request: Request) -> Found:
    """A timm model on the Hugging Face hub, ``hf-hub:ORG/NAME`` or ``hf-hub:ORG/NAME@REVISION``."""
    import timm

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", request.name):
        raise UsageError(f"hf-hub:{request.name}: write hf-hub:ORG/NAME")
    place = request.name if request.weights in (TRAINED, RANDOM) else f"{request.name}@{request.weights}"
    what = f"hf-hub:{place}"
    with fetching(what, _to_cache(request.name)), hub_cache():
        try:
            config, name, _ = timm.models.load_model_config_from_hf(place)
        except (KeyError, TypeError, AttributeError, ValueError):
            name = None
    if name is None or not timm.is_model(name):
        raise ModelError(f"{what} is not a timm model: its config.json names no architecture that timm knows")
    return _timm(request, what, what, request.name, config.get("num_classes"))


def _to_cache(place: str | None) -> str:
    if place is None:
        return "put its file into torch.hub's folder"
    return f"copy {place} into the cache of Hugging Face (`hf download {place}` fills it)"


def _timm(request: Request, what: str, name: str, place: str | None, trained_classes: int | None) -> Found:
    import timm

    _keep_head(request, what, trained_classes)
    fetched = request.trained or name.startswith("hf-hub:")  # whose architecture is on the hub too
    on_hub = hub_cache() if fetched and place else nullcontext()
    with fetching(what, f"{_to_cache(place)}, or {without_them(what)}") if fetched else nullcontext(), on_hub:
        network = _built(request, partial(timm.create_model, name), pretrained=request.trained)
    config = timm.data.resolve_model_data_config(network)
    mean, std, channels = config["mean"], config["std"], request.options.get("in_chans", config["input_size"][0])
    if len(mean) != channels:  # timm sums the first layer's weights over the colours
        mean, std = [fmean(mean)], [fmean(std)]
    return Found(network, _timm_classes(network), mean, std, timm_framing(config), channels)


def timm_framing(config: Mapping[str, Any]) -> Framing:
    """How timm brings a photo to a network, by its data config."""
    size = tuple(config["input_size"][1:])
    if config["crop_mode"] not in ("center", "squash") or config["crop_pct"] > 1:
        raise ModelError("timm puts a border round photos for this model, which is not supported")
    squash = config["crop_mode"] == "squash"
    return Framing(size, math.floor(min(size) / config["crop_pct"]), config["interpolation"], squash)


def _timm_classes(network: Any) -> Classes | None:
    """The names that the model's author gave, or those of the subset of ImageNet that has so many classes."""
    from timm.data import infer_imagenet_subset

    labels = as_classes(network.pretrained_cfg.get("label_names") or None)
    if labels is not None and len(labels) == network.num_classes:
        described = network.pretrained_cfg.get("label_descriptions")
        if not isinstance(described, Mapping):
            return labels
        return Classes(tuple(described.get(label, label) for label in labels.names), labels.names)
    subset = infer_imagenet_subset(network)
    return imagenet(subset) if subset else None


def _built(request: Request, factory: Callable[..., nn.Module], **fixed: Any) -> nn.Module:
    """A library's network. What the library says against the user's options is passed on as one line."""
    try:
        return request.build(factory, **fixed)
    except (ConvscopeError, *UNREADABLE):
        raise
    except Exception as error:  # libraries refuse options in every way there is
        if not request.options:
            raise
        given = ", ".join(f"{name}={value!r}" for name, value in request.options.items())
        raise UsageError(f"{request.name} cannot be had with {given}: {one_line(error)}") from error


@source("run")
def from_run(request: Request) -> Found:
    """A run folder that convscope wrote."""
    if request.options:
        raise UsageError(f"run:{request.name} has its options in config.yaml: give it no {', '.join(request.options)}")
    folder = Path(request.name).expanduser()
    if not folder.is_dir():
        raise UsageError(f"run:{folder}: no such folder; convscope train PHOTOS makes runs, runs/last is the last")
    return read_run(folder, request.size)


@source("file")
def from_file(request: Request) -> Found:
    """A user's own module: ``file.py:Factory``, a class, function or ready module in a Python file."""
    file, _, factory = request.name.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UsageError(f"model {request.name}: no such file {file}")
    with _path_first(path.resolve().parent):
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
    if request.weights not in (TRAINED, RANDOM):
        raise UsageError(
            f"model {request.name}@{request.weights}: Python code has no weights by name, pass --weights FILE"
        )
    if not hasattr(module, factory):
        raise unknown(f"name in {request.name.rpartition(':')[0]}", factory, _factories(module))
    made = getattr(module, factory)
    if isinstance(made, nn.Module) and request.options:
        raise UsageError(f"model {request.name} is a ready module: it takes no options ({', '.join(request.options)})")
    network = request.build(made) if callable(made) and not isinstance(made, nn.Module) else made
    if not isinstance(network, nn.Module):
        raise UsageError(f"model {request.name} gave {type(network).__name__}, not a torch.nn.Module")
    return Found(unwrapped(network))


def _factories(module: ModuleType) -> list[str]:
    """What a module defines that could be meant."""
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return [
        name
        for name, value in own.items()
        if isinstance(value, nn.Module) or (callable(value) and getattr(value, "__module__", "") == module.__name__)
    ]


def _import_file(path: Path) -> ModuleType:
    # A name of its own, kept: code that looks itself up later finds itself, and no other module is hidden.
    name = f"{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"model {path}: cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, SyntaxError):
            raise UsageError(f"{error.filename}: line {error.lineno} is not Python ({error.msg})") from None
        raise
    return module


@contextmanager
def _path_first(folder: Path) -> Iterator[None]:
    """Let a user's code import its neighbours, for as long as its network is being made."""
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before
