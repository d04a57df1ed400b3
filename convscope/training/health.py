"""Are all layers alive? A network that has not converged shows black maps: its units are zero, whatever they see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from convscope.instrument.batches import parts
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.trace import trace
from convscope.models.classifier import Classifier
from convscope.types import Images

RECTIFIERS = ("relu", "relu_", "relu6", "hardtanh", "hardtanh_", "threshold", "threshold_", "clamp", "clamp_")


@dataclass(frozen=True)
class LayerHealth:
    """A rectified layer: how many of its units are zero at every place of every photo."""

    layer: str
    dead: int
    units: int

    @property
    def is_dead(self) -> bool:
        return self.dead == self.units


def health(classifier: Classifier, images: Images) -> list[LayerHealth]:
    """Each rectified layer's dead units on these photos, in order of execution."""
    taken = trace(classifier.network, images[:1], through=classifier)
    layers: dict[str, int] = {}  # how many units each has
    seen: set[int] = set()
    for event in taken.events:
        if event.value is None or event.kind.lower() not in RECTIFIERS or len(event.value.shape) < 2:
            continue
        if event.value.index not in seen:
            seen.add(event.value.index)
            layers[event.address.key] = event.value.shape[1]
    if not layers:
        return []
    peaks: dict[str, Tensor] = {}
    with undisturbed(classifier, grad=False), record(classifier.network, list(layers), reduce=_peak) as kept:
        for rows in parts(len(images)):
            classifier(images[rows])
            for key, peak in kept.items():
                if peak.numel() != layers[key]:
                    continue  # of what one photo has with another, or of numbers beside one another: no units
                peaks[key] = peak if key not in peaks else torch.maximum(peaks[key], peak)
    return [LayerHealth(key, int((peak == 0).sum()), peak.numel()) for key, peak in peaks.items()]


def _peak(output: Tensor) -> Tensor:
    """Each unit's largest magnitude: over photos, rows and columns of maps."""
    return output.detach().abs().amax([d for d in range(output.ndim) if d != 1])


def not_learned(found: list[LayerHealth], accuracy: float, commonest: float) -> list[str]:
    """That a network does no better on its own training photos than always answering the commonest class would."""
    if accuracy >= commonest + 0.1 * (1 - commonest):
        return []
    dead = [layer.layer for layer in found if layer.is_dead]
    layers = "its dead layers tell why" if dead else "no layer is dead, so it may need more steps"
    return [
        f"it has not learned yet: {accuracy:.1%} of the training photos are right, and always answering the commonest "
        f"class gives {commonest:.1%}; {layers}. Try more --epochs, another --lr, or a network with BatchNorm"
    ]


def said(found: list[LayerHealth]) -> list[str]:
    """What of it a person should know."""
    dead = [layer.layer for layer in found if layer.is_dead]
    if dead:
        more = f" and {len(dead) - 6} more" if len(dead) > 6 else ""
        return [
            f"{len(dead)} of {len(found)} layers are dead, zero on every photo: {', '.join(dead[:6])}{more}. Nothing "
            "can be learned through them: try a lower --lr, another --seed, or a network with BatchNorm"
        ]
    weak = [layer for layer in found if layer.dead > layer.units / 2]
    return [f"{layer.layer}: {layer.dead} of {layer.units} units are dead, zero on every photo" for layer in weak[:6]]
