"""What photos have in common: their magnitudes, and their colours."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from convscope.errors import UsageError
from convscope.optvis import spectrum
from tests.nets import photos


def test_the_spectrum_of_a_photo_is_its_transforms_magnitude():
    square = Image.fromarray(skimage.data.astronaut()).convert("L").resize((256, 256))
    pixels = np.clip(np.asarray(square, np.float64) / 255, 0.02, 0.98)
    magnitudes = np.abs(np.fft.rfft2(np.log(pixels / (1 - pixels)), norm="ortho"))
    magnitudes = (magnitudes + magnitudes[-np.arange(256)]) / 2
    assert np.allclose(spectrum.of_photos([square], channels=1)[0], magnitudes, rtol=1e-4, atol=1e-4)


def test_a_mirrored_photo_has_the_same():
    photo = Image.fromarray(skimage.data.coffee())
    one, other = (spectrum.of_photos([p]) for p in (photo, photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-2)
    both = spectrum.of_photos([photo, Image.fromarray(skimage.data.chelsea())])
    assert torch.allclose(both, (one + spectrum.of_photos([Image.fromarray(skimage.data.chelsea())])) / 2, rtol=1e-4)


def test_no_photo_has_no_spectrum():
    with pytest.raises(UsageError, match="at least one photo"):
        spectrum.of_photos([])


def test_the_bundled_one_falls_as_photos_do():
    found = spectrum.bundled()
    assert found.shape == (3, 256, 129)
    assert bool((found > 0).all())
    cycles = spectrum.frequencies(256, 256) * 256
    near = (cycles > 4) & (cycles < 100)
    for plane in found:
        slope = np.polyfit(cycles[near].log().numpy(), plane[near].log().numpy(), 1)[0]
        assert -1.7 < slope < -0.7


@pytest.mark.parametrize("side", [64, 128, 256, 512])
def test_so_many_periods_a_picture_stay_so_many(side):
    magnitudes = torch.ones(1, 256, 129)
    magnitudes[0, 3, 5] = 100.0
    found = spectrum.resized(magnitudes, side, side)
    assert divmod(int(found.argmax()), side // 2 + 1) == (3, 5)
    assert float(found.max()) == pytest.approx(100 * side / 256)
    if side == 512:  # beyond what is known it falls as one over the frequency
        assert float(found[0, 0, 256]) == pytest.approx(float(found[0, 0, 128]) / 2)
    if side == 256:
        assert torch.allclose(spectrum.resized(spectrum.bundled(), 256, 256), spectrum.bundled().double(), rtol=1e-6)
    assert spectrum.resized(magnitudes, 24, 40).shape == (1, 24, 21)


def test_colours_can_be_taken_apart_again():
    images = photos(2)
    assert torch.allclose(spectrum.coloured(spectrum.decorrelated(images)), images, atol=1e-12)
    assert torch.equal(spectrum.coloured(images[:, :2]), images[:, :2])
