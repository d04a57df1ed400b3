"""Sanity checks: which maps do not notice that the network has forgotten everything?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from convscope.errors import UsageError
from convscope.instrument.randomised import HOWS, How, randomised_layers
from convscope.instrument.weighted import WeightedLayer, weighted_layers
from convscope.models.classifier import Classifier
from convscope.progress import track
from convscope.settings import Words, setting
from convscope.studies import sanity_figure, sanity_tables
from convscope.studies.compared import (
    METHODS_HELP,
    USUAL,
    as_maps,
    as_signed_maps,
    attributions,
    methods_meant,
    of_each,
)
from convscope.studies.likeness import Sight, needs_scikit_image
from convscope.studies.registry import register
from convscope.studies.result import Result, result
from convscope.studies.sanity_course import Course, likeness, plan
from convscope.studies.subject import Album

LEAST_PASSES = 2  # a variance needs


@register("sanity", of="photos", paper="Adebayo et al. 2018, section 3 (arXiv 1810.03292)")
class Sanity:
    """Sanity checks: do a method's maps notice that weights are random (Adebayo et al. 2018, section 3)?

    Cascading: the layer of the logits is randomised, then the one before it too, and so on to the first, until nothing
    that was learned is left. Independent: one layer alone, all others as trained. Each time every method explains the
    same class of the same photo, and its map is compared with that of the trained network: by Spearman's rank
    correlation of the magnitudes and of the values with their sign, and, of the magnitudes from their least value to
    their 99th percentile stretched to [0, 1], by structural similarity and by the correlation of histograms of
    oriented gradients. Of pixel attributions the magnitude is the sum of magnitudes over the channels, the signed value
    their sum. A map that has become the same everywhere has nothing in common with what it was: its rank correlations
    are 0. Where the trained network's own is so, there is nothing to compare, and the photo is not counted.

    A layer is what holds filters or a matrix, with the norms and scales that follow it, in the order in which they run.
    The paper draws weights as training would begin; by default the numbers of each tensor are put in another order
    instead, which keeps the scale that every layer was trained to, whatever module it is. The statistics of a
    randomised layer's own BatchNorm are taken anew, on noise.

    The paper judges by eye. Here a method passes if the rank correlation of magnitudes, on average over the steps of
    the cascade, is less than the limit ``below`` in either direction, and fails beyond it; where the 95 % interval over
    the photos holds the limit, it is unclear. On fewer than six photos the mean alone decides. By default the limit is
    0.5, as near to unmoved (1) as to unrelated (0). Fewer steps give the one with the last layer alone more weight.
    """

    methods: Words = setting(default=USUAL, help=METHODS_HELP)
    steps: int | None = setting(
        default=6,
        help="networks of the cascade, evenly over the depth, the first and the last with them; none: each layer",
    )
    independent: bool = setting(default=True, help="randomise single layers too, those that each step comes to")
    how: How = setting(
        default="shuffle",
        help="shuffle puts a tensor's numbers in another order, reset draws as training would begin, as in the paper",
        choices=HOWS,
    )
    below: float = setting(default=0.5, help="mean rank correlation over the cascade below which a method passes")
    passes: int | None = setting(
        default=8, help="gradients that methods which average many take at most; none: as many as they do elsewhere"
    )
    cell: int | None = setting(
        default=None, help="side of the cells of the histograms in pixels; none: a fourteenth of the shorter side"
    )

    def __post_init__(self) -> None:
        methods_meant(self.methods)
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"sanity: steps must be at least 1, got {self.steps}")
        if not 0 < self.below < 1:
            raise UsageError(f"sanity: below is a rank correlation between 0 and 1, got {self.below}")
        if self.passes is not None and self.passes < LEAST_PASSES:
            raise UsageError(f"sanity: passes must be at least {LEAST_PASSES}, got {self.passes}")
        if self.cell is not None and self.cell < 1:
            raise UsageError(f"sanity: cell must be at least 1, got {self.cell}")

    def run(self, album: Album, seed: int = 0) -> Result:
        needs_scikit_image("sanity")
        methods, notes = methods_meant(self.methods, self.passes)
        layers = weighted_layers(album.classifier, album.images)
        if not layers:
            raise UsageError(f"{album.classifier.name} has no weights that could be randomised")
        size = (album.images.shape[2], album.images.shape[3])
        used = replace(self, cell=self.cell or max(2, min(size) // 14))
        trained, left_out = of_each(methods, lambda method: used._sights(method, album.classifier, album))
        methods = [method for method in methods if method.name in trained]
        courses = used._courses(album, methods, trained, layers, seed)
        cascade = courses[0]
        verdicts = {method.name: sanity_tables.verdict(cascade, method.name, self.below) for method in methods}
        tables = [
            sanity_tables.summary(cascade, verdicts),
            *map(sanity_tables.steps_table, courses),
            sanity_tables.photos_table(album.names, courses),
        ]
        said = sanity_tables.remarks(methods, self.passes, courses, size, used.cell or 1)
        return result(
            used,
            f"Which maps notice that {album.classifier.name} forgets what it learned",
            seed,
            album,
            tables,
            sanity_figure.figures(album, courses, verdicts, self.below),
            sanity_tables.findings(cascade, verdicts, self.below),
            [*notes, *left_out, *said, *sanity_tables.on_few(len(album), cascade, verdicts)],
        )

    def _courses(
        self,
        album: Album,
        methods: Sequence[Any],
        trained: dict[str, list[Sight]],
        layers: list[WeightedLayer],
        seed: int,
    ) -> list[Course]:
        found: dict[tuple[WeightedLayer, ...], dict[str, tuple[np.ndarray, np.ndarray | None]]] = {}
        steps = plan(layers, self.steps, self.independent)
        size = (album.images.shape[2], album.images.shape[3])
        for step in track(steps, "randomised networks"):
            if step.layers in found:  # the last layer alone is in both orders
                continue
            random = randomised_layers(album.classifier, step.layers, seed, self.how, size)
            found[step.layers] = {}
            for method in track(methods, "methods"):
                sights = self._sights(method, random, album)
                found[step.layers][method.name] = likeness(trained[method.name], sights), sights[0].picture

        def course(order: str) -> Course:
            own = [step for step in steps if step.order == order]
            values = {m.name: np.stack([found[step.layers][m.name][0] for step in own]) for m in methods}
            shown = {m.name: [trained[m.name][0].picture, *(found[s.layers][m.name][1] for s in own)] for m in methods}
            return Course(order, len(layers), own, values, shown)

        return [course(order) for order in dict.fromkeys(step.order for step in steps)]

    def _sights(self, method: Any, classifier: Classifier, album: Album) -> list[Sight]:
        """What is compared of a method's maps, photo by photo."""
        raw = attributions(method, classifier, album.images, album.target).cpu().double()
        maps, signed = as_maps(method, raw).numpy(), as_signed_maps(method, raw)
        with_sign = [None] * len(maps) if signed is None else list(signed.numpy())
        return [Sight.of(map, own, self.cell or 1) for map, own in zip(maps, with_sign, strict=True)]
