"""Evidence at the wrong place: on the border, or in a corner that gives the class away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from convscope.errors import Inapplicable, RuleError, UsageError
from convscope.instrument.batches import parts
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target
from convscope.methods import configure
from convscope.models.classifier import probabilities
from convscope.progress import track
from convscope.studies.diagnosis.evidence_figure import CAPTION, Shown, figure_of
from convscope.studies.diagnosis.finding import Checkup, Finding, Measure
from convscope.studies.diagnosis.patient import Patient
from convscope.studies.diagnosis.registry import check
from convscope.studies.interval import FEWEST, Estimate, estimate
from convscope.studies.result import Figure

CORNER = 4  # a corner is a quarter of each side: 1/16 of the photo
RING = 8  # the border is an eighth of each side: 7/16 of the photo
MUCH = 2.0  # times its share of the photo: evidence that a corner holds, for a photo to count
BORDER = 0.8  # of the evidence
MOST = 0.5  # of a class's photos
ENOUGH = 40  # photos of a class that are looked at, at most
DROP = 0.3  # of the class's probability
NAMED = 6
FIGURE = "evidence"


class Box(NamedTuple):
    top: int
    left: int
    bottom: int
    right: int


def corners(height: int, width: int) -> dict[str, Box]:
    """The four corners of a canvas."""
    down, across = max(1, height // CORNER), max(1, width // CORNER)
    return {
        "top left": Box(0, 0, down, across),
        "top right": Box(0, width - across, down, width),
        "bottom left": Box(height - down, 0, height, across),
        "bottom right": Box(height - down, width - across, height, width),
    }


def middle(height: int, width: int) -> Box:
    """What the border encloses."""
    down, across = max(1, height // RING), max(1, width // RING)
    return Box(down, across, height - down, width - across)


def within(maps: Tensor, box: Box) -> Tensor:
    """Each map's share that a box holds; 0 of a map without anything."""
    part = maps[:, box.top : box.bottom, box.left : box.right]
    return part.sum((1, 2)) / maps.sum((1, 2)).clamp(min=1e-30)


def around(maps: Tensor, box: Box) -> Tensor:
    """Each map's share that lies outside of a box."""
    return torch.where(maps.sum((1, 2)) > 0, 1 - within(maps, box), 0.0)


@dataclass(frozen=True, eq=False)
class Group:
    """The photos of a class: their rows, and for each its evidence, and the shares in the corners "photos 4" and in the
    border."""

    label: int
    rows: list[int]
    maps: Tensor
    shares: Tensor
    border: Tensor


class Cost(NamedTuple):
    """``corner``: the one without which a class's probability falls most. ``fall``: by how much; ``other``: the most by
    which it falls without another. ``more``: the difference, photo by photo, and how sure it is. ``often``: in which
    share of the photos the corner has the most evidence of the four, and more than twice its share of the photo."""

    corner: str
    fall: float
    other: float
    more: Estimate
    often: float


@check("evidence", answers=True)
def evidence(patient: Patient) -> Checkup:
    """Where the evidence lies by which photos are given their class, and whether it is a corner's or the border's.

    * A corner gives a class away if the class's probability hangs on it. For each class of at least six photos each of
      the four corners (a quarter of each side) is replaced by the same corner of a photo of another class. The number
      is how much more the probability falls, in the mean over at most 40 photos, than with the worst of the other
      three. Beyond 0.3, with a 95 % interval above 0, it is a fault: a watermark, a date, a logo. Of digit networks
      that are sound it is 0.19 at most (a 2 has its foot there), of such that learned a planted mark 0.41 to 0.82.
      Beside it stands in how many photos ``method`` sees the evidence there; coarse maps miss it as often as not.
    * The border (an eighth of each side, 7/16 of the photo) gives it away if it holds more than 0.8 of the evidence,
      the positive part of ``method``'s map, in at least half of a class's photos, and if a border of another class's
      photo costs more of the probability than a middle of one, by 0.3. Single photos with as much of their evidence
      there are a remark.

    Where classes are not known, a photo's most probable one stands for it. Corners are taken from other photos, not
    filled with a grey: that would be a mark itself.
    """
    labels = patient.labels if patient.labels is not None else patient.answers.tolist()
    notes = []
    try:
        maps = _maps(patient, labels)
    except (Inapplicable, RuleError, UsageError) as error:  # corners are tried all the same
        maps = torch.zeros(len(patient), *patient.images.shape[2:])
        notes.append(f"evidence: no maps: {error}")
    some = [row for row in range(len(patient)) if float(maps[row].sum()) > 0]
    if not some and not notes:
        notes.append(f"evidence: {patient.method} finds none in any photo")
    groups = _groups(maps, labels)
    findings: list[Finding] = []
    measures: list[Measure] = []
    guilty: set[int] = set()
    costs: dict[int, Cost] = {}
    for group in track(groups, "classes"):
        costs[group.label] = cost = _cost(patient, group, labels)
        found, measured = _of_class(patient, group, cost, labels)
        findings += found
        measures += measured
        if found:
            guilty.add(group.label)
    findings += _photos(patient, maps, some)
    if not groups:
        notes.append(f"evidence: no class has {FEWEST} photos, so none can be told to hang on a corner")
    order = sorted(groups, key=lambda group: (group.label not in guilty, -costs[group.label].more.mean))
    places, inside = corners(*maps.shape[1:]), middle(*maps.shape[1:])
    rows = [Shown(one.label, one.rows, one.maps, places[costs[one.label].corner], one.label in guilty) for one in order]
    figures = [Figure(FIGURE, CAPTION, lambda: figure_of(patient, maps, rows, some, inside))] if rows or some else []
    corners_of = f", the corners of {len(groups)} class{'es' * (len(groups) > 1)}" if groups else ""
    seen = f"the evidence of {len(some)} photos{corners_of}"
    return Checkup(seen, findings, measures, figures, notes)


def _maps(patient: Patient, labels: Sequence[int]) -> Tensor:
    """The evidence of each photo, at least 0, "n h w"."""
    method = configure(patient.method)
    found = []
    for rows in track(parts(len(patient)), "evidence", weigh=lambda rows: min(rows.stop, len(patient)) - rows.start):
        images = patient.pixels(rows)
        target = Target(index=tuple(labels[rows]))
        found.append(method.run(patient.classifier, images, target).raw.clamp(min=0).float().cpu())
    return torch.cat(found).nan_to_num(0)


def _groups(maps: Tensor, labels: Sequence[int]) -> list[Group]:
    places, inside = corners(*maps.shape[1:]).values(), middle(*maps.shape[1:])
    found = []
    for label in sorted(set(labels)):
        rows = [row for row in range(len(maps)) if labels[row] == label]
        if len(rows) >= FEWEST:
            own = maps[rows]
            shares = torch.stack([within(own, box) for box in places], 1)
            found.append(Group(label, rows, own, shares, around(own, inside)))
    return found


def _cost(patient: Patient, group: Group, labels: Sequence[int]) -> Cost:
    """What the class's probability loses without each corner."""
    height, width = group.maps.shape[1:]
    places = corners(height, width)
    falls = torch.stack([_drop(patient, group, labels, [box]) for box in places.values()], 1)
    means = falls.mean(0)
    worst, second = means.argsort(descending=True, stable=True)[:2].tolist()
    box = list(places.values())[worst]
    area = (box.bottom - box.top) * (box.right - box.left) / (height * width)
    there = (group.shares.argmax(1) == worst) & (group.shares[:, worst] > MUCH * area)
    # The worst less the second worst, both chosen by these photos: of four equal corners one seldom comes out ahead.
    more = estimate((falls[:, worst] - falls[:, second]).numpy(), (-1, 1))
    return Cost(list(places)[worst], float(means[worst]), float(means[second]), more, float(there.double().mean()))


def _of_class(patient: Patient, group: Group, cost: Cost, labels: Sequence[int]) -> tuple[list[Finding], list[Measure]]:
    name, height, width = patient.classes.short(group.label), *group.maps.shape[1:]
    inside = middle(height, width)
    bordering = float((group.border > BORDER).double().mean())
    measures = [
        Measure(name, f"what the {cost.corner} costs, less the worst other corner", cost.more.mean, DROP),
        Measure(name, f"share of the photos with much evidence at the {cost.corner}", cost.often),
        Measure(name, "share of the photos with the evidence on the border", bordering, MOST),
    ]
    findings = []
    if _sure(cost.more):
        reason = (
            f"with the {cost.corner} of other classes the probability falls by {cost.fall:.2f}, with another corner of "
            f"theirs by at most {max(cost.other, 0):.2f}; {patient.method} sees it in {cost.often:.0%} of the photos"
        )
        change = (
            f"cut or cover the {cost.corner} of all photos, or put its mark on photos of every class, and train anew"
        )
        where = f"{name}, {cost.corner}"
        findings.append(Finding("a corner gives the class away", where, cost.more.mean, DROP, reason, change, FIGURE))
    if bordering >= MOST and not findings:
        ring = _drop(patient, group, labels, _ring(height, width, inside))
        more = estimate((ring - _drop(patient, group, labels, [inside])).numpy(), (-1, 1))
        measures.append(Measure(name, "what the border costs, less what the middle costs", more.mean, DROP))
        if _sure(more):
            reason = f"{bordering:.0%} of {len(group.rows)} photos have more than {BORDER:.0%} of their evidence there"
            change = "look for frames and for what photos of the class have around them; crop at random in training"
            findings.append(Finding("the border gives the class away", name, more.mean, DROP, reason, change, FIGURE))
    return findings, measures


def _sure(more: Estimate) -> bool:
    return more.mean > DROP and more.side() == 1


def _ring(height: int, width: int, inside: Box) -> list[Box]:
    return [
        Box(0, 0, inside.top, width),
        Box(inside.bottom, 0, height, width),
        Box(inside.top, 0, inside.bottom, inside.left),
        Box(inside.top, inside.right, inside.bottom, width),
    ]


def _drop(patient: Patient, group: Group, labels: Sequence[int], boxes: Sequence[Box]) -> Tensor:
    """What the class's probability loses, photo by photo, with these boxes taken from photos of other classes."""
    rng = np.random.default_rng([patient.seed, group.label])  # the same donors for every place
    own = group.rows[:ENOUGH]
    others = [row for row in range(len(patient)) if labels[row] != group.label]
    if not others:
        return torch.zeros(len(own), dtype=torch.float64)
    donors = [others[int(i)] for i in rng.integers(0, len(others), len(own))]
    found = []
    with undisturbed(patient.classifier, grad=False):
        for rows in parts(len(own)):
            images = patient.pixels(own[rows]).clone()
            given = patient.pixels(donors[rows])
            for box in boxes:
                place = (..., slice(box.top, box.bottom), slice(box.left, box.right))
                images[place] = given[place]
            found.append(probabilities(patient.classifier(images))[:, group.label].double().cpu())
    return patient.probabilities[own, group.label] - torch.cat(found)


def _photos(patient: Patient, maps: Tensor, some: Sequence[int]) -> list[Finding]:
    """One remark on single photos whose evidence lies on the border."""
    shares = around(maps[list(some)], middle(*maps.shape[1:]))
    there = [(float(share), row) for share, row in zip(shares, some, strict=True) if float(share) > BORDER]
    if not there:
        return []
    there.sort(reverse=True)
    named = ", ".join(patient.names[row] for _, row in there[:NAMED])
    where = f"{len(there)} of {len(some)} photos: {named}" + (" ..." if len(there) > NAMED else "")
    reason = "the outer eighth of each side is 0.44 of a photo; what is photographed seldom has most of itself there"
    change = "look at these photos: what is photographed may be cut off, or its surroundings stand for it"
    return [Finding("evidence on the border", where, there[0][0], BORDER, reason, change, FIGURE, fault=False)]
