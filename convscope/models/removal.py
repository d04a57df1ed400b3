"""``without:LAYER,LAYER:MODEL``: another model's network in which layers do nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from convscope.errors import ModelError, UsageError, first_line, unknown
from convscope.models.classifier import Classifier
from convscope.models.copying import copied
from convscope.models.registry import SOURCES, WITHOUT, Found, Request, parse, parse_without, source


@source(WITHOUT)
def from_another(request: Request) -> Found:
    """A model without some of its layers, each of which has to keep the shape of what it is given."""
    layers, inner = parse_without(request.name)
    prefix, name, _ = parse(inner)
    found = SOURCES[prefix](replace(request, name=name))
    network = copied(found.network)  # a user's Python may hand out a module that is hers
    framing, size = found.framing, request.size or found.framing.size
    seen = Classifier(network, mean=found.mean, std=found.std, framing=framing, channels=found.channels)
    remove(network, [layer.strip() for layer in layers.split(",")], seen, seen.blank(size))
    return replace(found, network=network)


def remove(network: nn.Module, layers: Sequence[str], through: nn.Module, image: Tensor) -> None:
    """Let modules of a network hand on what they are given, under every name that they have.

    ``through``: what is called with ``image`` for the network to run. UsageError for a layer that is not there, does
    not run, or gives another shape than it takes.
    """
    named = dict(network.named_modules(remove_duplicate=False))
    del named[""]
    for layer in layers:
        if layer not in named:
            raise unknown("layer", layer, named, "`convscope layers MODEL` lists them")
    changes = _changes(network, {layer: named[layer] for layer in layers}, through, image)
    for layer in layers:
        if layer not in changes:
            raise UsageError(f"layer {layer} does not run, so it cannot be left out")
        if changes[layer]:
            raise UsageError(f"layer {layer} cannot be left out: {changes[layer]}; name one that keeps the shape")
    gone = {id(named[layer]) for layer in layers}
    for path in [path for path, module in named.items() if id(module) in gone]:
        above, _, name = path.rpartition(".")
        setattr(network.get_submodule(above), name, nn.Identity())


def _changes(network: nn.Module, watched: dict[str, nn.Module], through: nn.Module, image: Tensor) -> dict[str, str]:
    """What each module that ran makes of the shape it is given, in words; empty where it keeps it."""
    found: dict[str, str] = {}
    modes = [(module, module.training) for module in network.modules()]

    def watch(layer: str) -> Any:
        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            told = ""
            if len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(output, Tensor):
                told = "it does not make one tensor of one"
            elif args[0].shape != output.shape:
                told = f"it makes {_by(output)} of {_by(args[0])}"
            found[layer] = found.get(layer) or told

        return after

    handles = [module.register_forward_hook(watch(layer)) for layer, module in watched.items()]
    try:
        network.eval()
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            through(image)
    except RuntimeError as error:
        name, why = type(network).__name__, first_line(error)
        raise ModelError(f"{name} fails on an input of {_by(image)} ({why})") from error
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return found


def _by(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape[1:]))
