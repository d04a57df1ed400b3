"""Parameterisations against sums of cosines written out, and whether each can become a photo."""

import math
from functools import cache

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

SIZES = [(4, 6), (5, 4), (3, 5), (6, 7), (1, 4)]
MATRIX = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
MATRIX /= np.linalg.norm(MATRIX, axis=0).max()
KINDS = {
    "pixel": Pixel(),
    "bounded": Pixel(noise=200.0, bounded=True),
    "fourier": Fourier(),
    "strong": Fourier(deviation=1.0),
    "maco": Maco(),
}


@cache
def cat(height, width, channels=3):
    """scikit-image's Chelsea, float64, in grey, in colours, or in colours, grey and a negative."""
    image = Image.fromarray(skimage.data.chelsea()).crop((100, 0, 400, 300))
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float64) / 255
    colours = torch.from_numpy(pixels).permute(2, 0, 1)[None].clamp(1e-4, 1 - 1e-4)
    grey = colours.mean(1, keepdim=True)
    return {1: grey, 3: colours, 5: torch.cat([colours, grey, 1 - colours[:, :1]], 1)}[channels]


def logits(images):
    """Decorrelated planes "b c h w" before the sigmoid, by numpy."""
    values = images.numpy()
    planes = np.log(values / (1 - values))
    return np.einsum("cd,bdhw->bchw", np.linalg.inv(MATRIX), planes) if planes.shape[1] == 3 else planes


def under_its_own_spectrum(photo):
    """Maco with the magnitudes of one photo, laid where those of a spectrum of 256 x 256 pixels lie."""
    _, channels, height, width = photo.shape
    side = max(height, width)
    own = np.abs(np.fft.rfft2(logits(photo), norm="ortho"))[0] * 256 / side
    magnitudes = torch.zeros(channels, 256, 129, dtype=torch.float64)
    for k in range(height):
        cycles = k if 2 * k < height else k - height
        for m in range(width // 2 + 1):
            magnitudes[:, cycles * side // height % 256, m * side // width] = torch.from_numpy(own[:, k, m])
    return Maco(magnitudes)


def as_a_real_picture_has_them(coefficients, width):
    """In the first column and, of an even width, the last: at -k the conjugate of what is at k; no picture has more."""
    found, back = coefficients.copy(), -np.arange(len(coefficients))
    for m in [0] + ([width // 2] if width % 2 == 0 else []):
        found[:, m] = (coefficients[:, m] + coefficients[back, m].conj()) / 2
    return found


def waves(coefficients, height, width):
    """A picture as the sum of its cosines, from half of its Fourier coefficients."""
    plane = np.zeros((height, width))
    for k in range(height):
        for m in range(width // 2 + 1):
            twice = 1 if m == 0 or 2 * m == width else 2  # the other half is its mirror image
            size, phase = twice * abs(coefficients[k, m]), np.angle(coefficients[k, m])
            for row in range(height):
                for col in range(width):
                    turns = k * row / height + m * col / width
                    plane[row, col] += size * math.cos(2 * math.pi * turns + phase)
    return plane / math.sqrt(height * width)


def picture(planes):
    colours = np.einsum("dc,chw->dhw", MATRIX, planes) if len(planes) == 3 else planes
    return 1 / (1 + np.exp(-colours))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(("channels", "decay"), [(3, 1.0), (1, 1.0), (5, 0.5), (3, 0.0)])
def test_a_fourier_picture_is_a_sum_of_cosines(height, width, channels, decay):
    shape = (channels, height, width)
    parameters = Fourier(deviation=1.0).start(shape, Draws([1, 2], 0))
    assert parameters.shape == (2, channels, height, width // 2 + 1, 2)
    found = Fourier(decay=decay).image(parameters, shape)
    for image, numbers in zip(found, parameters.numpy(), strict=True):
        planes = []
        for plane in numbers:
            own = np.zeros((height, width // 2 + 1), complex)
            for k in range(height):
                for m in range(width // 2 + 1):
                    cycles = math.hypot(min(k, height - k) / height, m / width)
                    own[k, m] = complex(*plane[k, m]) * 0.25 / max(cycles, 1 / max(height, width)) ** decay
            planes.append(waves(as_a_real_picture_has_them(own, width), height, width))
        assert np.allclose(image.numpy(), picture(np.array(planes)), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_maco_picture_is_a_sum_of_cosines_of_told_sizes(height, width, channels):
    shape = (channels, height, width)
    magnitudes = spectrum.resized(spectrum.bundled()[:channels], height, width).numpy()
    parameters = Maco().start(shape, Draws([1, 2], 0))
    assert parameters.shape == (2, channels, height, width // 2 + 1)
    assert -math.pi <= parameters.min() < parameters.max() <= math.pi
    for image, phases in zip(Maco().image(parameters, shape), parameters.numpy(), strict=True):
        planes = [
            waves(as_a_real_picture_has_them(own * np.exp(1j * phase), width), height, width)
            for own, phase in zip(magnitudes, phases, strict=True)
        ]
        assert np.allclose(image.numpy(), picture(np.array(planes)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 10), (9, 5)])
def test_a_picture_can_be_encoded(channels, size):
    images, shape = photos(2, channels, *size), (channels, *size)
    for kind in (Fourier(), Fourier(decay=2.0)):
        kept = images.clamp(1e-4, 1 - 1e-4)
        assert torch.allclose(kind.image(kind.encode(images), shape), kept, rtol=0, atol=1e-10)
    assert torch.allclose(Pixel().image(Pixel().encode(images), shape), images, rtol=0, atol=1e-15)
    black = torch.zeros_like(images)
    assert torch.allclose(Fourier().image(Fourier().encode(black), shape), black + 1e-4, rtol=0, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", KINDS)
def test_the_start_is_that_of_the_seeds_one_for_each_picture(name, channels):
    kind, shape = KINDS[name], (channels, 7, 10)
    start = kind.start(shape, Draws([5, 6, 7], 0))
    assert start.dtype == torch.float64
    assert start.device.type == "cpu"
    torch.manual_seed(99)
    assert torch.equal(start[[2, 1]], kind.start(shape, Draws([7, 6], 0)))
    for i in range(3):
        assert not any(torch.equal(start[i], other) for other in start[:i])
    assert not torch.equal(start, kind.start(shape, Draws([5, 6, 7], 1)))
    images = kind.image(start, shape)
    assert images.shape == (3, *shape)
    assert images.dtype == torch.float64
    assert kind.image(start.float(), shape).dtype == torch.float32
    if name != "pixel":
        assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize("size", [(7, 10), (8, 8), (28, 28), (13, 11)])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", KINDS)
def test_a_batch_is_its_pictures_one_by_one_to_the_last_bit_and_so_is_the_way_back(name, channels, size):
    kind, shape = KINDS[name], (channels, *size)
    for dtype in (torch.float64, torch.float32):
        start, weights = kind.start(shape, Draws(range(5), 0)).to(dtype), photos(5, *shape, dtype=dtype) - 0.5

        def both(chosen, start=start, weights=weights):
            leaf = start[chosen].clone().requires_grad_()
            images = kind.image(leaf, shape)
            (images * weights[chosen]).sum().backward()
            return images.detach(), leaf.grad

        images, way_back = both(slice(0, 5))
        for chosen in (slice(0, 1), slice(3, 4), slice(1, 3)):
            some, gradients = both(chosen)
            assert torch.equal(some, images[chosen])
            assert torch.equal(gradients, way_back[chosen])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_way_back_is_the_gradient(name, channels):
    kind, shape = KINDS[name], (channels, 3, 4)
    parameters = kind.start(shape, Draws([1], 0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: kind.image(x, shape), parameters)


@pytest.mark.parametrize("kind", [Fourier(), Maco()])
def test_far_out_pictures_still_have_finite_gradients(kind):
    shape = (3, 8, 8)
    parameters = (kind.start(shape, Draws([1], 0)).float() * 1e5).requires_grad_()
    kind.image(parameters, shape).sum().backward()
    assert bool(parameters.grad.isfinite().all())


def test_pixels_begin_as_grey_noise_and_may_be_kept_within_their_scale():
    start = Pixel().start((3, 40, 40), Draws([1], 0))
    assert 128 <= start.min() < 128.1
    assert 147.9 < start.max() <= 148
    assert Pixel(bounded=True).image(torch.tensor([-3.0, 300.0]), (1, 1, 2)).tolist() == [0, 1]
    assert Pixel().image(torch.tensor([-255.0, 510.0]), (1, 1, 2)).tolist() == [-1, 2]


def test_a_fourier_start_is_grey_but_for_a_little():
    start = Fourier(deviation=0.01).start((3, 64, 64), Draws([1], 0))
    assert start.std().item() == pytest.approx(0.01, rel=0.03)
    assert abs(start.mean().item()) < 0.0005
    image = Fourier().image(start, (3, 64, 64))
    assert 0.001 < image.std().item() < 0.01
    assert image.mean().item() == pytest.approx(0.5, abs=0.05)


def test_a_maco_start_has_phases_all_round():
    phases = Maco().start((3, 64, 64), Draws([1], 0)) / torch.pi
    shares = torch.histc(phases, 8, -1, 1) / phases.numel()
    assert (shares - 1 / 8).abs().max() < 5 * math.sqrt(1 / 8 / phases.numel())
    assert phases.min() < -0.999 < 0.999 < phases.max()


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("size", [(32, 48), (48, 31), (20, 20)])
def test_maco_keeps_every_magnitude_whatever_the_phases(size, channels):
    maco, shape = Maco(), (channels, *size)
    bundled = spectrum.bundled() if channels == 3 else spectrum.bundled()[:1].expand(channels, -1, -1)
    wanted = spectrum.resized(bundled, *size).numpy()
    for phases in (maco.start(shape, Draws([1, 2], 0)), maco.start(shape, Draws([3], 0)) * 100 + 7):
        found = np.abs(np.fft.rfft2(logits(maco.image(phases, shape)), norm="ortho"))
        inner = slice(1, (size[1] + 1) // 2)
        assert np.allclose(found[..., inner], wanted[..., inner], rtol=1e-6)
        # the first and the last column mirror themselves: where the two sides disagree a part is lost, nothing is won
        assert (found <= wanted * (1 + 1e-6)).all()
        assert (found[..., 0] < 0.9 * wanted[..., 0]).any()


@pytest.mark.parametrize(("height", "width"), [(48, 48), (24, 48), (48, 24), (256, 256)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_maco_under_a_photos_own_spectrum_is_that_photo(height, width, channels):
    photo = cat(height, width, channels)
    maco = under_its_own_spectrum(photo)
    error = (maco.image(maco.encode(photo), (channels, height, width)) - photo).abs().max()
    assert error < 1e-12


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(
    ("name", "rate", "steps", "share"),
    [("pixel", 2.0, 150, 0.003), ("fourier", 0.05, 250, 0.05), ("maco", 0.1, 150, 0.002)],
)
def test_each_fits_a_photo_from_its_start(name, rate, steps, share, channels):
    photo, shape = cat(48, 48, channels), (channels, 48, 48)
    kind = under_its_own_spectrum(photo) if name == "maco" else KINDS[name]
    parameters = kind.start(shape, Draws([0], 0)).requires_grad_()
    optimizer = torch.optim.Adam([parameters], lr=rate)
    errors = []
    for _ in range(steps):
        optimizer.zero_grad()
        error = (kind.image(parameters, shape) - photo).pow(2).mean()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[0] > 0.01, "the start is not the photo"
    assert errors[-1] < share * errors[0]


def test_a_spectrum_of_another_number_of_channels_is_refused():
    with pytest.raises(UsageError) as caught:
        Maco(spectrum.bundled()[:1]).image(torch.zeros(1, 3, 8, 5, dtype=torch.float64), (3, 8, 8))
    assert str(caught.value) == "the spectrum is of 1 channels, the pictures have 3"
    grey = Maco().image(Maco().start((1, 16, 16), Draws([1], 0)), (1, 16, 16))
    assert grey.shape == (1, 1, 16, 16)
