"""What a pattern needs, settled before the long work: its canvas, whether its units exist, how many fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, inf

from torch import Tensor

from convscope.errors import UsageError, first_line
from convscope.instrument.address import LOGITS, Address
from convscope.instrument.canvas import REFUSALS
from convscope.instrument.receptive_field import argument, receptive_field, unit_box
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.trace import Event, Op, Trace, trace
from convscope.models.classifier import Classifier
from convscope.optvis.draws import Draws
from convscope.optvis.objectives import Need, Objective, number
from convscope.optvis.parameterizations import Shape
from convscope.optvis.transforms import Focus, Transform, transformed

MIB = 2**20
BUDGET_MIB = 2048.0
MOST = 128  # pixels of a side of a canvas, unless the network's input has to be as it is
MARGIN = 48  # pixels beside a receptive field
BORDER = 10  # of them that are not shown on each side: there a unit answers to the canvas's edge
SLACK = 2.5  # memory beside the values that are kept: gradients on their way, scratch space, what an allocator holds
COPIES = 4  # of the layers' own outputs, beside what a pass keeps: the start's, the end's, recorded ones, gradients
AT_ONCE = {"cpu": 16}  # pictures in a batch, beyond which a larger one is no faster; elsewhere 128


def canvas_for(classifier: Classifier, needs: Sequence[Need]) -> tuple[int, int]:
    """The canvas for units of layers: their receptive field and a margin, a whole number of the layer's steps.

    The logits take the network's own input, and so do a place on a layer's map, which is meant on that, and a layer
    behind a part that takes that size alone.
    """
    full = classifier.canvas
    layers = [need.layer for need in needs]
    if LOGITS in layers or not layers or any(need.position is not None for need in needs):
        return full
    taken = trace(classifier.network, classifier.blank(full), through=classifier)
    sides = [_side(taken, event) for layer in layers if (event := taken.event(layer)) is not None]
    side = min(max(sides, default=MOST), *full)
    return (side, side) if side < min(full) and _runs(classifier, layers, (side, side)) else full


def _side(taken: Trace, event: Event) -> int:
    if event.value is None or len(event.value.shape) != 4:
        return MOST
    field = receptive_field(taken, event.value)
    if field.status != "exact":
        return MOST
    step = max(*(field.stride or (1, 1)), 1)
    return min(ceil((max(field.size) + MARGIN) / step) * step, MOST)


def focus_of(classifier: Classifier, needs: Sequence[Need], size: tuple[int, int]) -> Focus | None:
    """Of neurons at one place their receptive field, outside of which a picture says nothing."""
    if len(places := {(need.layer, need.position) for need in needs if need.maps and not need.whole}) != 1:
        return None
    (layer, position) = places.pop()
    try:
        taken = trace(classifier.network, classifier.blank(size), through=classifier)
    except REFUSALS:
        return None
    event = taken.event(layer)
    if event is None or event.value is None or len(event.value.shape) != 4:
        return None
    row, col = position or (event.value.shape[2] // 2, event.value.shape[3] // 2)
    status, box = unit_box(taken, event.value, row, col)
    if status != "exact" or any(first > last for first, last in box):
        return None
    middle = tuple((first + last) / 2 - (side - 1) / 2 for (first, last), side in zip(box, size, strict=True))
    return Focus((middle[0], middle[1]), (box[0][1] - box[0][0] + 1, box[1][1] - box[1][0] + 1))


def _runs(classifier: Classifier, layers: Sequence[str], size: tuple[int, int]) -> bool:
    try:
        shapes(classifier, layers, size)
    except REFUSALS:
        return False
    return True


def shapes(classifier: Classifier, layers: Sequence[str], size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """What the layers give for one picture of a size; the pass ends at the last of them."""
    named = [layer for layer in layers if layer != LOGITS]
    found: dict[str, tuple[int, ...]] = {}
    with undisturbed(classifier, grad=False):
        if named:
            with record(classifier.network, named, stop=True, reduce=lambda output: tuple(output.shape)) as kept:
                classifier(classifier.blank(size))
            found = {layer: kept[layer] for layer in named}
        if LOGITS in layers:
            found[LOGITS] = tuple(classifier(classifier.blank(size)).shape)
    return found


def check(
    classifier: Classifier, objective: Objective, size: tuple[int, int], transforms: Sequence[Transform] = ()
) -> None:
    """Refuse what cannot be meant: units that are not there, places outside of a map, a canvas too small.

    ``transforms``: the network must take what they make of the canvas too.
    """
    height, width = size
    layers = list(dict.fromkeys(need.layer for need in objective.needs))
    if min(size) < 1:
        raise UsageError(f"a canvas of {height}x{width} has no pixels")
    try:
        found = shapes(classifier, layers, size) if layers else {}
    except REFUSALS as error:
        raise UsageError(
            f"{classifier.name} does not run on a canvas of {height}x{width} as far as {', '.join(layers)} "
            f"({first_line(error)}): give another size"
        ) from error
    seen = transformed(classifier.blank(size), transforms, Draws([0], 0)).shape[2:]
    if layers and seen != size and not _runs(classifier, layers, (seen[0], seen[1])):
        raise UsageError(
            f"{classifier.name} takes a canvas of {height}x{width} alone, of which the transforms make "
            f"{seen[0]}x{seen[1]}: leave out what changes the size, such as pad"
        )
    for need in objective.needs:
        _check_need(need, found[need.layer], classifier, size)


def _check_need(need: Need, shape: tuple[int, ...], classifier: Classifier, size: tuple[int, int]) -> None:
    layer = need.layer
    units = [number(need, row, classifier.classes) for row in range(len(need.units))]
    if shape[0] != 1:
        raise UsageError(f"layer {layer} gives {shape[0]} rows for one picture: what is whose cannot be told")
    if len(shape) not in (2, 4):
        raise UsageError(f"layer {layer} gives {shape[1:]} a picture: neither maps nor numbers; name a layer inside it")
    if units and max(units) >= shape[1]:
        raise UsageError(f"unit {max(units)} is out of range: {layer} has {shape[1]} units, 0 to {shape[1] - 1}")
    if need.width not in (None, shape[1]):
        raise UsageError(f"the direction has {need.width} numbers, {layer} has {shape[1]} units")
    if need.maps and len(shape) != 4:
        raise UsageError(f"{layer} has no rows and columns: a layer with maps is needed")
    if len(shape) != 4:
        return
    if need.position is not None and not all(0 <= at < side for at, side in zip(need.position, shape[2:], strict=True)):
        row, col = need.position
        raise UsageError(f"position {row},{col} is out of range: the maps of {layer} are {shape[2]}x{shape[3]}")
    if max(shape[2:]) == 1:
        full = classifier.canvas
        usual = shapes(classifier, [layer], full)[layer] if size != full else shape
        if max(usual[2:]) > 1 or need.maps:
            larger = f": give a larger size, such as {full[0]}" if max(usual[2:]) > 1 else ""
            raise UsageError(f"the maps of {layer} are one pixel on a canvas of {size[0]}x{size[1]}{larger}")


def batch_of(classifier: Classifier, objective: Objective, shape: Shape, views: int, budget: float) -> int:
    """How many pictures one batch holds within ``budget`` MiB, whole groups of them."""
    if not 0 < budget < inf:
        raise UsageError(f"the memory budget must be positive and finite, got {budget} MiB")
    layers = list(dict.fromkeys(need.layer for need in objective.needs))
    each = _kept_bytes(classifier, layers, shape) * SLACK * views * objective.group
    fitting = int(budget * MIB // each)
    if fitting < 1:
        what = "one pattern" if objective.group == 1 else f"{objective.group} patterns"
        raise UsageError(
            f"a memory budget of {budget:g} MiB does not hold {what} of {shape[1]}x{shape[2]} at once: give at least "
            f"{ceil(each / MIB)} MiB, or a smaller size"
        )
    most = max(1, AT_ONCE.get(classifier.device.type, 128) // (views * objective.group))
    return min(fitting, most) * objective.group


def _kept_bytes(classifier: Classifier, layers: Sequence[str], shape: Shape) -> float:
    """What one picture leaves behind in a forward pass as far as the layers, the picture's own arithmetic included."""
    own = 16 * shape[0] * shape[1] * shape[2] * 4
    try:
        taken = trace(classifier.network, classifier.blank(shape[1:]), through=classifier)
    except REFUSALS:  # what comes after the layers does not take this size
        full = classifier.canvas
        share = shape[1] * shape[2] / (full[0] * full[1])
        taken = trace(classifier.network, classifier.blank(full), through=classifier)
        return taken.held_bytes * max(share, 1.0) + own
    events = [event.value for layer in layers if (event := taken.event(layer)) is not None and event.value is not None]
    if LOGITS in layers or not events:
        return taken.held_bytes + own
    leading = set().union(*(taken.leading_to(value) for value in events))
    sizes = {v.memory: v.bytes for op in taken.ops for v in op.outputs if v.index in leading}
    return sum(sizes.values()) + COPIES * sum(value.bytes for value in events) + own


def _rectifies(op: Op) -> bool:
    """Whether what is below zero, and that alone, is cut off below."""
    if not op.inputs or op.name not in ("relu", "clamp", "clamp_min", "hardtanh"):
        return False
    least = argument(op, 1, "min_val" if op.name == "hardtanh" else "min", -1 if op.name == "hardtanh" else None)
    return op.name == "relu" or (isinstance(least, int | float) and least == 0)


def unrectified(classifier: Classifier, address: Address, image: Tensor | None = None) -> Address:
    """The layer whose values a ReLU cuts off to make those of ``address``; itself where that is no rectifier's output.

    What a rectified unit wants least is anything that leaves it at zero: how far below it would go is in here.
    ``image``: of the size at which the network is looked at, if that is not its own.
    """
    taken = trace(classifier.network, classifier.blank() if image is None else image, through=classifier)
    event = taken.event(address.key)
    if event is None or event.value is None or event.value.index not in taken.made_by:
        return address
    op = taken.ops[taken.made_by[event.value.index]]
    if not _rectifies(op):
        return address
    source = next((e for e in taken.events if e.value is not None and e.value == op.inputs[0]), None)
    if source is None:
        return address
    return replace(source.address, units=address.units, position=address.position)
