"""A picture for a notebook."""

import io

import numpy as np
import pytest
from PIL import Image

from convscope.images.show import figure_of, png_of


def picture(mode, size=(37, 21)):
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_png_is_the_picture(mode):
    data = png_of(picture(mode))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.mode == mode
        assert (np.asarray(opened) == np.asarray(picture(mode))).all()


def test_a_figure_is_the_picture_a_pixel_a_pixel():
    figure = figure_of(picture("RGB"))
    with io.BytesIO() as file:
        figure.savefig(file, format="png")
        with Image.open(file) as opened:
            drawn = np.asarray(opened.convert("RGB")).astype(int)
    assert drawn.shape == (21, 37, 3)
    assert np.abs(drawn - np.asarray(picture("RGB"))).max() <= 1
