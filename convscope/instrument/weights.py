"""What a network is, as a key: any change of its weights is another, and any that shows in what it answers."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from convscope.data.cache import key_of
from convscope.instrument.address import LOGITS
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.models.classifier import Classifier
from convscope.types import OneImage


def weights_key(network: nn.Module, without: Collection[Tensor] = ()) -> str:
    """The digest of all weights and buffers with their names, less those of ``without``."""
    left_out = {id(t) for t in without}
    every = {name: t for name, t in network.state_dict(keep_vars=True).items() if id(t) not in left_out}
    state = {name: t for name, t in every.items() if isinstance(t, Tensor)}  # extra state may be anything
    return key_of(*(part for n, t in state.items() for part in (n, tuple(t.shape), str(t.dtype), raw_bytes(t))))


def answers(classifier: Classifier, layers: Collection[str], image: OneImage) -> tuple[str, ...]:
    """What layers make of an image, in short: of a network more can change than its weights, such as its code."""
    named = [layer for layer in layers if layer != LOGITS]
    found: list[Tensor] = []
    with undisturbed(classifier, grad=False):
        if named:
            with record(classifier.network, named, stop=True) as kept:
                classifier(image)
            found += [kept[layer] for layer in named]
        if len(named) < len(layers):
            found.append(classifier(image))
    return tuple(f"{float(one.double().abs().mean()):.2e} {float(one.double().std()):.2e}" for one in found)


def raw_bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
