"""Faces are found where they are, on photos of people and on none without, and cut out whole and undistorted."""

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from skimage import data

from convscope.data import cascade
from convscope.data.cascade import Face, crop_face, find_faces
from convscope.errors import ConvscopeError, UsageError

ASTRONAUT = Image.fromarray(data.astronaut())
# Read off an enlargement of the photo, (row, col): the pupils, the middle of the mouth, and the whole head with hair.
EYES, MOUTH = ((101, 203), (103, 246)), (145, 223)
HEAD = Face(25, 150, 180, 302)


def overlap(a, b):
    """Intersection over union, counted pixel by pixel."""
    height, width = max(a.bottom, b.bottom), max(a.right, b.right)
    masks = np.zeros((2, height, width), bool)
    for mask, face in zip(masks, (a, b), strict=True):
        mask[face.top : face.bottom, face.left : face.right] = True
    return (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


def moved(face, down=0, right=0):
    return Face(face.top + down, face.left + right, face.bottom + down, face.right + right)


@pytest.fixture(scope="module")
def face():
    (found,) = find_faces(ASTRONAUT)
    return found


# Found, and where


def test_the_astronauts_face(face):
    for row, col in (*EYES, MOUTH):
        assert face.top < row < face.bottom
        assert face.left < col < face.right
    assert HEAD.top <= face.top
    assert face.bottom <= HEAD.bottom
    assert HEAD.left <= face.left
    assert face.right <= HEAD.right
    # From the hairline to the chin and from cheek to cheek, read off as above.
    assert overlap(face, Face(78, 183, 177, 268)) > 0.6


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "brick", "grass", "coins", "page"])
def test_no_face(name):
    assert find_faces(Image.fromarray(getattr(data, name)())) == []


def test_two_side_by_side_are_two(face):
    photo = Image.new("RGB", (1024, 512))
    photo.paste(ASTRONAUT, (0, 0))
    photo.paste(ASTRONAUT, (512, 0))
    left, right = sorted(find_faces(photo), key=lambda found: found.left)
    assert overlap(left, face) > 0.7
    assert overlap(right, moved(face, right=512)) > 0.7


def test_largest_first():
    photo = Image.new("RGB", (900, 512), "grey")
    photo.paste(ASTRONAUT.resize((380, 380)), (0, 100))
    photo.paste(ASTRONAUT, (388, 0))
    large, small = find_faces(photo)
    assert large.left > 388
    assert small.right < 380
    assert large.bottom - large.top > 1.15 * (small.bottom - small.top)


def test_small_pictures_of_faces_and_of_others():
    """scikit-image's extract of Labelled Faces in the Wild: 100 faces and 100 other things, 25 x 25 and little else."""
    pictures = [Image.fromarray(np.uint8(picture * 255)) for picture in data.lfw_subset()]
    counts = [len(find_faces(picture.resize((48, 48), Image.Resampling.BICUBIC), smallest=0.5)) for picture in pictures]
    assert sum(count == 1 for count in counts[:100]) >= 90
    assert sum(count > 0 for count in counts[100:]) <= 1


@pytest.mark.parametrize("scale", [0.4, 0.7, 1.7, 4.0])
def test_boxes_are_in_the_photos_own_pixels(scale, face):
    side = round(512 * scale)
    (found,) = find_faces(ASTRONAUT.resize((side, side)))
    assert overlap(Face(*(round(edge / scale) for edge in found)), face) > 0.7


def test_a_mirrored_face_is_on_the_other_side(face):
    (found,) = find_faces(ImageOps.mirror(ASTRONAUT))
    assert overlap(Face(found.top, 512 - found.right, found.bottom, 512 - found.left), face) > 0.7


@pytest.mark.parametrize("degrees", [-10, 10])
def test_a_tilted_face_is_found(degrees, face):
    (found,) = find_faces(ASTRONAUT.rotate(degrees, Image.Resampling.BICUBIC, center=(223, 125)))
    assert overlap(found, face) > 0.6


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "1"])
def test_modes(mode, face):
    if mode == "I;16":
        photo = Image.fromarray(np.asarray(ASTRONAUT.convert("L")).astype(np.uint16) * 257)
    else:
        photo = ASTRONAUT.convert(mode)
    before = photo.tobytes()
    (found,) = find_faces(photo)
    assert overlap(found, face) > 0.6
    assert photo.tobytes() == before


@pytest.mark.parametrize("change", [lambda v: v * 0.3, lambda v: v * 0.5 + 127, lambda v: 255 * (v / 255) ** 0.5])
def test_dark_pale_and_bright_photos(change, face):
    (found,) = find_faces(ASTRONAUT.point(lambda value: round(change(value))))
    assert overlap(found, face) > 0.6


def test_a_face_that_fills_its_photo(face):
    tight = ASTRONAUT.crop((face.left, face.top, face.right, face.bottom))
    (found,) = find_faces(tight)
    assert overlap(found, Face(0, 0, tight.height, tight.width)) > 0.6
    assert found.bottom <= tight.height
    assert found.right <= tight.width


def test_smallest_is_a_share_of_the_short_side(face):
    share = (face.bottom - face.top) / 512
    assert len(find_faces(ASTRONAUT, smallest=share * 0.7)) == 1
    assert find_faces(ASTRONAUT, smallest=share * 2) == []


@pytest.mark.parametrize("size", [(1, 1), (20, 20), (24, 24), (3, 900), (5000, 30)])
def test_photos_with_no_room_for_a_face(size):
    assert find_faces(Image.new("RGB", size, "tan")) == []


def test_threads_find_the_same(face):
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(find_faces, [ASTRONAUT] * 6)) == [[face]] * 6


@pytest.mark.parametrize("smallest", [0, -0.1, 1.5, float("nan")])
def test_smallest_out_of_range(smallest):
    with pytest.raises(UsageError, match="smallest is a share"):
        find_faces(ASTRONAUT, smallest=smallest)


def test_without_scikit_image(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.feature", None)
    cascade._cascade.cache_clear()
    with pytest.raises(ConvscopeError) as caught:
        find_faces(ASTRONAUT)
    assert "pip install 'convscope[faces]'" in str(caught.value)
    assert "\n" not in str(caught.value)


# Cut out


def positions(height, width):
    """A photo whose pixels say where they are."""
    return Image.fromarray((np.arange(height)[:, None] * 10_000 + np.arange(width)).astype(np.int32))


@st.composite
def photos_and_faces(draw):
    height, width = draw(st.integers(2, 300)), draw(st.integers(2, 300))
    rows = sorted(draw(st.tuples(st.integers(0, height - 1), st.integers(0, height - 1))))
    cols = sorted(draw(st.tuples(st.integers(0, width - 1), st.integers(0, width - 1))))
    return height, width, Face(rows[0], cols[0], rows[1] + 1, cols[1] + 1)


@settings(max_examples=200, deadline=None)
@given(photos_and_faces(), st.floats(0, 2))
def test_squares_are_part_of_the_photo_and_hold_the_face(photo, margin):
    height, width, face = photo
    cut = np.asarray(crop_face(positions(height, width), face, margin=margin))
    side = cut.shape[0]
    top, left = divmod(int(cut[0, 0]), 10_000)
    assert cut.shape == (side, side)
    assert np.array_equal(cut, np.asarray(positions(height, width))[top : top + side, left : left + side])
    wanted = max(face.bottom - face.top, face.right - face.left) * (1 + 2 * margin)
    assert side == pytest.approx(min(wanted, height, width), abs=0.5)
    edges = ((top, height, face.top, face.bottom), (left, width, face.left, face.right))
    for start, length, first, end in edges:
        if end - first <= side:
            assert start <= first
            assert end <= start + side
        centre = (first + end) / 2
        shifted = min(max(centre - side / 2, 0), length - side)  # no farther than the photo's edge makes it
        assert start == pytest.approx(shifted, abs=0.5)


@settings(max_examples=100, deadline=None)
@given(photos_and_faces(), st.floats(0, 2))
def test_without_squares_the_margin_ends_with_the_photo(photo, margin):
    height, width, face = photo
    cut = np.asarray(crop_face(positions(height, width), face, margin=margin, square=False))
    corners = divmod(int(cut[0, 0]), 10_000), divmod(int(cut[-1, -1]), 10_000)
    down, across = margin * (face.bottom - face.top), margin * (face.right - face.left)
    assert corners[0] == pytest.approx((max(face.top - down, 0), max(face.left - across, 0)), abs=0.5)
    ends = min(face.bottom + down, height) - 1, min(face.right + across, width) - 1
    assert corners[1] == pytest.approx(ends, abs=0.5)


@pytest.mark.parametrize("face", [Face(5, 5, 5, 9), Face(0, 0, 10, 21), Face(-1, 0, 5, 5), Face(0, 0, 31, 5)])
def test_boxes_that_are_none(face):
    with pytest.raises(UsageError, match="photo 20x30"):
        crop_face(Image.new("RGB", (20, 30)), face)


@pytest.mark.parametrize("margin", [-0.1, 11, float("nan")])
def test_margins_that_are_none(margin):
    with pytest.raises(UsageError, match="margin"):
        crop_face(ASTRONAUT, HEAD, margin=margin)
