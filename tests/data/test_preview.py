"""The preview sheet: each photo as it is, then as the first epochs of a training see it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convscope.data.augment import augmentation
from convscope.data.catalog import Catalog, catalog
from convscope.data.loading import Photos, Wanted
from convscope.data.preview import EPOCHS, SIDE, preview
from convscope.errors import UsageError
from convscope.images.frame import Framing, to_image
from tests.data.pictures import encoded, folder, piece, turned


@pytest.fixture
def found(tmp_path: Path) -> Catalog:
    files = {f"many/{i:02d}.jpg": encoded(piece(i, 90, 120)) for i in range(12)}
    files |= {"few/1.jpg": turned(50, 6), "few/2.png": encoded(piece(51, 200, 180).convert("L"), "PNG")}
    return catalog(folder(tmp_path / "p", files))


def placed(sheet: Image.Image, tile: np.ndarray) -> list[tuple[int, int]]:
    """Where a tile stands on a sheet, pixel by pixel: top, left."""
    pixels = np.asarray(sheet.convert("RGB"))
    height, width = tile.shape[:2]
    rows, cols = pixels.shape[0] - height + 1, pixels.shape[1] - width + 1
    places = np.argwhere((pixels[:rows, :cols] == tile[0, 0]).all(-1))
    for row, col in np.random.default_rng(0).integers(0, (height, width), (12, 2)).tolist():
        places = places[(pixels[places[:, 0] + row, places[:, 1] + col] == tile[row, col]).all(-1)]
    return [(t, x) for t, x in places.tolist() if np.array_equal(pixels[t : t + height, x : x + width], tile)]


def canvas(found: Catalog, row: int, augment: str, epoch: int, seed: int = 0) -> np.ndarray:
    of = Photos(found, Framing((SIDE, SIDE), SIDE), 3, augmentation=augmentation(augment), seed=seed)
    return np.asarray(to_image(of[Wanted(epoch, np.array([row]))].images[0].float() / 255))


def test_a_row_is_the_photo_and_what_its_first_epochs_make_of_it(found: Catalog) -> None:
    sheet = preview(found, augmentation("strong,crop=.5"), photos=2, seed=3)
    rows = [list(found.store.names).index(name) for name in ("few/1.jpg", "many/11.jpg")]
    tops = []
    for row in rows:
        tiles = [canvas(found, row, "none", 0), *(canvas(found, row, "strong,crop=.5", e, 3) for e in range(EPOCHS))]
        places = [placed(sheet, tile) for tile in tiles]
        assert all(len(some) == 1 for some in places)
        assert len({top for ((top, _),) in places}) == 1
        lefts = [left for ((_, left),) in places]
        assert lefts == sorted(lefts)
        assert len(set(np.diff(lefts).tolist())) == 1
        tops.append(places[0][0][0])
    assert tops == sorted(set(tops))


def test_without_augmentation_all_of_a_row_is_the_photo(found: Catalog) -> None:
    sheet = preview(found, augmentation("none"), photos=1)
    assert len(placed(sheet, canvas(found, 0, "none", 0))) == EPOCHS + 1


def test_every_class_is_shown(found: Catalog) -> None:
    sheet = preview(found, augmentation("flip"))
    sheet = sheet.crop((0, 0, SIDE + 100, sheet.height))  # the column of the photos as they are
    shown = [name for i, name in enumerate(found.store.names) if placed(sheet, canvas(found, i, "none", 0))]
    assert len(shown) == 6
    assert {name.split("/")[0] for name in shown} == {"few", "many"}


def test_classes_are_shown_alike_in_whatever_order_their_photos_come(tmp_path: Path) -> None:
    folder(tmp_path, {f"{i}.jpg": encoded(piece(i)) for i in range(12)})
    (tmp_path / "list.txt").write_text("".join(f"{i}.jpg {'ab'[i % 2]}\n" for i in range(12)))
    found = catalog(tmp_path / "list.txt")
    sheet = preview(found, augmentation("flip"))
    sheet = sheet.crop((0, 0, SIDE + 100, sheet.height))
    shown = [row for row in range(12) if placed(sheet, canvas(found, row, "none", 0))]
    assert np.bincount(found.labels[shown]).tolist() == [3, 3]


def test_the_same_seed_gives_the_same_sheet(found: Catalog) -> None:
    sheets = [np.asarray(preview(found, augmentation("strong"), photos=1, seed=seed)) for seed in (1, 1, 2)]
    assert np.array_equal(sheets[0], sheets[1])
    assert not np.array_equal(sheets[0], sheets[2])


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_photos_than_are_asked_for(tmp_path: Path, count: int) -> None:
    found = catalog(folder(tmp_path, {f"a/{i}.jpg": encoded(piece(i)) for i in range(count)}))
    sheet = preview(found, augmentation("light"), photos=9)
    for row in range(count):
        assert placed(sheet, canvas(found, row, "none", 0))


def test_photos_without_a_class_are_shown_too(tmp_path: Path) -> None:
    found = catalog(folder(tmp_path, {"1.jpg": encoded(piece(1)), "2.jpg": encoded(piece(2))}))
    sheet = preview(found, augmentation("light"))
    assert all(placed(sheet, canvas(found, row, "none", 0)) for row in range(2))


def test_a_photo_that_vanished_is_left_out_and_all_of_them_are_an_error(tmp_path: Path) -> None:
    files = {"a/1.jpg": encoded(piece(1)), "b/2.jpg": encoded(piece(2))}
    found = catalog(folder(tmp_path, files))
    whole = canvas(found, 1, "none", 0)
    (tmp_path / "a/1.jpg").unlink()
    assert placed(preview(found, augmentation("light")), whole)
    (tmp_path / "b/2.jpg").unlink()
    with pytest.raises(UsageError, match="none of the photos to preview can be read any more"):
        preview(found, augmentation("light"))


def test_nothing_to_show_is_an_error(tmp_path: Path) -> None:
    found = catalog(folder(tmp_path, {"a/1.jpg": b""}))
    with pytest.raises(UsageError, match="has no photo to preview"):
        preview(found, augmentation("light"))
