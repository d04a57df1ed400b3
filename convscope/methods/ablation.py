"""Ablation-CAM."""

from __future__ import annotations

import torch
from torch import Tensor

from convscope.errors import ConvscopeError
from convscope.instrument.address import Address
from convscope.instrument.perturb import variant_scores
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target
from convscope.methods._budget import BUDGET_HELP, BUDGET_MIB
from convscope.methods._cam import LAYER_HELP, cam_layer, to_canvas
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Features, Images


@register("ablation", "map", "positive", costly=True)
class Ablation:
    """Ablation-CAM: a layer's maps, each weighed with the share of the score lost without it (Ramaswamy & Desai 2020).

    The weight of map k is (y - y_k) / y, with y_k the score when map k is set to zero (WACV 2020); the weighted sum is
    rectified. ``raw`` "b h w", at least 0. No gradient is used; one pass a channel through what follows the layer.
    """

    layer: str = setting(default="@last_conv", help=LAYER_HELP)
    budget: float = setting(default=BUDGET_MIB, help=BUDGET_HELP)
    chunk: int | None = setting(default=None, help="maps ablated in one pass; none: as the budget allows")

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        layer = cam_layer(classifier, images, self.layer)
        with undisturbed(classifier, grad=False), record(classifier.network, [layer]) as kept:
            scores, settled = target.score(classifier, images)
        maps = kept[layer]
        weights = torch.stack(
            [
                (scores[i] - self._ablated(classifier, images[i : i + 1], layer, maps[i], settled[i : i + 1]))
                / scores[i]
                for i in range(len(images))
            ]
        )
        raw = to_canvas((maps * weights[:, :, None, None]).sum(1).relu(), images)
        return explain(self, classifier, images, settled, raw, scores, layer=layer.key)

    def _ablated(self, classifier: Classifier, image: Images, layer: Address, maps: Features, target: Target) -> Tensor:
        """The score without each of the maps. A map that is zero already is not tried."""
        alive = maps.flatten(1).any(1).nonzero().flatten().tolist()

        with undisturbed(classifier, grad=False):
            clean = target.score(classifier, image)[0]
        scores = clean.repeat(len(maps))
        if alive:
            found = variant_scores(
                classifier,
                image,
                target,
                len(alive),
                lambda rows: image.repeat(rows.stop - rows.start, 1, 1, 1),
                budget=self.budget,
                chunk=self.chunk,
                label="ablation",
                outputs=lambda batch, rows: _without(classifier, batch, layer, alive[rows], target),
            )
            scores[alive] = found
        return scores


def _without(classifier: Classifier, batch: Images, layer: Address, channels: list[int], target: Target) -> Tensor:
    """Outputs with another channel of the layer set to zero for each image of the batch (all the same image).

    The part before the layer runs once: the one image's maps are repeated at the layer. A network that knows its batch
    size by heart does not take that; then the whole batch runs.
    """

    def ablate(maps: Features) -> Features:
        maps = maps.expand(len(channels), *maps.shape[1:]).clone()
        maps[range(len(channels)), channels] = 0
        return maps

    with record(classifier.network, [layer], replace=ablate):
        branched = _branched(classifier, batch) if target.layer is None else None
        outputs = target.outputs(classifier, batch) if branched is None else branched
    return outputs


def _branched(classifier: Classifier, batch: Images) -> Tensor | None:
    try:
        return classifier.read(classifier.network(classifier.normalise(batch[:1])), len(batch))
    except (RuntimeError, ConvscopeError):
        return None
