"""Parameterisations against sums of waves written out, and whether each can become a photo."""

import math

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from convscope.errors import UsageError
from convscope.optvis import spectrum
from convscope.optvis.draws import Draws
from convscope.optvis.parameterizations import Fourier, Maco, Pixel
from tests.nets import photos


def cat(side, channels=3):
    """scikit-image's Chelsea, float64."""
    image = (
        Image.fromarray(skimage.data.chelsea()).crop((100, 0, 400, 300)).resize((side, side), Image.Resampling.BICUBIC)
    )
    pixels = torch.from_numpy(np.asarray(image, np.float64) / 255).permute(2, 0, 1)[None]
    return pixels if channels == 3 else pixels.mean(1, keepdim=True)


def waves(coefficients, height, width):
    """The inverse of a real picture's Fourier transform, as a sum of waves, of rows and half of the columns."""
    plane = np.zeros((height, width))
    rows, cols = np.mgrid[:height, :width]
    for k in range(height):
        for m in range(width // 2 + 1):
            twice = 1 if m == 0 or 2 * m == width else 2  # the other half is its conjugate
            wave = np.exp(2j * np.pi * (k * rows / height + m * cols / width))
            plane += twice * (coefficients[k, m] * wave).real
    return plane / math.sqrt(height * width)


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 4), (3, 5)])
def test_a_fourier_picture_is_a_sum_of_waves(height, width):
    shape = (3, height, width)
    parameters = Fourier(deviation=1.0).start(shape, Draws([1, 2], 0))
    matrix = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
    matrix /= np.linalg.norm(matrix, axis=0).max()
    found = Fourier().image(parameters, shape)
    for picture, numbers in zip(found, parameters, strict=True):
        planes = []
        for channel in numbers.numpy():
            own = np.zeros((height, width // 2 + 1), complex)
            for k in range(height):
                for m in range(width // 2 + 1):
                    cycles = math.hypot(min(k, height - k) / height, m / width)
                    own[k, m] = complex(*channel[k, m]) * 0.25 / max(cycles, 1 / max(height, width))
            own[:, 0] = (own[:, 0] + own[-np.arange(height), 0].conj()) / 2  # what a real picture can have of them
            if width % 2 == 0:
                own[:, -1] = (own[:, -1] + own[-np.arange(height), -1].conj()) / 2
            planes.append(waves(own, height, width))
        colours = np.einsum("dc,chw->dhw", matrix, np.array(planes))
        assert np.allclose(picture.numpy(), 1 / (1 + np.exp(-colours)), atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 10)])
def test_a_picture_can_be_encoded(channels, size):
    images, shape = photos(2, channels, *size), (channels, *size)
    for kind in (Pixel(), Fourier(), Fourier(decay=2.0)):
        assert torch.allclose(kind.image(kind.encode(images), shape), images.clamp(1e-4, 1 - 1e-4), atol=1e-10) or (
            isinstance(kind, Pixel) and torch.allclose(kind.image(kind.encode(images), shape), images)
        )
        start = kind.start(shape, Draws([5, 6], 0))
        assert start.dtype == torch.float64
        assert torch.equal(start[1:], kind.start(shape, Draws([6], 0)))
        assert not torch.equal(start[0], start[1])
        assert kind.image(start, shape).shape == (2, *shape)


def test_pixels_begin_as_grey_noise_and_may_be_kept_within_their_scale():
    start = Pixel().start((3, 40, 40), Draws([1], 0))
    assert 128 <= start.min() < 128.1
    assert 147.9 < start.max() <= 148
    assert Pixel(bounded=True).image(torch.tensor([-3.0, 300.0]), (1, 1, 2)).tolist() == [0, 1]
    assert Pixel().image(torch.tensor([-255.0, 510.0]), (1, 1, 2)).tolist() == [-1, 2]


def test_maco_keeps_every_magnitude_whatever_the_phases():
    shape = (3, 32, 48)
    maco = Maco()
    images = maco.image(maco.start(shape, Draws([1, 2], 0)), shape)
    planes = spectrum.decorrelated(images.logit())
    found = torch.fft.rfft2(planes, norm="ortho").abs()
    wanted = spectrum.resized(spectrum.bundled(), 32, 48)
    inner = slice(1, 24)  # the first and the last column mirror themselves, and so have part of it alone
    assert torch.allclose(found[..., inner], wanted[..., inner].expand(2, -1, -1, -1), rtol=1e-6)


def test_maco_under_a_photos_own_spectrum_is_that_photo():
    photo = cat(256)
    planes = spectrum.decorrelated(photo.logit(eps=1e-4))
    maco = Maco(torch.fft.rfft2(planes, norm="ortho")[0].abs())
    error = (maco.image(maco.encode(photo), (3, 256, 256)) - photo.clamp(1e-4, 1 - 1e-4)).abs().max()
    assert error < 1e-6


@pytest.mark.parametrize(("kind", "share"), [("pixel", 1e-3), ("fourier", 0.02), ("maco", 0.35)])
def test_each_fits_a_photo_from_its_start(kind, share):
    side = 48 if kind != "maco" else 256
    photo, shape = cat(side), (3, side, side)
    planes = spectrum.decorrelated(photo.logit(eps=1e-4))
    made, rate = {
        "pixel": (Pixel(), 2.0),
        "fourier": (Fourier(), 0.05),
        "maco": (Maco(torch.fft.rfft2(planes, norm="ortho")[0].abs()), 0.1),
    }[kind]
    parameters = made.start(shape, Draws([0], 0)).requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=rate)
    errors = []
    for _ in range(250 if kind != "maco" else 60):
        optimizer.zero_grad()
        error = (made.image(parameters, shape) - photo).pow(2).mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[-1] < share * errors[0]


def test_a_spectrum_of_another_number_of_channels_is_refused():
    with pytest.raises(UsageError, match="1 channels, the pictures have 3"):
        Maco(spectrum.bundled()[:1]).image(torch.zeros(1, 3, 8, 5, dtype=torch.float64), (3, 8, 8))
    grey = Maco().image(Maco().start((1, 16, 16), Draws([1], 0)), (1, 16, 16))
    assert grey.shape == (1, 1, 16, 16)
