"""A unit's own weights, where they can be seen: of a convolution on pixels, or one that looks at a single map."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from convscope.images import colour
from convscope.instrument.receptive_field import keeps_place
from convscope.instrument.trace import Trace, Value, is_convolution, trace
from convscope.models.classifier import Classifier

SIDE = 150  # pixels, about


def filter_picture(classifier: Classifier, layer: str, unit: int) -> Image.Image | None:
    """The filter behind a unit, pixels as squares; None where it has too many channels to be a picture."""
    taken = trace(classifier.network, classifier.blank(), through=classifier)
    event = taken.event(layer)
    weights = None if event is None or event.value is None else _filters(taken, event.value)
    if weights is None or unit >= len(weights) or weights.shape[1] not in (1, 3) or max(weights.shape[2:]) < 2:
        return None
    values = weights[unit].detach().float()
    drawn = colour.pixels(values, limit=float(values.abs().max()) or None)
    times = max(1, SIDE // max(drawn.shape[:2]))
    return Image.fromarray(drawn.repeat(times, 0).repeat(times, 1))


def _filters(taken: Trace, value: Value) -> Tensor | None:
    """The weights of the convolution that gives a value, or what is only normalised and rectified after it."""
    while value.index in taken.made_by:
        op = taken.ops[taken.made_by[value.index]]
        if is_convolution(op):
            found = next((one for one in op.constants if one.ndim == 4), None)
            return found if found is not None and not op.args[6] else None
        if not keeps_place(op) or len(op.inputs) != 1:
            return None
        value = op.inputs[0]
    return None
