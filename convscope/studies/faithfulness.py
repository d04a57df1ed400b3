"""Faithfulness: does the network need what an explanation points at?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from convscope.errors import Cancelled, ConvscopeError, ModelError, UsageError, some, unknown
from convscope.instrument.batches import parts
from convscope.instrument.fill import FILL_HELP, FILLS, fill_like
from convscope.instrument.perturb import BUDGET_HELP, BUDGET_MIB
from convscope.instrument.randomised import randomised
from convscope.models.classifier import Classifier
from convscope.progress import track
from convscope.settings import Reals, Words, setting
from convscope.studies import compared
from convscope.studies.boxes import Box, boxes_of, called
from convscope.studies.faithfulness_figure import curves_figure, scores_figure
from convscope.studies.faithfulness_told import Entry, Measured, findings_of, tables_of
from convscope.studies.interval import FEWEST
from convscope.studies.registry import register
from convscope.studies.result import Figure, Result, result
from convscope.studies.scores.blind import BLIND, blind_maps, generator_of
from convscope.studies.scores.cells import cells
from convscope.studies.scores.curves import area, counts, curves, ranks
from convscope.studies.scores.pointing import energy_inside, pointed
from convscope.studies.scores.sensitivity_n import sensitivity, sizes_of
from convscope.studies.subject import Album

CURVES = ("deletion", "insertion")
SUMS = "sensitivity-n"
BOXED = ("pointing", "energy")
SCORES = (*CURVES, SUMS, *BOXED)
CELLS = 14  # along the shorter side, by default
UNSURE = 0.2  # a probability from which not much can fall


@register("faithfulness", of="photos", paper="Petsiuk et al. 2018 (RISE), section 4.2; Ancona et al. 2018")
class Faithfulness:
    """Faithfulness: deletion, insertion (Petsiuk et al. 2018, section 4.2), sensitivity-n (Ancona et al. 2018).

    Deletion: the photo is filled in the order of a map, the highest first; the probability of the photo's class is
    drawn over the share that is gone, and the area under it is the score: the lower, the sooner the class was gone.
    Insertion: it is put back in the same order into a picture that hides all; the higher, the better. What is equal
    comes in random order. The steps, the fill and what insertion begins with are settings: the paper takes 224 pixels a
    step, zeros or any constant, and a blurred photo.

    Sensitivity-n: the correlation, over random subsets of n features, of the sum of their attributions and what the
    class's logit loses without them; the score is its mean over some n, at best 1.

    Both papers take single pixels, as cell=1 does; with a fill of black such a deletion is the pixel flipping of Bach
    et al. 2015, a pixel's channels together. But one pixel hardly matters to a photo, and many scattered ones break it
    whatever they showed: deletion then favours noise over a class activation map. So square cells are ranked by their
    mean and taken as one, as in the region perturbation of Samek et al. 2015 (arXiv 1509.06321).

    With boxes, the pointing game (Zhang et al. 2016): is the map's maximum in the box, or not further away than a
    tolerance? And the energy inside (Wang et al. 2020): which share of what speaks for the class is in the box?

    None of it stands alone: the same is measured of noise, of a blob in the middle and of the photo's edges, and of
    each method's map of the same network with its weights shuffled, scored on the network as it is. What beats what is
    said by the paired difference over photos.

    A class activation map orders the pixels as it is; pixel attributions by their magnitude or their signed sum over
    the channels. Sensitivity-n, which is about sums, always takes that sum, and so does the energy, of which the part
    above zero speaks for the class.
    """

    methods: Words = setting(default=compared.USUAL, help=compared.METHODS_HELP)
    scores: Words | None = setting(
        default=None, help=f"which of {', '.join(SCORES)}; none: all, the last two where boxes are given"
    )
    steps: int = setting(default=14, help="steps of a curve, each of as many cells")
    delete: str = setting(default="grey", help=f"deletion: {FILL_HELP}", choices=FILLS)
    insert: str = setting(default="blur", help="insertion: what it begins with", choices=FILLS)
    absent: str = setting(
        default="black", help="sensitivity-n: what a pixel shows that is not there; the paper's is zero", choices=FILLS
    )
    sizes: Reals = setting(default=(0.02, 0.1, 0.5), help="sensitivity-n: each n, as a share of all features")
    subsets: int = setting(default=100, help="sensitivity-n: random subsets of each size; the paper's number")
    cell: int | None = setting(
        default=None,
        help="side in pixels of the squares that are taken as one; 1: the papers' pixels; none: a fourteenth of the "
        "shorter side",
    )
    channels: str = setting(
        default="magnitude",
        help="what orders the pixels of pixel attributions: the sum of the channels' magnitudes, or their signed sum",
        choices=("magnitude", "signed"),
    )
    boxes: str | Path | dict[str, Any] | None = setting(
        default=None,
        help="JSON file with the photos' names, and for each a list of boxes: top, left, bottom, right, in its pixels",
    )
    tolerance: float = setting(default=15.0, help="pointing: pixels of the canvas that a maximum may miss the box by")
    passes: int = setting(default=16, help="passes at most of a method that averages gradients")
    budget: float = setting(default=BUDGET_MIB, help=BUDGET_HELP)

    def run(self, album: Album, seed: int = 0) -> Result:
        settled = self._settled(album)
        methods, notes = compared.methods_meant(self.methods, self.passes)
        marked, told = boxes_of(album, self.boxes) if self.boxes is not None else ([()] * len(album), [])
        if self.boxes is not None and not any(marked):
            raise UsageError(f"{called(self.boxes)}: none of its boxes lies where the network sees the photo")
        control, refusal = _shuffled(album, seed)
        found = settled._measured(album, methods, control, marked, seed)
        tables = tables_of(found, album)
        figures = [Figure("scores", _scores_caption(found), lambda: scores_figure(found))]
        if found.kinds:
            figures.append(Figure("curves", _curves_caption(settled, found), lambda: curves_figure(found)))
        notes = [*notes, *told, *refusal, *found.refusals, *_caveats(settled, album, found, marked)]
        title = f"How faithful explanations of {album.classifier.name} are"
        return result(settled, title, seed, album, tables, figures, findings_of(found), notes)

    def _settled(self, album: Album) -> Faithfulness:
        """With what was left open settled; UsageError for what cannot be meant."""
        height, width = (int(side) for side in album.images.shape[-2:])
        for word in self.scores or ():
            if word not in SCORES:
                raise unknown("score", word, SCORES)
        scores = self.scores if self.scores is not None else SCORES if self.boxes is not None else (*CURVES, SUMS)
        if not scores:
            raise UsageError(f"faithfulness: no score is named: {', '.join(SCORES)}")
        if boxed := [score for score in scores if score in BOXED]:
            if self.boxes is None:
                raise UsageError(f"faithfulness: {some(boxed)} needs boxes: name a JSON file of them with --boxes")
        elif self.boxes is not None:
            raise UsageError("faithfulness: boxes are given, but neither pointing nor energy is among the scores")
        if not self.sizes or not all(0 < share < 1 for share in self.sizes):
            raise UsageError("faithfulness: sizes are shares of all features, above 0 and below 1")
        if self.subsets < 3:
            raise UsageError(f"faithfulness: subsets is {self.subsets}: a correlation needs 3 at least")
        if not self.tolerance >= 0:
            raise UsageError(f"faithfulness: tolerance is {self.tolerance}: it is a distance in pixels, at least 0")
        if self.passes < 1:
            raise UsageError(f"faithfulness: passes is {self.passes}: at least 1")
        cell = max(1, min(height, width) // CELLS) if self.cell is None else self.cell
        if not 1 <= cell <= min(height, width):
            raise UsageError(f"faithfulness: cell is {cell}: from 1 to the canvas's shorter side, {min(height, width)}")
        count = int(cells(height, width, cell).max()) + 1
        if not 1 <= self.steps <= count:
            raise UsageError(f"faithfulness: steps is {self.steps}: from 1 to the canvas's {count:,} cells")
        if SUMS in scores:
            sizes_of(self.sizes, count)
        return replace(self, scores=tuple(score for score in SCORES if score in scores), cell=cell)

    def _measured(
        self,
        album: Album,
        methods: Sequence[Any],
        control: Classifier | None,
        marked: Sequence[Sequence[Box]],
        seed: int,
    ) -> Measured:
        entries = [Entry(method.name, "method") for method in methods]
        drawers = [(method, album.classifier) for method in methods]
        if control is not None:
            entries += [Entry(method.name, "control") for method in methods]
            drawers += [(method, control) for method in methods]
        entries += [Entry(name, "baseline") for name in BLIND]
        height, width = album.images.shape[-2:]
        assert self.scores is not None
        assert self.cell is not None
        of = cells(height, width, self.cell)
        total = int(of.max()) + 1
        shares = [count / total for count in counts(total, self.steps)]
        sizes = sizes_of(self.sizes, total) if SUMS in self.scores else []
        kinds = [kind for kind in CURVES if kind in self.scores]
        found = Measured.empty(entries, len(album), self.scores, kinds, shares, sizes)
        for rows in track(parts(len(album)), "explained and scored"):
            numbers = range(len(album))[rows]
            maps, sums, energies = self._maps(album, rows, drawers, found, seed)
            for i, row in enumerate(track(numbers, "photos")):
                self._photo(album, row, maps[:, i], sums[:, i], energies[:, i], of, marked[row], found, seed)
        return found.without_refused()

    def _maps(
        self, album: Album, rows: slice, drawers: Sequence[tuple[Any, Classifier]], found: Measured, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What orders the pixels of some photos, what is summed, and what speaks for the class, each "entries photos h
        w"; NaN where a method cannot look at the network."""
        images, target = album.images[rows], album.target[rows]
        orders, sums, energies = [], [], []
        errors: list[ConvscopeError] = []
        for number, (method, classifier) in enumerate(track(drawers, "maps")):
            try:
                raw = compared.attributions(method, classifier, images, target)
            except Cancelled:
                raise
            except ConvscopeError as error:
                found.refuse(number, error)
                errors.append(error)
                orders.append(torch.full_like(images[:, 0], torch.nan))
                sums.append(orders[-1])
                energies.append(orders[-1])
                continue
            pixels = method.traits.kind == "pixels"
            sums.append(raw.sum(1) if pixels else raw)
            map = sums[-1] if self.channels == "signed" else compared.as_maps(method, raw)
            # Of what is relative only differences count: the least is nothing.
            orders.append(map - map.amin((1, 2), keepdim=True) if method.traits.sign == "relative" else map)
            energies.append(sums[-1] if pixels else orders[-1])
        if len(errors) == len(drawers):
            raise errors[0]
        blind = list(blind_maps(images, album.names[rows], seed).values())
        return torch.stack([*orders, *blind]), torch.stack([*sums, *blind]), torch.stack([*energies, *blind])

    def _photo(
        self,
        album: Album,
        row: int,
        maps: Tensor,
        sums: Tensor,
        energies: Tensor,
        of: Tensor,
        boxes: Sequence[Box],
        found: Measured,
        seed: int,
    ) -> None:
        image, target = album.images[row : row + 1], album.target[row : row + 1]
        given = [i for i, map in enumerate(maps) if bool(map.isfinite().all())]
        for i in given:
            if bool(maps[i].max() == maps[i].min()):
                found.flat[str(found.entries[i])] += 1
        if found.kinds:
            # The same generator for each: what orders the pixels alike has the same curve.
            order = [ranks(maps[i], of, generator_of(seed, album.names[row])) for i in given]
            both = {
                "deletion": (fill_like(image, self.delete), image),
                "insertion": (image, fill_like(image, self.insert)),
            }
            ends = [both[kind] for kind in found.kinds]
            found.curves[given, row] = curves(
                album.classifier, image, target, order, ends, self.steps, budget=self.budget, label="curves"
            )
            for number, kind in enumerate(found.kinds):
                found.values[kind][:, row] = area(found.shares, found.curves[:, row, number])
            if len(found.kinds) == len(CURVES):
                found.values["difference"][:, row] = (
                    found.values["insertion"][:, row] - found.values["deletion"][:, row]
                )
        if found.sizes:
            found.by_size[given, row] = sensitivity(
                *(album.classifier, image, target, sums[given], of, found.sizes, self.subsets),
                fill_like(image, self.absent),
                generator=generator_of(seed, album.names[row]),
                budget=self.budget,
                label="subsets",
            )
            found.values[SUMS][:, row] = _means(found.by_size[:, row])
        if boxes:
            if "pointing" in found.values:
                found.values["pointing"][:, row] = [pointed(map, boxes, self.tolerance) for map in maps]
            if "energy" in found.values:
                found.values["energy"][:, row] = [energy_inside(map, boxes) for map in energies]


def _means(values: np.ndarray) -> np.ndarray:
    """Of each row, over what is a number; NaN where there is none."""
    there = np.isfinite(values)
    total = np.where(there, values, 0).sum(-1)
    return np.divide(total, there.sum(-1), out=np.full(len(values), np.nan), where=there.any(-1))


def _shuffled(album: Album, seed: int) -> tuple[Classifier | None, list[str]]:
    """The same network with its weights shuffled, where it can be copied."""
    try:
        return randomised(album.classifier, seed, (album.images.shape[2], album.images.shape[3])), []
    except ModelError as error:
        return None, [f"there is no control with shuffled weights: {error}"]


def _caveats(study: Faithfulness, album: Album, found: Measured, marked: Sequence[Sequence[Box]]) -> list[str]:
    told = []
    if found.kinds:
        told.append(
            f"half-filled pictures (here by cells of {study.cell} x {study.cell} pixels) are none that the network was "
            "trained on: a curve also shows how it takes to those, and scores compare only under the same settings"
        )
        sure = [float(album.probabilities[row, label]) for row, label in enumerate(album.labels)]
        if unsure := [name for name, share in zip(album.names, sure, strict=True) if share < UNSURE]:
            told.append(f"the class of {some(unsure, 3)} has a probability below {UNSURE}: little can fall there")
    if found.sizes:
        told.append(
            f"sensitivity-n, here against {study.absent}, asks for sums, which class activation maps, guided and "
            "deconvnet were never meant to give"
        )
    if found.flat:
        flat = [f"{name} on {count} of {len(album)} photos" for name, count in found.flat.items()]
        told.append(f"the same everywhere, so that chance orders the cells: {some(flat, 4)}")
    if any(marked):
        without = [name for name, boxes in zip(album.names, marked, strict=True) if not boxes]
        told += [f"without a box, and left out of pointing and energy: {some(without, 3)}"] if without else []
        told.append("a box says where a person sees the thing, which need not be what the network looks at")
    if len(album) >= FEWEST:
        told.append("intervals are over these photos, each by itself: of many comparisons, one in twenty errs")
    return told


def _curves_caption(study: Faithfulness, found: Measured) -> str:
    said = {
        "deletion": f"Deletion: the photo is filled ({study.delete}), the map's highest first; low is good. ",
        "insertion": f"Insertion: it is put back into what hides it ({study.insert}); high is good. ",
    }
    return (
        "".join(said[kind] for kind in found.kinds)
        + "Lines are means over photos of the probability of the photo's class, bands their 95 % intervals where they "
        "can be told apart; grey and dashed is what knows nothing of the network. After Petsiuk et al. 2018, figure 4."
    )


def _scores_caption(found: Measured) -> str:
    return (
        "Each method's scores, the arrow saying which way is better: means over photos with their 95 % intervals. "
        "Grey is what knows nothing of the network; its best is the dashed line. A hollow mark is the same method's "
        "map of the network with its weights shuffled: a method that is no better shows the photo alone."
    )
