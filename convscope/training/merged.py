"""A photo projected back through every layer, and a layer's projections merged into one picture.

What a classifier shows of itself while it learns: one picture a layer, in which a layer that is dead is seen at once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from convscope.errors import UsageError
from convscope.images import colour
from convscope.images.frame import to_image
from convscope.images.sheet import contact_sheet
from convscope.instrument.address import Address
from convscope.instrument.layers import is_spatial, resolve
from convscope.instrument.receptive_field import keeps_place, takes_statistics
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target
from convscope.instrument.trace import Event, Op, Trace, Value, is_convolution, trace
from convscope.methods import METHODS, configure
from convscope.models.classifier import Classifier
from convscope.progress import track
from convscope.types import OneImage

COLUMNS = 5


class Merged(NamedTuple):
    """A layer's merged projections, uint8 "h w 3" or of one channel "h w". ``dead``: all its maps are zero."""

    layer: str
    picture: np.ndarray
    dead: bool


def merged_projections(
    classifier: Classifier,
    image: OneImage,
    layers: Sequence[str] | None = None,
    strongest: int = 16,
    *,
    method: str | Any = "deconvnet",
) -> list[Merged]:
    """An image "1 c h w" projected back from each layer's ``strongest`` units, one by one, and merged.

    Each projection is stretched from its own [min, max], over all its channels, and their sum is stretched again; a
    unit that is zero all over the image is left out. ``layers``: addresses or globs, by default the activated map of
    every convolution. ``method``: any method of the registry that projects to pixels.
    """
    if len(image) != 1:
        raise UsageError(f"merged projections are of one image, got {len(image)}: pass images[:1]")
    if strongest < 1:
        raise UsageError(f"strongest must be at least 1, got {strongest}")
    project = projecting(method)
    if layers is None:
        wanted = [event.address for event in convolution_maps(classifier, image)]
    else:
        wanted = [a for layer in layers for a in resolve(classifier.network, layer, image, through=classifier)]
    with undisturbed(classifier, grad=False), record(classifier.network, wanted, stop=True, reduce=_standing) as kept:
        classifier(image)
    found = []
    for layer in track(wanted, "merged projections"):
        peaks, alive = kept[layer]
        units = [unit for unit in peaks.sort(descending=True, stable=True).indices.tolist() if alive[unit]]
        if not units:
            shape = image.shape[-2:] if image.shape[1] == 1 else (*image.shape[-2:], 3)
            found.append(Merged(layer.key, np.zeros(shape, np.uint8), True))
            continue
        target = Target(Address(layer.layer, layer.call), tuple(units[:strongest]))
        assert target.index is not None
        raw = project.run(classifier, image.expand(len(target.index), -1, -1, -1), target).raw
        found.append(Merged(layer.key, _merge(raw), False))
    return found


def merged_sheet(
    merged: Sequence[Merged], photo: OneImage | None = None, *, title: str | None = None, columns: int = COLUMNS
) -> Image.Image:
    """One picture a layer, after the photo "1 c h w" where it is given; dead layers are crossed out and said to be."""
    first = [] if photo is None else [to_image(photo[0])]
    tiles = [*first, *(Image.fromarray(one.picture) for one in merged)]
    labels = [*("photo" for _ in first), *map(_label, merged)]
    dead = [*(False for _ in first), *(one.dead for one in merged)]
    return contact_sheet(tiles, labels, columns=columns, dead=dead, title=title)


def _label(one: Merged) -> str:
    if one.dead:
        return f"{one.layer} (dead)"
    return one.layer if one.picture.any() else f"{one.layer}: nothing reached the pixels"


def projecting(method: str | Any) -> Any:
    """A method of the registry, by its name or as made of it; it has to give pixels for a unit."""
    method = configure(method) if isinstance(method, str) else method
    if type(method) not in METHODS.values():
        raise UsageError(f"a method is a name such as 'deconvnet', or one made of METHODS: got {method!r}")
    if method.traits.kind != "pixels" or not method.traits.targeted:
        fitting = [known for known, cls in METHODS.items() if cls.traits.kind == "pixels" and cls.traits.targeted]
        raise UsageError(f"{method.name} does not project units to pixels; these do: {', '.join(fitting)}")
    return method


def _standing(maps: Tensor) -> tuple[Tensor, list[bool]]:
    """Of one image's maps: each unit's maximum, and whether it is anywhere not zero."""
    flat = maps[0].flatten(1) if maps.ndim > 2 else maps[0][:, None]
    return flat.amax(1), flat.any(1).tolist()


def _merge(raw: Tensor) -> np.ndarray:
    """Projections "n c h w" as one picture. The channels of a projection share its scale, or its colours would change.

    So they are laid below one another, as one map.
    """
    channels, height, _ = raw.shape[1:]
    level = np.rint(255 * colour.merge(raw.flatten(1, 2))).astype(np.uint8)
    picture = level.reshape(channels, height, -1).transpose(1, 2, 0)
    return np.ascontiguousarray(picture[..., 0] if channels == 1 else picture)


# --- which maps are looked at


def default_units(
    classifier: Classifier, image: OneImage, per_layer: int = 6, seed: int = 0, layers: int = 5
) -> list[str]:
    """Units drawn at random, ``per_layer`` of each of up to ``layers`` layers, as addresses such as "features.29:3,17".

    The layers are the activated maps of all convolutions, where they are no more than that; else the last map of each
    resolution (``@stages``), the deepest of them.
    """
    if per_layer < 1 or layers < 1:
        raise UsageError(f"per_layer and layers must be at least 1, got {per_layer} and {layers}")
    events = convolution_maps(classifier, image)
    if len(events) > layers:
        taken = trace(classifier.network, image, through=classifier)
        stages = resolve(classifier.network, "@stages", image, through=classifier)[-layers:]
        last = [event.value for stage in stages if (event := taken.event(stage.key)) is not None]
        named = _named(taken)
        events = [named[value.index] for value in last if value is not None]
    generator = torch.Generator().manual_seed(seed)
    found = []
    for event in events:
        assert event.value is not None
        drawn = torch.randperm(event.value.shape[1], generator=generator)[:per_layer]
        found.append(f"{event.address.key}:{','.join(map(str, sorted(drawn.tolist())))}")
    return found


def convolution_maps(classifier: Classifier, image: OneImage) -> list[Event]:
    """The map that each convolution leads to, after normalisation, residual sum and activation, in order of execution.

    Convolutions that lead to the same map (a shortcut's and the branch's) count once. Gates are left out: maps of one
    pixel before larger ones.
    """
    taken = trace(classifier.network, image, through=classifier)
    everything = {value.index for op in taken.ops for value in op.outputs}
    leading = everything if taken.output is None else taken.leading_to(taken.output)
    named = _named(taken)
    users: dict[int, list[Op]] = defaultdict(list)
    for op in taken.ops:
        if any(out.index in leading for out in op.outputs):
            for index in {value.index for value in op.inputs}:
                users[index].append(op)
    found: dict[int, Event] = {}
    for op in taken.ops:
        if is_convolution(op) and op.outputs[0].index in leading and len(op.outputs[0].shape) == 4:
            last = next((v for v in reversed(_onwards(op.outputs[0], users)) if v.index in named), None)
            if last is not None:
                found[last.index] = named[last.index]
    events = sorted(found.values(), key=lambda event: event.done)
    if not events:
        raise UsageError(f"{classifier.name} has no convolution that can be seen: name the layers")
    pixels = [math.prod(event.value.shape[2:]) for event in events if event.value is not None]
    return [event for i, event in enumerate(events) if pixels[i] > 1 or max(pixels[i:]) == 1]


def _named(taken: Trace) -> dict[int, Event]:
    """Value -> the layer that made it: the innermost of several modules; a function only where there is no module."""
    found: dict[int, Event] = {}
    for event in taken.events:
        if event.value is not None and is_spatial(event) and event.kind not in _IDLE:
            before = found.setdefault(event.value.index, event)
            if before.address.function and not event.address.function:
                found[event.value.index] = event
    return found


def _onwards(value: Value, users: Mapping[int, list[Op]]) -> list[Value]:
    """What a convolution's output goes through up to its activation, which may come after a pool.

    It ends where a value is used twice, or by what is no part of the same layer; without an activation, before a pool.
    """
    chain, pooled = [value], False
    while len(users.get(chain[-1].index, ())) == 1:
        (op,) = users[chain[-1].index]
        pooled = pooled or op.name in _POOLS
        if op.name not in _POOLS and (op.outputs[0].shape != chain[-1].shape or not _same_layer(op)):
            break
        chain.append(op.outputs[0])
        if op.name in _ACTIVATIONS:
            return chain
    return [v for v in chain if v.shape == value.shape] if pooled else chain


def _same_layer(op: Op) -> bool:
    return keeps_place(op) or takes_statistics(op) or op.name in ("native_group_norm", "view", "_unsafe_view")


_IDLE = {"Identity", "Dropout", "Dropout2d"}  # in evaluation mode they hand on what they are given
_POOLS = {"max_pool2d_with_indices", "avg_pool2d"}
_ACTIVATIONS = {
    *("relu", "clamp", "clamp_min", "hardtanh", "threshold", "maximum", "leaky_relu", "_prelu_kernel", "rrelu"),
    *("elu", "gelu", "silu", "mish", "hardswish", "softplus", "tanh", "sigmoid", "hardsigmoid", "log_sigmoid_forward"),
}
