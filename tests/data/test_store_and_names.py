"""Names in two arrays, and the three places where a photo's bytes can be; and where things are kept."""

from __future__ import annotations

import os
import pickle
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from convscope.data.cache import cache_folder, key_of, replacing
from convscope.data.names import Names
from convscope.data.store import Arrays, Files, Members, Store, members
from convscope.errors import ImageError, UsageError
from convscope.images.read import read_photo
from tests.data.pictures import encoded, folder, half, piece, turned

# What a file's name can be: any text, and any bytes that are none, as Python reads them.
BYTES = st.binary(max_size=8).map(lambda content: content.decode("utf-8", "surrogateescape"))
TEXTS = st.lists(st.one_of(st.text(max_size=8), BYTES).filter(lambda text: _storable(text)), max_size=12)


def _storable(text: str) -> bool:
    """Whether it is what a name of bytes is read as: halves of letters are not."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape") == text
    except UnicodeEncodeError:
        return False


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.data())
def test_names_are_a_sequence_of_strings(texts: list[str], data: st.DataObject) -> None:
    names = Names.of(texts)
    assert len(names) == len(texts)
    assert list(names) == texts == list(Names.of(iter(texts)))
    assert [names[i] for i in range(-len(texts), len(texts))] == [*texts, *texts]
    low, high = data.draw(st.integers(-9, 9)), data.draw(st.integers(-9, 9))
    assert list(names[low:high]) == texts[low:high]
    assert list(names[::-1]) == list(reversed(names)) == texts[::-1]
    for text in {*texts, "no such name"}:
        assert (text in names) == (text in texts)
        assert names.count(text) == texts.count(text)
    with pytest.raises(IndexError):
        names[len(texts)]
    if texts:
        rows = data.draw(st.lists(st.integers(-len(texts), len(texts) - 1)))
        assert list(names[np.array(rows, np.int64)]) == [texts[i] for i in rows]
        mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(texts), max_size=len(texts))), bool)
        assert list(names[mask]) == [text for text, kept in zip(texts, mask, strict=True) if kept]
        assert names[np.int64(len(texts) - 1)] == texts[-1]


def test_many_names_cost_their_bytes() -> None:
    names = Names.of(f"folder/{i:07d}.jpg" for i in range(100_000))
    assert names.blob.nbytes + names.ends.nbytes == 100_000 * (len("folder/0000000.jpg") + 8)
    assert len(pickle.dumps(names)) < 100_000 * 26 + 1000
    assert names[99_999] == "folder/0099999.jpg"


CONTENTS = [encoded(piece(0)), encoded(piece(1), "PNG"), turned(2, 6), encoded(piece(3).convert("L"))]


def in_files(root: Path) -> Store:
    names = [f"a b/{i}.jpg" for i in range(4)]
    folder(root, dict(zip(names, CONTENTS, strict=True)))
    return Files(root, Names.of(names))


def in_shards(root: Path) -> Store:
    (root / "one.tar").write_bytes(b"x" * 5 + CONTENTS[0] + b"yy" + CONTENTS[1])
    (root / "two.tar").write_bytes(CONTENTS[2] + CONTENTS[3])
    one, two = str(root / "one.tar"), str(root / "two.tar")
    sizes = [len(content) for content in CONTENTS]
    starts = [5, 7 + sizes[0], 0, sizes[2]]
    return members(list(zip((one, one, two, two), "abcd", starts, sizes, strict=True)))


@pytest.fixture(params=[in_files, in_shards])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    made: Callable[[Path], Store] = request.param
    return made(tmp_path)


def test_contents_and_photos_are_those_of_the_files(store: Store, tmp_path: Path) -> None:
    assert [store.content(i) for i in range(len(store))] == CONTENTS
    for i, content in enumerate(CONTENTS):
        (tmp_path / "slow.jpg").write_bytes(content)
        slow = read_photo(tmp_path / "slow.jpg").image
        found = store.photo(i)
        assert np.array_equal(np.asarray(found.convert("RGB")), np.asarray(slow))


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 3), max_size=8))
def test_a_part_of_a_store_is_a_store(tmp_path_factory: pytest.TempPathFactory, rows: list[int]) -> None:
    for make in (in_files, in_shards):
        whole = make(tmp_path_factory.mktemp("part"))
        for part in (whole.take(np.array(rows, np.int64)), pickle.loads(pickle.dumps(whole.take(np.array(rows, int))))):
            assert len(part) == len(rows)
            assert list(part.names) == [whole.names[i] for i in rows]
            assert [part.content(i) for i in range(len(rows))] == [CONTENTS[i] for i in rows]
            assert part.stamps().reshape(-1, 2).tolist() == whole.stamps()[rows].tolist()


def test_a_stamp_stays_while_the_file_does_and_changes_with_it(tmp_path: Path) -> None:
    store = in_files(tmp_path)
    before = store.stamps()
    assert before.shape == (4, 2)
    assert before[:, 0].tolist() == [len(content) for content in CONTENTS]
    store.content(0)
    time.sleep(0.02)  # file systems note times to some milliseconds
    assert np.array_equal(store.stamps(), before)
    first, second = tmp_path / "a b/0.jpg", tmp_path / "a b/1.jpg"
    old = first.stat()
    first.write_bytes(bytes(len(CONTENTS[0])))
    os.utime(first, ns=(old.st_atime_ns, old.st_mtime_ns))
    os.utime(second, (10**9, 10**9))
    (tmp_path / "a b/2.jpg").unlink()
    assert (store.stamps() != before).any(1).tolist() == [True, True, True, False]
    assert store.stamps()[2].tolist() == [-1, 0]


@pytest.mark.parametrize("year", [1901, 1970, 2300, 2440])
def test_any_time_that_a_file_may_have_is_a_stamp(tmp_path: Path, year: int) -> None:
    store = in_files(tmp_path)
    stamps = []
    for second in (0, 1):
        os.utime(tmp_path / "a b/0.jpg", ns=(0, (year - 1970) * 31_556_952 * 10**9 + second * 10**9))
        stamps.append(store.stamps()[0].tolist())
        time.sleep(0.02)
    assert stamps[0] != stamps[1]


def test_a_member_changes_with_its_shard_and_is_gone_with_it(tmp_path: Path) -> None:
    store = in_shards(tmp_path)
    before = store.stamps()
    assert len({tuple(stamp) for stamp in before.tolist()}) == 4
    time.sleep(0.02)
    (tmp_path / "one.tar").write_bytes((tmp_path / "one.tar").read_bytes()[::-1])
    assert (store.stamps() != before).any(1).tolist() == [True, True, False, False]
    (tmp_path / "two.tar").unlink()
    assert store.stamps()[2:].tolist() == [[-1, 0], [-1, 0]]


def test_a_shard_that_is_written_anew_is_read_anew(tmp_path: Path) -> None:
    """Within one process, as in a notebook."""
    store = in_shards(tmp_path)
    assert store.content(3) == CONTENTS[3]
    (tmp_path / "new").write_bytes(CONTENTS[3] + CONTENTS[2])
    (tmp_path / "new").replace(tmp_path / "two.tar")
    assert store.content(3) == (CONTENTS[3] + CONTENTS[2])[len(CONTENTS[2]) :]
    (tmp_path / "two.tar").write_bytes(CONTENTS[2] + CONTENTS[3][:-1])
    with pytest.raises(OSError, match="its shard is shorter than it was"):
        store.content(3)
    (tmp_path / "two.tar").unlink()
    with pytest.raises(FileNotFoundError):
        store.content(3)


def test_there_may_be_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    count = 100
    for i in range(count):
        (tmp_path / f"{i}.tar").write_bytes(CONTENTS[i % 4])
    store = members([(str(tmp_path / f"{i}.tar"), str(i), 0, len(CONTENTS[i % 4])) for i in range(count)])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = max(int(name) for name in os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, there + 20), hard))
    try:
        assert [store.content(i) for i in range(count)] == [CONTENTS[i % 4] for i in range(count)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_members_of_nothing_are_none() -> None:
    store = members([])
    assert (len(store), store.stamps().shape, len(store.take(np.zeros(0, int)))) == (0, (0, 2), 0)


def test_what_is_not_there_or_broken_raises_what_a_scan_expects(tmp_path: Path) -> None:
    folder(tmp_path, {"half.jpg": half(CONTENTS[0]), "empty.jpg": b""})
    store = Files(tmp_path, Names.of(["half.jpg", "empty.jpg", "none.jpg"]))
    for i, kind in enumerate((ImageError, ImageError, FileNotFoundError)):
        with pytest.raises(kind):
            store.photo(i)
    assert store.path(2) == tmp_path / "none.jpg"
    assert Files(tmp_path, Names.of([str(tmp_path / "elsewhere.jpg")])).path(0) == tmp_path / "elsewhere.jpg"


@pytest.mark.parametrize("grey", [True, False])
def test_pictures_in_memory(grey: bool) -> None:
    image = piece(4).convert("L") if grey else piece(4)
    pixels = np.stack([np.asarray(image), np.asarray(image)[::-1]])
    store = Arrays(pixels, Names.of(["x", "y"]))
    for i in range(2):
        assert np.array_equal(np.asarray(store.photo(i)), pixels[i])
        assert store.content(i) == pixels[i].tobytes()
        assert store.path(i) is None
    assert store.photo(0).mode == ("L" if grey else "RGB")
    part = store.take(np.array([1]))
    assert (list(part.names), part.content(0)) == (["y"], pixels[1].tobytes())


def test_transparency_lies_over_the_background(tmp_path: Path) -> None:
    image = piece(5).convert("RGBA")
    image.putalpha(0)
    folder(tmp_path, {"clear.png": encoded(image, "PNG")})
    store = Files(tmp_path, Names.of(["clear.png"]))
    assert np.unique(np.asarray(store.photo(0)).reshape(-1, 3), axis=0).tolist() == [[255, 255, 255]]
    assert np.unique(np.asarray(store.photo(0, "#102030")).reshape(-1, 3), axis=0).tolist() == [[16, 32, 48]]


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CONVSCOPE_CACHE", "~/own")
    assert cache_folder("scans") == tmp_path / "own/scans"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("scans") == tmp_path / "own/scans"
    monkeypatch.delenv("CONVSCOPE_CACHE")
    assert cache_folder("scans") == tmp_path / "xdg/convscope/scans"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("scans") == tmp_path / ".cache/convscope/scans"
    assert not list(tmp_path.iterdir())


def test_a_user_without_a_home_can_still_say_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number."""

    def nobody(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.setenv("CONVSCOPE_CACHE", "/data/cache")
    assert cache_folder("scans") == Path("/data/cache/scans")
    monkeypatch.delenv("CONVSCOPE_CACHE")
    with pytest.raises(UsageError, match="set CONVSCOPE_CACHE to a folder"):
        cache_folder("scans")


def test_any_change_of_a_part_is_another_key() -> None:
    parts = [
        ("a", "b"),
        ("ab",),
        ("a", "b", ""),
        ("b", "a"),
        (b"a", b"b"),
        (b"ab",),
        ("a", 1),
        ("a", "1"),
        ("a", 1.0),
        (),
    ]
    keys = [key_of(*some) for some in parts]
    assert len(set(keys)) == len(keys)
    assert key_of("a", "b") == keys[0]
    assert key_of("caf\udce9") != key_of("caf\xe9")


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    place = tmp_path / "new folder" / ("n" * 60 + ".json")
    with replacing(place) as draft:
        draft.write_text("one")
    with place.open() as reader:
        with replacing(place) as draft:
            draft.write_text("two")
        assert reader.read() == "one"  # who reads it goes on with what he began with
    (tmp_path / "usual").write_text("x")
    with replacing(tmp_path / "tensors") as draft:  # safetensors makes files for their owner alone
        save_file({"a": np.zeros(2)}, draft)
    for path in (place, tmp_path / "tensors"):
        assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode

    def stops() -> None:
        with replacing(place) as draft:
            draft.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stops()
    assert place.read_text() == "two"
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_members_are_small_to_send(tmp_path: Path) -> None:
    """A shard's bytes do not travel; a catalog's worker gets where they are."""
    store = in_shards(tmp_path)
    assert isinstance(store, Members)
    assert len(pickle.dumps(store)) < 2000 < sum(map(len, CONTENTS))
