"""What photos have in common: their magnitudes, and their colours."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from convscope.errors import UsageError
from convscope.optvis import spectrum
from tests.nets import photos

MATRIX = np.array([[0.26, 0.09, 0.02], [0.27, 0.00, -0.05], [0.27, -0.09, 0.03]])
MATRIX /= np.linalg.norm(MATRIX, axis=0).max()
COFFEE = Image.fromarray(skimage.data.coffee())
CAT = Image.fromarray(skimage.data.chelsea())


def magnitudes(square):
    """Of one square of 256 x 256 pixels and its mirror image, by numpy: "c 256 129"."""
    total = 0
    for pixels in (np.asarray(square, np.float64), np.asarray(square, np.float64)[:, ::-1]):
        values = np.clip(pixels.reshape(256, 256, -1) / 255, 0.02, 0.98)
        planes = np.log(values / (1 - values))
        if planes.shape[2] == 3:
            planes = planes @ np.linalg.inv(MATRIX).T
        total = total + np.abs(np.fft.rfft2(planes, axes=(0, 1), norm="ortho")) / 2
    return total.transpose(2, 0, 1)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_spectrum_of_a_square_is_its_transforms_magnitude(mode):
    square = Image.fromarray(skimage.data.astronaut()).convert(mode).resize((256, 256))
    found = spectrum.of_photos([square], channels=3 if mode == "RGB" else 1)
    assert found.shape == (3 if mode == "RGB" else 1, 256, 129)
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), magnitudes(square), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("upright", [False, True])
def test_of_what_is_not_square_the_ends_and_the_middle_are_seen(upright):
    """Photos of 256 x 400 pixels, so that nothing is resized."""
    photo = COFFEE.resize((256, 400) if upright else (400, 256))
    corners = [(0, at) if upright else (at, 0) for at in (0, 72, 144)]
    squares = [photo.crop((left, top, left + 256, top + 256)) for left, top in corners]
    wanted = sum(magnitudes(square) for square in squares) / 3
    assert np.allclose(spectrum.of_photos([photo]).numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_large_photos_are_made_smaller_first():
    square = CAT.crop((0, 0, 300, 300))
    wanted = magnitudes(square.resize((256, 256), Image.Resampling.BICUBIC))
    assert np.allclose(spectrum.of_photos([square]).numpy(), wanted, rtol=1e-4, atol=1e-4)


def test_a_mirrored_photo_has_the_same():
    one, other = (spectrum.of_photos([p]) for p in (COFFEE, COFFEE.transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-2)


def test_several_photos_have_the_mean_of_theirs():
    both = spectrum.of_photos(iter([COFFEE, CAT]))
    assert torch.allclose(both, (spectrum.of_photos([COFFEE]) + spectrum.of_photos([CAT])) / 2, rtol=1e-4)


def test_for_one_channel_photos_are_seen_in_grey_and_for_three_grey_ones_in_colours():
    grey = CAT.convert("L")
    assert torch.equal(spectrum.of_photos([CAT], channels=1), spectrum.of_photos([grey], channels=1))
    coloured = spectrum.of_photos([grey], channels=3)
    assert torch.allclose(coloured, spectrum.of_photos([grey.convert("RGB")]))
    assert (coloured[1:].mean((1, 2)) < 0.1 * coloured[0].mean()).all(), "of colours it has nearly none"
    for mode in ("RGBA", "P", "CMYK"):
        assert spectrum.of_photos([CAT.convert(mode)]).isfinite().all()


def test_white_and_black_have_no_infinite_magnitudes():
    for value in (0, 255):
        found = spectrum.of_photos([Image.new("L", (300, 260), value)], channels=1)
        assert found[0, 0, 0].item() == pytest.approx(np.log(49) * 256, rel=1e-4)  # a mean logit of .98, times 256
        assert (found.flatten()[1:] < 1e-2).all()


def test_no_photo_has_no_spectrum():
    with pytest.raises(UsageError) as caught:
        spectrum.of_photos([])
    assert str(caught.value) == "a spectrum needs at least one photo"


def test_the_bundled_one_falls_as_photos_do():
    found = spectrum.bundled()
    assert found.shape == (3, 256, 129)
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert bool((found > 0).all())
    rows, cols = np.meshgrid(np.fft.fftfreq(256) * 256, np.arange(129), indexing="ij")
    cycles = np.hypot(rows, cols)
    assert np.allclose(spectrum.frequencies(256, 256).numpy() * 256, cycles)
    rings = [(cycles >= low) & (cycles < 1.5 * low) for low in 1.5 ** np.arange(1, 11)]  # up to 86 periods a picture
    for plane in found.numpy():
        means = [plane[ring].mean() for ring in rings]
        assert (np.diff(means) < 0).all(), "the finer, the less of it"
        slope = np.polyfit(np.log([cycles[ring].mean() for ring in rings]), np.log(means), 1)[0]
        assert -1.7 < slope < -0.8


@pytest.mark.parametrize("size", [(8, 8), (5, 6), (3, 7)])
def test_frequencies_are_cycles_a_pixel(size):
    found = spectrum.frequencies(*size)
    assert found.shape == (size[0], size[1] // 2 + 1)
    for k in range(size[0]):
        for m in range(size[1] // 2 + 1):
            assert found[k, m].item() == pytest.approx(np.hypot(min(k, size[0] - k) / size[0], m / size[1]))


def wave(height, width, down, along):
    """A sinusoid of so many periods a picture, as pixels and as magnitudes of its logit."""
    rows, cols = np.mgrid[:height, :width]
    planes = np.cos(2 * np.pi * (down * rows / height + along * cols / width) + 0.3)
    return planes, np.abs(np.fft.rfft2(planes, norm="ortho"))


@pytest.mark.parametrize("side", [64, 128, 256, 512])
@pytest.mark.parametrize(("down", "along"), [(3, 5), (-7, 20), (0, 1), (12, 0), (-31, 31)])
def test_a_wave_of_so_many_periods_a_picture_stays_so_at_any_size(side, down, along):
    """Its magnitude, too, is what a picture of that size has."""
    _, known = wave(256, 256, down, along)
    _, wanted = wave(side, side, down, along)
    found = spectrum.resized(torch.from_numpy(known)[None], side, side)[0].numpy()
    assert found[down % side, along] == pytest.approx(found.max()), "nowhere is there more"
    assert np.allclose(found, wanted, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(128, 256), (256, 128), (64, 128), (256, 512)])
def test_a_picture_that_is_not_square_is_part_of_a_square(height, width):
    """A wave fits into it as often as its share of the square allows."""
    side = max(height, width)
    _, known = wave(256, 256, 8, 12)
    down, along = 8 * height // side, 12 * width // side
    found = spectrum.resized(torch.from_numpy(known)[None], height, width)[0].numpy()
    assert found.shape == (height, width // 2 + 1)
    assert divmod(int(found.argmax()), width // 2 + 1) == (down, along)
    assert found.max() == pytest.approx(known.max() * side / 256)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 3), (24, 40), (41, 23), (300, 200)])
def test_there_is_a_spectrum_for_every_size(size):
    found = spectrum.resized(spectrum.bundled(), *size)
    assert found.shape == (3, size[0], size[1] // 2 + 1)
    assert found.dtype == torch.float64
    assert bool((found > 0).all())
    side = max(size)
    for k in range(size[0]):
        row = (k if 2 * k < size[0] else k - size[0]) * side / size[0]
        for m in range(size[1] // 2 + 1):
            col = m * side / size[1]
            if row == int(row) and col == int(col) and max(abs(row), col) < 128:
                wanted = spectrum.bundled()[:, int(row) % 256, int(col)] * side / 256
                assert torch.allclose(found[:, k, m], wanted.double(), rtol=1e-6)


def test_at_its_own_size_a_spectrum_is_what_it_was():
    assert torch.allclose(spectrum.resized(spectrum.bundled(), 256, 256), spectrum.bundled().double(), rtol=1e-9)


@pytest.mark.parametrize("side", [384, 512, 1024])
def test_beyond_what_is_known_it_falls_as_one_over_the_frequency(side):
    """Along every line from the middle, from where the known ends."""
    found = spectrum.resized(spectrum.bundled(), side, side)
    assert bool((found > 0).all())
    for down, along in ((0, 1), (-1, 1), (1, 4), (-1, 2), (-1, 0)):
        most = 128 // max(abs(down), along)
        at_the_end = found[:, down * most, along * most]
        for times in range(most + 1, side // 2 // max(abs(down), along), 17):
            wanted = at_the_end * most / times
            assert torch.allclose(found[:, down * times, along * times], wanted, rtol=1e-6)


def test_colours_are_taken_apart_by_the_matrix_and_put_together_again():
    images = photos(2)
    wanted = np.einsum("dc,bchw->bdhw", MATRIX, images.numpy())
    assert np.allclose(spectrum.coloured(images).numpy(), wanted, rtol=0, atol=1e-12)
    wanted = np.einsum("dc,bchw->bdhw", np.linalg.inv(MATRIX), images.numpy())
    assert np.allclose(spectrum.decorrelated(images).numpy(), wanted, rtol=0, atol=1e-11)
    assert torch.allclose(spectrum.coloured(spectrum.decorrelated(images)), images, rtol=0, atol=1e-12)
    assert torch.allclose(spectrum.decorrelated(spectrum.coloured(images)), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_what_has_not_three_channels_stays(channels):
    images = photos(2, channels)
    assert torch.equal(spectrum.coloured(images), images)
    assert torch.equal(spectrum.decorrelated(images), images)


def test_photos_are_nearly_decorrelated():
    """The planes of a photo go together less than its colours do."""
    values = np.clip(np.asarray(CAT, np.float64) / 255, 0.02, 0.98)
    logits = torch.from_numpy(np.log(values / (1 - values))).permute(2, 0, 1)[None]

    def most(planes):
        found = np.corrcoef(planes[0].flatten(1).numpy())
        return np.abs(found - np.eye(3)).max()

    assert most(logits) > 0.9
    assert most(spectrum.decorrelated(logits)) < most(logits)
