"""Batches are a function of seed, epoch and photo: whatever the workers, the order and the company."""

from __future__ import annotations

import pickle
import warnings
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import convscope
from convscope.data.augment import augmentation
from convscope.data.catalog import Catalog, catalog
from convscope.data.loading import Loader, Photos, Wanted, balanced, cut, order, workers_for
from convscope.data.names import Names
from convscope.data.store import Arrays, Files
from convscope.errors import UsageError
from convscope.images.frame import Framing
from tests.data.pictures import encoded, folder, half, piece, sixteen, turned

FRAMINGS = {
    "cover": Framing((24, 24), 28, "bilinear"),
    "squash": Framing((20, 28), None, "bicubic"),
    "as large": Framing((40, 56), 40),
}
COUNT = 23


def files() -> dict[str, bytes]:
    found = {f"{'abc'[i % 3]}/{i:02d}.jpg": encoded(piece(i, 40 + i, 56 - i)) for i in range(COUNT - 4)}
    found |= {"a/grey.png": encoded(piece(90).convert("L"), "PNG"), "b/deep.png": encoded(sixteen(91), "PNG")}
    clear = piece(92).convert("RGBA")
    clear.putalpha(90)
    return found | {"c/clear.png": encoded(clear, "PNG"), "c/turned.jpg": turned(93, 8)}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    return catalog(folder(tmp_path_factory.mktemp("p"), files()))


def photos(found: Catalog, augment: str = "none", framing: str = "cover", channels: int = 3, seed: int = 5) -> Photos:
    return Photos(found, FRAMINGS[framing], channels, augmentation=augmentation(augment), seed=seed)


def alone(of: Photos, epoch: int) -> list[Tensor]:
    """Each photo in a batch of its own."""
    return [of[Wanted(epoch, np.array([row]))].images[0] for row in range(len(of.catalog))]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_canvas_is_what_the_framing_makes_of_the_photo(found: Catalog, framing: str, channels: int) -> None:
    of = photos(found, framing=framing, channels=channels)
    for row, image in enumerate(alone(of, 0)):
        slow, _ = of.framing.apply(found.store.photo(row), channels)
        assert image.dtype == torch.uint8
        assert torch.equal(image.float(), slow * 255)


def test_pixels_are_those_that_explanations_are_made_of(found: Catalog) -> None:
    """What a network is tested on is what ``Scope`` gives it for the same file."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 3))
    scope = convscope.Scope(net, classes=["a", "b", "c"], mean=[0.5] * 3, std=[0.2] * 3, size=24)
    own = scope.classifier.framing
    of = Photos(found, own, 3)
    paths = [found.store.path(row) for row in range(len(found))]
    with closing(Loader(of)) as loader:
        (batch,) = loader.batches([np.arange(len(found))])
    assert torch.equal(batch.images.float() / 255, scope.images(paths)[0])


WAYS = ["none", "standard", "strong", "crop=.3", "strong,crop=.4,vertical_flip"]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_the_same_for_any_workers_order_and_company(found: Catalog, workers: int) -> None:
    rng = np.random.default_rng(workers)
    for augment in WAYS:
        of = photos(found, augment)
        with closing(Loader(of, workers)) as loader:
            for epoch in (3, 0):
                expected = alone(of, epoch)
                parts = cut(rng.permutation(np.repeat(np.arange(len(found)), 2)), int(rng.integers(1, 9)))
                batches = list(loader.batches(parts, epoch))
                assert len(batches) == len(parts)
                for part, batch in zip(parts, batches, strict=True):
                    assert np.array_equal(batch.rows, part)
                    assert batch.lost == ()
                    assert batch.labels.tolist() == found.labels[part].tolist()
                    assert batch.labels.dtype == torch.int64
                    assert torch.equal(batch.images, torch.stack([expected[row] for row in part]))


@pytest.mark.parametrize("augment", WAYS[1:])
def test_another_seed_epoch_or_photo_is_another_draw(found: Catalog, augment: str) -> None:
    of = photos(found, augment)
    first = alone(of, 0)
    for other in (alone(of, 1), alone(replace(of, seed=6), 0), alone(photos(found), 0)):
        changed = [not torch.equal(a, b) for a, b in zip(first, other, strict=True)]
        assert sum(changed) > 0.9 * len(changed)


def test_what_a_photo_becomes_depends_on_its_content_alone(found: Catalog, tmp_path: Path) -> None:
    """Under another name, in another folder, among other photos, in another place of the order."""
    of = photos(found, "strong,crop=.5")
    some = [7, 2, 11]
    names = {f"z/{i}.jpg": found.store.content(row) for i, row in enumerate(some)}
    moved = photos(catalog(folder(tmp_path, names)), "strong,crop=.5")
    expected = alone(of, 4)
    for image, row in zip(alone(moved, 4), some, strict=True):
        assert torch.equal(image, expected[row])


def test_random_states_are_neither_read_nor_moved(found: Catalog) -> None:
    of = photos(found, "strong,crop=.4")
    rows = np.arange(6)
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        states = torch.get_rng_state(), np.random.get_state()[1].tolist()
        with closing(Loader(of)) as loader:
            results.append(next(iter(loader.batches([rows], 2))).images)
        order(3, 1, rows)
        assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(*results)


def test_photos_are_the_same_in_a_process_that_was_sent_them(found: Catalog) -> None:
    of = photos(found, "strong,crop=.4")
    again = pickle.loads(pickle.dumps(of))
    assert all(torch.equal(a, b) for a, b in zip(alone(of, 1), alone(again, 1), strict=True))


@pytest.mark.parametrize("augment", ["none", "strong"])
@pytest.mark.parametrize("channels", [1, 3])
def test_canvases_in_memory_are_those_that_are_read(found: Catalog, augment: str, channels: int) -> None:
    read = photos(found, augment, channels=channels)
    kept = read.in_memory()
    assert read.canvases is None
    assert kept.canvases is not None
    before = kept.canvases.clone()
    for epoch in range(2):
        assert all(torch.equal(a, b) for a, b in zip(alone(read, epoch), alone(kept, epoch), strict=True))
    assert torch.equal(kept.canvases, before)
    assert kept.in_memory() is kept
    assert workers_for(kept) == 0
    with closing(Loader(kept, 1)) as loader:
        (batch,) = loader.batches([np.arange(len(found))], 1)
    assert torch.equal(batch.images, torch.stack(alone(read, 1)))


def test_canvases_are_kept_only_where_they_fit_and_do_not_change(found: Catalog) -> None:
    of = photos(found)
    size = len(found) * 3 * 24 * 24
    assert of.in_memory(size).canvases is not None
    assert of.in_memory(size - 1) is of
    assert photos(found, "crop=.9").in_memory().canvases is None


@pytest.mark.parametrize(("grey", "channels"), [(True, 1), (True, 3), (False, 3), (False, 1)])
@pytest.mark.parametrize("framing", [Framing((16, 16), 16), Framing((12, 12), 12), Framing((16, 16), 20)])
def test_pictures_in_memory_are_framed_like_files(grey: bool, channels: int, framing: Framing) -> None:
    """Where nothing has to be done to them they are taken as they are; also where they may not be written, as IDX."""
    image = np.asarray(piece(3, 16, 48).convert("L" if grey else "RGB"))
    pixels = np.stack([image[:, i : i + 16] for i in (0, 7, 20)])
    pixels.setflags(write=False)
    store = Arrays(pixels, Names.of("xyz"))
    made = Catalog(
        "made", "set", store, ("a", "b"), np.array([0, 1, 0], np.int32), np.full(3, -1, np.int8), None,
        np.full(3, 16, np.int32), np.full(3, 16, np.int32), np.ones(3, np.uint16), np.zeros((3, 2), np.uint64),
    )  # fmt: skip
    of = Photos(made, framing, channels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept = of.in_memory()
    assert kept.canvases is not None
    assert torch.equal(torch.stack(alone(of, 0)), torch.stack(alone(kept, 0)))
    assert np.array_equal(store.pixels, pixels)


def test_a_canvas_of_no_fixed_size_is_refused(found: Catalog) -> None:
    with pytest.raises(UsageError, match="give the network's canvas, --size"):
        Photos(found, Framing(), 3)


def test_batches_are_asked_for_anew_after_some_were_left(found: Catalog) -> None:
    """An epoch that is broken off leaves nothing behind for the next one."""
    of = photos(found, "standard")
    expected = alone(of, 1)
    for workers in (0, 2):
        with closing(Loader(of, workers)) as loader:
            for _ in range(3):
                begun = loader.batches(cut(np.arange(len(found)), 2), 0)
                next(begun)
                parts = cut(np.arange(len(found))[::-1], 5)
                again = list(loader.batches(parts, 1))
                assert [batch.rows.tolist() for batch in again] == [part.tolist() for part in parts]
                assert torch.equal(torch.cat([b.images for b in again]), torch.stack(expected[::-1]))
            assert list(loader.batches([], 0)) == []


@pytest.fixture
def vanishing(tmp_path: Path) -> tuple[Catalog, set[int], set[int]]:
    """A catalog, of which some photos are gone since it was made and others broken."""
    root = folder(tmp_path / "p", files())
    made = catalog(root)
    assert isinstance(made.store, Files)
    gone, broken = {0, 5, 6, 22}, {3, 7}
    for row in gone:
        made.store.path(row).unlink()
    for row in broken:
        path = made.store.path(row)
        path.write_bytes(half(path.read_bytes()))
    return made, gone, broken


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("way", ["read", "kept", "cropped"])
def test_photos_that_vanish_are_told_and_the_others_keep_their_labels(
    vanishing: tuple[Catalog, set[int], set[int]], workers: int, way: str
) -> None:
    made, gone, broken = vanishing
    of = photos(made, "strong,crop=.5" if way == "cropped" else "standard")
    of = of.in_memory() if way == "kept" else of
    parts = cut(np.random.default_rng(0).permutation(len(made)), 4)
    parts.append(np.array([5, 3]))
    with closing(Loader(of, workers)) as loader:
        batches = list(loader.batches(parts, 2))
    for part, batch in zip(parts, batches, strict=True):
        left = [row for row in part.tolist() if row in gone | broken]
        kept = [row for row in part.tolist() if row not in gone | broken]
        assert batch.rows.tolist() == kept
        assert batch.labels.tolist() == made.labels[kept].tolist()
        assert batch.images.shape == (len(kept), 3, 24, 24)
        assert [one.name for one in batch.lost] == [made.store.names[row] for row in left]
        assert [one.label for one in batch.lost] == [made.classes[made.labels[row]] for row in left]
        for row, image in zip(kept, batch.images, strict=True):
            assert torch.equal(image, of[Wanted(2, np.array([row]))].images[0])
    reasons = {one.name: one.reason for batch in batches for one in batch.lost}
    assert {reasons[made.store.names[row]] for row in gone} == {"cannot be read any more: no such file or directory"}
    for row in broken:
        assert "truncated or damaged" in reasons[made.store.names[row]]
        assert made.store.names[row] not in reasons[made.store.names[row]]


SEED = st.integers(0, 2**32 - 1)


@settings(max_examples=100, deadline=None)
@given(SEED, st.integers(0, 10**6), st.lists(st.integers(0, 10**6), unique=True))
def test_an_order_holds_every_row_once_and_is_a_function_of_seed_and_epoch(
    seed: int, epoch: int, rows: list[int]
) -> None:
    found = order(seed, epoch, np.array(rows, np.int64))
    assert sorted(found.tolist()) == sorted(rows)
    assert np.array_equal(order(seed, epoch, np.array(rows, np.int64)), found)
    many = np.arange(50)
    orders = [order(s, e, many).tolist() for s, e in ((seed, epoch), (seed + 1, epoch), (seed, epoch + 1))]
    assert len({tuple(one) for one in orders}) == 3


@settings(max_examples=150, deadline=None)
@given(SEED, st.integers(0, 1000), st.lists(st.integers(0, 5), min_size=1, max_size=60))
def test_balanced_rows_give_every_class_the_same_share(seed: int, epoch: int, classes: list[int]) -> None:
    labels = np.array(classes)
    rows = np.arange(len(labels)) * 3 + 1
    found = balanced(seed, epoch, rows, labels)
    assert len(found) == len(rows)
    assert set(found.tolist()) <= set(rows.tolist())
    drawn = {label: found[np.isin(found, rows[labels == label])] for label in set(classes)}
    counts = [len(some) for some in drawn.values()]
    assert max(counts) - min(counts) <= 1
    for label, some in drawn.items():  # none comes again before all of its class were there
        times = [some.tolist().count(row) for row in rows[labels == label].tolist()]
        assert max(times) - min(times) <= 1
    assert np.array_equal(balanced(seed, epoch, rows, labels), found)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 40), st.integers(1, 12), st.booleans())
def test_batches_hold_all_rows_in_order(count: int, size: int, drop_last: bool) -> None:
    rows = np.arange(count) + 7
    parts = cut(rows, size, drop_last=drop_last)
    joined = [row for part in parts for row in part.tolist()]
    assert all(len(part) == size for part in parts[:-1])
    assert all(1 <= len(part) <= size for part in parts)
    whole = count if not drop_last or count <= size else count - count % size
    assert joined == rows[:whole].tolist()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 6))
def test_a_last_batch_that_is_too_small_joins_the_one_before(count: int, size: int, least: int) -> None:
    rows = np.arange(count)
    plain, parts = cut(rows, size), cut(rows, size, least=least)
    assert [row for part in parts for row in part.tolist()] == rows.tolist()
    too_small = len(plain) > 1 and len(plain[-1]) < min(least, size)
    assert len(parts) == len(plain) - too_small
    assert all(len(part) == size for part in parts[:-1])
    dropped = [cut(rows, size, drop_last=True, least=some) for some in (1, least)]
    assert [part.tolist() for part in dropped[0]] == [part.tolist() for part in dropped[1]]
