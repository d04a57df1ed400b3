"""Close-ups: what a unit of a small field sees is shown by itself, beside the photo there."""

import numpy as np
import pytest
import torch
from PIL import Image

from convscope.images.frame import Placement
from convscope.methods import display
from convscope.scope import Scope
from tests.nets import Skip, photos, seeded

CANVAS = torch.linspace(0, 1, 3 * 20 * 30).reshape(3, 20, 30)


def raw_at(top, left, bottom, right):
    raw = torch.zeros(3, 20, 30)
    raw[1, top, left] = raw[2, bottom - 1, right - 1] = 1
    return raw


@pytest.mark.parametrize("box", [(0, 0, 3, 4), (5, 7, 15, 22), (17, 29, 20, 30)])
def test_the_box_of_what_is_not_zero(box):
    top, left, bottom, right = box
    raw = raw_at(*box)
    assert display.small_field(raw) == box
    part, photo = display.closeup(raw, CANVAS, box)
    times = 224 // max(bottom - top, right - left)
    assert part.size == photo.size == ((right - left) * times, (bottom - top) * times)
    wanted = (CANVAS[:, top:bottom, left:right] * 255).round().byte().permute(1, 2, 0)
    assert torch.equal(torch.from_numpy(np.array(photo))[::times, ::times], wanted)
    first, last = part.getpixel((0, 0)), part.getpixel((part.width - 1, part.height - 1))
    assert first[1] == last[2] == 255, "both ends of the box are in the picture"


@pytest.mark.parametrize("box", [(0, 0, 11, 4), (0, 0, 3, 16), (0, 0, 20, 30)])
def test_none_where_most_of_the_canvas_is_covered(box):
    assert display.small_field(raw_at(*box)) is None


def test_none_of_nothing_and_of_nan():
    assert display.small_field(torch.zeros(3, 20, 30)) is None
    broken = raw_at(0, 0, 3, 4)
    broken[0, 2, 2] = torch.nan
    assert display.small_field(broken) is None


@pytest.mark.parametrize("box", [(5, 7, 15, 22), (0, 0, 3, 4), (17, 29, 20, 30)])
def test_the_frame_lies_round_the_field_on_the_photo(box):
    placement = Placement(original=(80, 160), resized=(40, 80), top=10, left=25, canvas=(20, 30))
    top, left, bottom, right = placement.on_photo(box)
    assert (top, left) == (2 * (box[0] + 10), 2 * (box[1] + 25))
    assert (bottom, right) == (2 * (box[2] + 10), 2 * (box[3] + 25))
    drawn = np.array(display.framed(Image.new("RGB", (160, 80)), box, placement))
    assert not drawn[top:bottom, left:right].any(), "the field itself is not drawn over"
    ink = (drawn == display.FRAME).all(2)
    assert ink[top - 1, left - 1 : right + 1].all()
    assert ink[top - 1 : bottom + 1, right].all()


def test_units_of_early_layers_have_one_and_classes_have_none(tmp_path):
    net = Scope(seeded(Skip()))
    images = photos(1, 3, 40, 48)
    unit = net.explain(images, "gradient", target="conv1:0-2")
    assert [close is not None for close in map(unit.closeup, range(3))] == [True] * 3
    names = {path.stem for path in unit.save_each(tmp_path)}
    assert names == {"grey", "heat", "overlay", "closeup", "closeup-photo"}
    assert net.explain(images, "gradient", target=1).closeup() is None
    assert net.explain(images, "occlusion", target="conv1:0").closeup() is None, "a map, not a projection"
    assert unit.sheet().width > net.explain(images, "gradient", target=1).sheet().width
