"""Framing is torchvision's and timm's pixel for pixel, and what lies on the canvas finds its way back to the photo."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage import data
from timm import get_pretrained_cfg
from timm.data import create_transform, resolve_data_config
from torchvision import models

from convscope.errors import ImageError, ModelError, UsageError
from convscope.images import frame
from convscope.images.frame import Framing, Placement, canvas_of, to_image
from convscope.models.sources import timm_framing

PHOTOS = {
    "chelsea": Image.fromarray(data.chelsea()),  # 451x300
    "coffee": Image.fromarray(data.coffee()),  # 600x400
    "portrait": Image.fromarray(data.coffee()).crop((150, 0, 401, 399)),
    "small": Image.fromarray(data.chelsea()).resize((91, 67)),  # is enlarged
}


@pytest.fixture(params=PHOTOS)
def photo(request):
    return PHOTOS[request.param]


# The same pixels as the models' own transforms

TORCHVISION = [
    models.VGG16_Weights.IMAGENET1K_V1,  # 256 -> 224, bilinear
    models.ResNet50_Weights.IMAGENET1K_V2,  # 232 -> 224
    models.Inception_V3_Weights.IMAGENET1K_V1,  # 342 -> 299
    models.EfficientNet_B1_Weights.IMAGENET1K_V1,  # 256 -> 240, bicubic
    models.EfficientNet_V2_S_Weights.IMAGENET1K_V1,  # 384 -> 384
    models.RegNet_Y_16GF_Weights.IMAGENET1K_SWAG_E2E_V1,  # 384 -> 384, bicubic
]


@pytest.mark.parametrize("weights", TORCHVISION, ids=str)
def test_torchvision_preset(weights, photo):
    preset = weights.transforms()
    framing = Framing(tuple(preset.crop_size * 2)[:2], preset.resize_size[0], preset.interpolation.value)
    preset.mean, preset.std = [0.0] * 3, [1.0] * 3
    pixels, _ = framing.apply(photo)
    assert torch.equal(pixels, preset(photo))


TIMM = {
    "tf_efficientnet_lite0.in1k": ("center", 0.875),
    "resnet50.a1_in1k": ("center", 0.95),
    "vgg16.tv_in1k": ("center", 0.875),  # bilinear
    "inception_v3.tv_in1k": ("center", 0.875),  # 299
    "convnext_base.clip_laion2b_augreg_ft_in1k": ("center", 1.0),
    "dm_nfnet_f0.dm_in1k": ("squash", 0.9),
    "tf_efficientnetv2_b3.in21k_ft_in1k": ("squash", 0.9),
    "vit_base_patch16_sapiens2.fb": ("squash", 1.0),  # a canvas of 1024x768
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_transform(name, photo):
    config = resolve_data_config(pretrained_cfg=get_pretrained_cfg(name).to_dict())
    assert (config["crop_mode"], config["crop_pct"]) == TIMM[name]
    theirs = create_transform(**config | {"mean": (0, 0, 0), "std": (1, 1, 1)})
    pixels, _ = timm_framing(config).apply(photo)
    assert torch.equal(pixels, theirs(photo))


@pytest.mark.parametrize("other", [{"crop_mode": "border"}, {"crop_pct": 1.15}])
def test_timm_borders_are_refused(other):
    config = resolve_data_config(pretrained_cfg=get_pretrained_cfg("resnet50").to_dict())
    with pytest.raises(ModelError, match="border"):
        timm_framing(config | other)


@pytest.mark.parametrize("size", [(96, 96), (64, 128), (130, 70)])
def test_canvas_shows_the_centre(size):
    side = 60
    array = np.zeros((600, 800, 3), np.uint8)
    array[300 - side : 300 + side, 400 - side : 400 + side] = 255
    pixels, placed = Framing(size, min(size)).apply(Image.fromarray(array))
    rows, cols = (pixels[0] > 0.5).nonzero().T
    scale = placed.resized[0] / 600
    for found, length in ((rows, size[0]), (cols, size[1])):
        assert float(found.float().mean() + 0.5) == pytest.approx(length / 2, abs=1)
        assert int(found.max() - found.min()) + 1 == pytest.approx(2 * side * scale, abs=1.5)


def test_without_a_size_photos_stay_as_they_are(photo):
    pixels, placed = Framing().apply(photo)
    assert torch.equal(pixels, torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 255)
    assert placed == Placement(photo.size[::-1], photo.size[::-1], 0, 0, photo.size[::-1])
    maps = torch.rand(2, *photo.size[::-1])
    assert torch.equal(placed.to_photo(maps), maps)


def test_squash_shows_all_of_the_photo(photo):
    pixels, placed = Framing((40, 50), interpolation="bilinear").apply(photo)
    assert torch.equal(pixels, torch.from_numpy(np.array(photo.resize((50, 40), 2))).permute(2, 0, 1) / 255)
    assert placed.seen == (0, 0, photo.height, photo.width)


def test_one_channel_is_luminance(photo):
    pixels, _ = Framing((32, 32), 32).apply(photo, channels=1)
    grey, _ = Framing((32, 32), 32).apply(photo.convert("L").convert("RGB"))
    assert pixels.shape == (1, 32, 32)
    assert torch.equal(pixels[0], grey[1])


def test_photo_is_left_alone(photo):
    before = photo.copy()
    pixels, _ = Framing((64, 64), 64).apply(photo)
    pixels.zero_()
    assert photo.tobytes() == before.tobytes()


def test_there_and_back():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    pixels, _ = Framing().apply(image)
    assert to_image(pixels).tobytes() == image.tobytes()
    grey, _ = Framing().apply(image, channels=1)
    assert to_image(grey).tobytes() == image.convert("L").convert("RGB").tobytes()


# Back to the photo

framings = st.builds(
    Framing,
    size=st.tuples(st.integers(24, 120), st.integers(24, 120)),
    short=st.none(),
    interpolation=st.sampled_from(["bilinear", "bicubic", "nearest"]),
) | st.builds(
    lambda size, more, squash: Framing(size, math.floor(min(size) * more), "bilinear", squash),
    size=st.tuples(st.integers(24, 120), st.integers(24, 120)),
    more=st.floats(1, 1.5),
    squash=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(framings, st.integers(20, 240), st.integers(20, 240), st.floats(0, 1), st.floats(0, 1))
def test_a_mark_comes_back_to_its_place(framing, height, width, down, across):
    """A soft square at a known place, framed and mapped back: its centre of mass is where it was."""
    placed = framing.place(height, width)
    top, left, bottom, right = placed.seen
    half = max(3, math.ceil(2 * max(height / placed.resized[0], width / placed.resized[1])))
    assume(bottom - top >= 4 * half + 2 and right - left >= 4 * half + 2)
    row = round(top + 2 * half + down * (bottom - top - 4 * half - 1))
    col = round(left + 2 * half + across * (right - left - 4 * half - 1))
    array = np.zeros((height, width, 3), np.uint8)
    array[row - half : row + half + 1, col - half : col + half + 1] = 255
    pixels, _ = framing.apply(Image.fromarray(array))
    back = placed.to_photo(pixels[0])
    assert back.shape == (height, width)
    weights = back.clamp_min(0) * (back > 0.25 * back.max())
    found = [float((weights.sum(1 - d) * torch.arange(back.shape[d])).sum() / weights.sum()) for d in (0, 1)]
    step = [max(1.0, original / resized) for original, resized in zip(placed.original, placed.resized, strict=True)]
    near = 1.0 if framing.interpolation == "nearest" else 0.5
    assert found[0] == pytest.approx(row, abs=near * step[0])
    assert found[1] == pytest.approx(col, abs=near * step[1])


@settings(max_examples=150, deadline=None)
@given(framings, st.integers(1, 300), st.integers(1, 300))
def test_seen_is_what_reaches_the_canvas(framing, height, width):
    """The mapped map covers what is seen, and nothing else; what is seen holds the middle of the photo."""
    placed = framing.place(height, width)
    top, left, bottom, right = placed.seen
    assert 0 <= top < bottom <= height
    assert 0 <= left < right <= width
    back = placed.to_photo(torch.ones(2, *placed.canvas))
    assert back[:, top:bottom, left:right].allclose(torch.ones(()))
    assert float(back.sum()) == pytest.approx(2 * (bottom - top) * (right - left), rel=1e-4)
    for first, end, length, i in ((top, bottom, height, 0), (left, right, width, 1)):
        assert abs((first + end) / 2 - length / 2) <= 0.5 + 0.5 * length / placed.resized[i]
        assert end - first == pytest.approx(max(1, placed.canvas[i] * length / placed.resized[i]), abs=1)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 3), (3, 1), (1, 40), (40, 1)])
@pytest.mark.parametrize("framing", [Framing((24, 24), 30), Framing((24, 32), 24), Framing((24, 24)), Framing()])
def test_photos_of_a_pixel(framing, size):
    image = Image.new("RGB", size, (10, 200, 30))
    pixels, placed = framing.apply(image)
    assert pixels.flatten(1).T.unique(dim=0).mul(255).round().tolist() == [[10, 200, 30]]
    back = placed.to_photo(torch.full(placed.canvas, 0.25))
    top, left, bottom, right = placed.seen
    assert torch.allclose(back[top:bottom, left:right], torch.tensor(0.25))


def test_upscaling_does_not_fade_towards_the_crop():
    placed = Framing((32, 32), 64).place(1000, 1000)
    back = placed.to_photo(torch.ones(32, 32))
    assert placed.seen == (250, 250, 750, 750)
    assert torch.equal(back[250:750, 250:750], torch.ones(500, 500))
    assert not back[:250].any()
    assert not back[:, 750:].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_maps_of_any_dtype_and_rank(dtype):
    placed = Framing((8, 8), 8).place(20, 30)
    maps = torch.rand(2, 3, 8, 8).to(dtype).requires_grad_()
    back = placed.to_photo(maps)
    assert (back.shape, back.dtype, back.requires_grad) == ((2, 3, 20, 30), torch.float32, False)
    assert torch.equal(back[1, 2], placed.to_photo(maps[1, 2]))


# What cannot be meant


@pytest.mark.parametrize("size", [0, -3, (0, 5), (5,), (1, 2, 3), ()])
def test_sizes_that_are_none(size):
    with pytest.raises(UsageError, match="size is one side or"):
        canvas_of(size)


def test_sizes():
    assert canvas_of(7) == (7, 7)
    assert canvas_of((7, 9)) == canvas_of(json.loads("[7, 9]")) == (7, 9)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"interpolation": "cubic"}, "interpolation 'cubic'"),
        ({"size": (0, 4)}, "0x4"),
        ({"size": (8, 8), "short": 7}, "7, which does not cover 8x8"),
    ],
)
def test_framings_that_are_none(options, words):
    with pytest.raises(UsageError, match=words):
        Framing(**options)


def test_maps_of_another_size_are_refused():
    with pytest.raises(UsageError, match=r"\(7, 7\).*\(8, 8\)"):
        Framing((8, 8), 8).place(20, 30).to_photo(torch.rand(7, 7))


def test_photos_for_a_model_of_four_channels():
    with pytest.raises(UsageError, match="takes 4"):
        Framing().apply(PHOTOS["small"], channels=4)


def test_a_line_is_not_enlarged_without_end(monkeypatch):
    monkeypatch.setattr(frame, "MAX_RESIZED", 1000 * 1000)
    with pytest.raises(ImageError, match="5000x1 is too long and narrow"):
        Framing((224, 224), 224).apply(Image.new("RGB", (5000, 1)))
    Framing((224, 224)).apply(Image.new("RGB", (5000, 1)))  # squashed, it is small
    Framing().apply(Image.new("RGB", (5000, 300)))  # taken as it is
