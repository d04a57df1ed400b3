"""The layers that a study looks at, as a user names them, and what they put out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeAlias

import torch
from pydantic import BeforeValidator
from torch import Tensor

from convscope.errors import UsageError
from convscope.instrument.address import Address, listed_layers
from convscope.instrument.batches import parts
from convscope.instrument.layers import resolve
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.models.classifier import Classifier
from convscope.types import Images

DRAWN = 6  # layers in a figure, at most
WORDS = {"first": "@first", "last": "@penultimate"}  # the paper's layers 1 and 7


def _listed(value: Any) -> Any:
    return tuple(listed_layers(value)) if isinstance(value, str) else value


Layers: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_listed)]
LAYERS_HELP = "layers, globs or aliases, with commas; first and last are the first convolution and what enters the last"


def layers_meant(classifier: Classifier, words: Sequence[str], images: Images) -> list[Address]:
    """The layers that words mean, each once, in the order they were named."""
    found: dict[str, Address] = {}
    for word in words:
        name = WORDS.get(word, word)
        for address in resolve(classifier.network, name, images[:1], through=classifier):
            if address.units is not None:
                raise UsageError(f"{word}: whole layers are compared here: name the layer alone")
            found.setdefault(address.key, address)
    if not found:
        raise UsageError("no layer is named")
    return list(found.values())


def drawn_of(layers: Sequence[str], most: int = DRAWN) -> list[str]:
    """Those that a figure has room for: of many some, evenly over the depth, the first and the last with them."""
    if len(layers) <= most:
        return list(layers)
    return [layers[round(place * (len(layers) - 1) / (most - 1))] for place in range(most)]


def on_layers(count: int) -> str:
    """What a caption says of layers that are not drawn."""
    return "" if count <= DRAWN else f" {DRAWN} of {count} layers are drawn; the tables have all."


def outputs_of(
    classifier: Classifier,
    images: Images,
    layers: Sequence[Address],
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """What layers put out, flattened to "b numbers" each, and the logits.

    ``reduce``: "b ..." numbers that are taken of the outputs instead, which are let go.
    """
    kept: dict[str, list[Tensor]] = {layer.key: [] for layer in layers}
    logits = []
    with undisturbed(classifier, grad=False), record(classifier.network, layers, reduce=reduce) as found:
        for rows in parts(len(images)):
            logits.append(classifier(images[rows]))
            for layer in layers:
                kept[layer.key].append(found[layer].flatten(1))
    return {name: torch.cat(pieces) for name, pieces in kept.items()}, torch.cat(logits)
