"""Incremental inference: many variants of one image that differ in a small box each, at a fraction of the cost.

Networks are local. A change of a few pixels changes a small box of every map; only that box is computed, with the clean
image's maps around it, as in Krypton (Nakandala et al., SIGMOD 2019). The result is that of full passes up to rounding.
From the first operation that is global, or once a box covers most of its map, whole maps are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from convscope.errors import ConvscopeError
from convscope.instrument.boxes import Box, CleanMaps, Span, changed_box
from convscope.instrument.perturb import MIB, Watched, variant_bytes, variant_readings
from convscope.instrument.receptive_field import takes_statistics
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target, outputs_of
from convscope.instrument.trace import Op, Trace, Value, trace
from convscope.models.classifier import Classifier
from convscope.types import OneImage, Patches, Variants

TOLERANCE = 1e-2  # relative to a variant's effect; rounding is far below, what was not followed rightly far above
PROBES = (1 / 2, 1 / 4, 3 / 4, 0, 3 / 8, 5 / 8)  # which variants are tried, by their place among all
RESHAPES = {"view", "_unsafe_view", "reshape", "expand"}

Change: TypeAlias = Box | Tensor  # a box, or the whole value for each variant


class Regions:
    """The clean passes of one image "1 c h w", ready to be varied. Make it with ``regions_for``."""

    def __init__(self, taken: Trace, image: OneImage, goals: Sequence[Value]) -> None:
        self.taken, self.goals = taken, list(goals)
        self.end = end_of(taken, goals)
        self.clean = CleanMaps({taken.input.index: image})
        for op in taken.ops[: self.end]:
            for value, tensor in zip(op.outputs, op.again(partial(self._clean, op)), strict=True):
                self.clean[value.index] = tensor

    def _clean(self, op: Op, value: Value) -> Tensor:
        """A clean value for an operation, which may write into it."""
        clean = self.clean[value.index]
        return clean.clone() if op.in_place and value is op.args[0] else clean

    def outputs(self, start: Value, change: Change, count: int) -> list[Tensor]:
        """What the goals are for ``count`` variants in which the value ``start`` is changed; one row a variant.

        What comes before ``start``, and what does not depend on it, is not computed again.
        """
        changed: dict[int, Change] = {start.index: change}
        wanted = {goal.index for goal in self.goals}
        reached = {start.index: self._apart(start, change)} if start.index in wanted else {}
        last = {value.index: i for i, op in enumerate(self.taken.ops[: self.end]) for value in op.inputs}
        for i, op in enumerate(self.taken.ops[: self.end]):
            if not any(value.index in changed for value in op.inputs):
                continue
            made = self._local(op, changed)
            if made is not None and not any(value.index in last for value in op.outputs[1:]):
                changed[op.outputs[0].index] = made
            else:
                changed.update(self._whole(op, changed, count))
            for value in op.outputs:
                if value.index in wanted and value.index in changed:
                    kept = self._filled if i + 1 == self.end else self._apart
                    reached[value.index] = kept(value, changed[value.index])
            for value in op.inputs:
                if last[value.index] == i:
                    changed.pop(value.index, None)
        # Where nothing of it depends on the pixels, it is what it was.
        return [
            reached[goal.index] if goal.index in reached else self.clean[goal.index].expand(count, *goal.shape[1:])
            for goal in self.goals
        ]

    def _local(self, op: Op, changed: dict[int, Change]) -> Box | None:
        """The box of the operation's output, where it is small enough and the operation is understood."""
        boxes = {}
        for value in op.inputs:
            change = changed.get(value.index)
            if isinstance(change, Tensor):
                return None
            if change is not None:
                boxes[value.index] = change
        return changed_box(self.clean, op, boxes)

    def _whole(self, op: Op, changed: dict[int, Change], count: int) -> dict[int, Tensor]:
        """The operation on whole maps, for every variant."""

        def full(value: Value) -> Tensor:
            if value.index in changed:
                return self._filled(value, changed[value.index])
            clean = self._clean(op, value)
            return clean.expand(count, *clean.shape[1:]) if clean.ndim and clean.shape[0] == 1 else clean

        args = op.args
        if op.name in RESHAPES and list(args[1])[:1] == [1]:
            args = (args[0], [count, *args[1][1:]], *args[2:])  # the trace's batch size, written into the call
        return {value.index: tensor for value, tensor in zip(op.outputs, op.again(full, args), strict=True)}

    def _apart(self, value: Value, change: Change) -> Tensor:
        """A value for every variant, that no operation after it writes into."""
        whole = self._filled(value, change)
        return whole.clone() if whole is change else whole

    def _filled(self, value: Value, change: Change) -> Tensor:
        """A value for every variant: the clean one with the boxes put in."""
        if isinstance(change, Tensor):
            return change
        whole = self.clean[value.index].repeat(len(change.places), 1, 1, 1)
        height, width = change.size
        for variant, data, (row, col) in zip(whole, change.data, change.places, strict=True):
            variant[:, row : row + height, col : col + width] = data
        return whole


def patched_scores(
    classifier: Classifier,
    image: OneImage,
    target: Target,
    places: Sequence[Span],
    patches: Callable[[slice], Patches],
    *,
    budget: float,
    label: str,
    chunk: int | None = None,
) -> Variants:
    """The target's score for variants of one image "1 c h w", whose pixels at ``places`` are ``patches(rows)``."""
    wanted = [Watched(target)]
    return patched_readings(classifier, image, wanted, places, patches, budget=budget, label=label, chunk=chunk)[0]


def patched_readings(
    classifier: Classifier,
    image: OneImage,
    wanted: Sequence[Watched],
    places: Sequence[Span],
    patches: Callable[[slice], Patches],
    *,
    budget: float,
    label: str,
    chunk: int | None = None,
) -> list[Variants]:
    """Several readings of each of the variants, in one pass."""
    start = trace(classifier.network, image, through=classifier).input

    def full(rows: slice) -> list[Tensor]:
        return outputs_of([one.target for one in wanted], classifier, patched(image, patches(rows), places[rows]))

    def change(rows: slice) -> Change:
        return Box(patches(rows), places[rows])

    if image.device.type != "cpu":  # thousands of small copies: a GPU is faster with whole maps
        return variant_readings(classifier, image, wanted, len(places), full, budget=budget, label=label, chunk=chunk)
    return changed_readings(
        classifier, image, wanted, len(places), start, change, full, budget=budget, label=label, chunk=chunk
    )


def patched(image: OneImage, patches: Patches, places: Sequence[Span]) -> Tensor:
    """The variants as whole images."""
    whole = image.repeat(len(places), 1, 1, 1)
    for variant, data, (row, col) in zip(whole, patches, places, strict=True):
        variant[:, row : row + data.shape[1], col : col + data.shape[2]] = data
    return whole


def changed_readings(
    classifier: Classifier,
    image: OneImage,
    wanted: Sequence[Watched],
    count: int,
    start: Value,
    change: Callable[[slice], Change],
    full: Callable[[slice], list[Tensor]],
    *,
    budget: float,
    label: str,
    chunk: int | None = None,
) -> list[Variants]:
    """Readings of ``count`` variants of an image, in which the traced value ``start`` is ``change(rows)``.

    Incremental where that is exact and the clean values fit into ``budget`` (MiB) beside the variants; else by
    ``full(rows)``, which gives the same outputs in another way.
    """
    taken = trace(classifier.network, image, through=classifier)
    held = taken.held_bytes / MIB
    outputs = full
    if held + variant_bytes(classifier, image) / MIB <= budget:
        targets = [one.target for one in wanted]
        regions = regions_for(classifier, image, targets, count, start, change, full)
        if regions is not None:
            ready = regions
            budget -= held

            def outputs(rows: slice) -> list[Tensor]:
                return ready.outputs(start, change(rows), rows.stop - rows.start)

    return variant_readings(classifier, image, wanted, count, outputs, budget=budget, label=label, chunk=chunk)


def regions_for(
    classifier: Classifier,
    image: OneImage,
    targets: Sequence[Target],
    count: int,
    start: Value,
    change: Callable[[slice], Change],
    full: Callable[[slice], list[Tensor]],
) -> Regions | None:
    """Incremental inference for ``count`` variants of one image "1 c h w", or None where it would not be exact.

    It has to prove itself against full passes, as a trace is one run and not the program.
    """
    taken = trace(classifier.network, image, through=classifier)
    goals = [goal for target in targets if (goal := _goal(taken, target)) is not None]
    if len(goals) < len(targets) or image.dtype not in (torch.float32, torch.float64):
        return None
    if any(map(_bound_to_its_run, taken.ops[: end_of(taken, goals)])):
        return None
    with undisturbed(classifier, grad=False):
        try:
            regions = Regions(taken, image, goals)
            return regions if _proven(regions, count, start, change, full) else None
        except (RuntimeError, ConvscopeError, ValueError, TypeError):
            return None  # an operation that does not take another batch size: full passes do


def end_of(taken: Trace, goals: Sequence[Value]) -> int:
    """How many operations lead to the goals."""
    return max(taken.made_by[goal.index] for goal in goals) + 1


def _goal(taken: Trace, target: Target) -> Value | None:
    """What a target is picked from, where an operation made it."""
    event = taken.event(target.layer.key) if target.layer is not None else None
    goal = event.value if event is not None else taken.output
    return goal if goal is not None and goal.index in taken.made_by else None


def _bound_to_its_run(op: Op) -> bool:
    """Writes into views, statistics of the whole batch, or numbers taken out of tensors, on which Python may branch."""
    return op.aliasing or takes_statistics(op) or op.name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal")


def _proven(
    regions: Regions, count: int, start: Value, change: Callable[[slice], Change], full: Callable[[slice], list[Tensor]]
) -> bool:
    """Whether two variants together give what each gives in a full pass.

    Each must change the outputs, or it would prove nothing: a black square on a black border is the clean image. The
    error is measured by that change, which is often a thousandth of the outputs themselves.
    """
    clean = [regions.clean[goal.index] for goal in regions.goals]
    rounding = [100 * torch.finfo(one.dtype).eps * one.abs().max() for one in clean]
    changes, wanted = [], []
    for share in PROBES:
        row = int(share * count)
        outputs = full(slice(row, row + 1))
        if all(bool((o - c).abs().max() > r) for o, c, r in zip(outputs, clean, rounding, strict=True)):
            changes.append(change(slice(row, row + 1)))
            wanted.append(outputs)
        if len(wanted) == min(2, count):
            break
    if not wanted:
        return False
    found = regions.outputs(start, _together(changes), len(wanted))
    full_ones = map(torch.cat, zip(*wanted, strict=True))
    return all(_close(*each) for each in zip(found, full_ones, clean, rounding, strict=True))


def _close(found: Tensor, wanted: Tensor, clean: Tensor, rounding: Tensor) -> bool:
    error = (found - wanted).flatten(1).abs().amax(1)
    effect = (wanted - clean).flatten(1).abs().amax(1)
    return bool((error <= TOLERANCE * effect + rounding).all())  # NaN is not


def _together(changes: Sequence[Change]) -> Change:
    boxes = [one for one in changes if isinstance(one, Box)]
    if boxes:
        return Box(torch.cat([box.data for box in boxes]), [place for box in boxes for place in box.places])
    return torch.cat([one for one in changes if isinstance(one, Tensor)])
