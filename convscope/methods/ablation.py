"""Ablation-CAM."""

from __future__ import annotations

from torch import Tensor

from convscope.instrument.address import Address
from convscope.instrument.forward import mapped
from convscope.instrument.perturb import BUDGET_HELP, BUDGET_MIB, Watched
from convscope.instrument.record import record
from convscope.instrument.regions import changed_readings
from convscope.instrument.target import Target
from convscope.instrument.trace import trace
from convscope.methods._cam import LAYER_HELP, cam_layer, to_canvas
from convscope.methods._one_by_one import Found, one_by_one
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images, OneImage, Scores, VariantScores


@register("ablation", "map", "positive", costly=True)
class Ablation:
    """Ablation-CAM: a layer's maps, each weighed with the share of the score lost without it (Desai & Ramaswamy 2020).

    The weight of map k is (y - y_k) / y, with y_k the score when map k is set to zero (WACV 2020); the weighted sum is
    rectified. ``raw`` "b h w", at least 0. No gradient is used; what follows the layer runs once a channel. Where y is
    negative every weight turns round, and the map shows what speaks against the target; a note says so.
    """

    layer: str = setting(default="@last_conv", help=LAYER_HELP)
    budget: float = setting(default=BUDGET_MIB, help=BUDGET_HELP)
    chunk: int | None = setting(default=None, help="maps ablated in one pass; none: as the budget allows")

    def run(self, classifier: Classifier, images: Images, target: Target) -> Explanation:
        layer, notes = cam_layer(classifier, images, self.layer)

        def explain_one(image: OneImage, target: Target) -> Found:
            maps, score, settled = mapped(classifier, image, layer, target)
            weights = (score - self._ablated(classifier, image, layer, maps[0], settled, score)) / score
            return to_canvas((maps * weights[:, None, None]).sum(1).relu(), image), score, settled

        raw, scores, settled = one_by_one(images, target, explain_one)
        if bool((scores < 0).any()):
            notes += ("where the score is negative, the map shows what speaks against the target",)
        return explain(self, classifier, images, settled, raw, scores, layer=layer.key, notes=notes)

    def _ablated(
        self, classifier: Classifier, image: OneImage, layer: Address, maps: Tensor, target: Target, score: Scores
    ) -> VariantScores:
        """The score without each of the maps "k fh fw". A map that is zero already is not tried."""
        alive = maps.flatten(1).any(1).nonzero().flatten().tolist()
        scores = score.repeat(len(maps))
        event = trace(classifier.network, image, through=classifier).event(layer.key)
        start = event.value if event is not None else None
        assert start is not None, "a layer that ran just now is in the trace"

        def without(rows: slice) -> Tensor:
            count = rows.stop - rows.start
            several = maps.repeat(count, 1, 1, 1)
            several[range(count), alive[rows]] = 0
            return several

        def full(rows: slice) -> list[Tensor]:
            with record(classifier.network, [layer], replace=lambda _: without(rows)):
                outputs = target.outputs(classifier, image.repeat(rows.stop - rows.start, 1, 1, 1))
            return [outputs]

        if alive:
            (scores[alive],) = changed_readings(
                classifier,
                image,
                [Watched(target)],
                len(alive),
                start,
                without,
                full,
                budget=self.budget,
                chunk=self.chunk,
                label="ablation",
            )
        return scores
