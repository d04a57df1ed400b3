"""A data set's copy of faces: laid out like the data set, gone on with after an interruption, and nothing of others."""

import csv
import io
import json
import os
import threading

import numpy as np
import pytest
from PIL import Image, ImageOps
from skimage import data

from convscope.data import faces
from convscope.data.faces import LOG, MARKER, crop_face, crop_faces, find_faces
from convscope.data.names import Names
from convscope.data.sources.options import listed
from convscope.data.store import Arrays, Files
from convscope.errors import Cancelled, ConvscopeError, UsageError
from convscope.images.read import read_photo
from convscope.progress import reporting

PERSON = Image.fromarray(data.astronaut()).crop((90, 0, 390, 300)).resize((180, 180))  # her head and shoulders
CAT = Image.fromarray(data.chelsea()).resize((150, 100))
PAIR = Image.new("RGB", (360, 180))
PAIR.paste(PERSON, (0, 0))
PAIR.paste(ImageOps.mirror(PERSON).resize((160, 160)), (200, 0))


def folder(root, photos, labels=None, kind="folder", **more):
    """Photos by name, written below ``root``, and their listing; the class is the last folder, if nothing is said."""
    for name, photo in photos.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(photo, bytes):
            path.write_bytes(photo)
        elif photo is not None:
            photo.save(path)
    labels = [name.split("/")[-2] for name in photos] if labels is None else labels
    return listed(str(root), kind, Files(root, Names.of(photos)), labels, **more)


def crops(out):
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.parent != out)


def table(out):
    with (out / "report.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return {row["photo"]: row for row in csv.DictReader(file)}


def encoded(photo, kind="JPEG", **options):
    content = io.BytesIO()
    photo.save(content, kind, **options)
    return content.getvalue()


@pytest.fixture
def opened(monkeypatch):
    """The photos that are searched for faces, counted."""
    count, lock = [], threading.Lock()

    def counting(photo, **options):
        if photo.size != (1, 1):  # the trial of the settings
            with lock:
                count.append(photo.size)
        return find_faces(photo, **options)

    monkeypatch.setattr(faces, "find_faces", counting)
    return count


# What is written


def test_a_copy_in_the_same_layout(tmp_path):
    source = folder(
        tmp_path / "people", {"ann/1.jpg": PERSON, "ann/old/2.jpg": PAIR, "cat/1.jpg": CAT}, ["ann", "ann", "cat"]
    )
    report = crop_faces(source, tmp_path / "out")
    assert crops(tmp_path / "out") == ["ann/1.jpg", "ann/old/2.jpg"]
    assert (report.photos, report.cropped, report.kept) == (3, 2, 0)
    assert (report.none, report.several, report.broken) == (("cat/1.jpg",), ("ann/old/2.jpg",), ())
    photo = read_photo(tmp_path / "people/ann/1.jpg").image
    (face,) = find_faces(photo)
    assert (tmp_path / "out/ann/1.jpg").read_bytes() == encoded(crop_face(photo, face), quality=95)
    rows = table(tmp_path / "out")
    assert list(rows["ann/1.jpg"].values()) == ["ann/1.jpg", "1", *map(str, face), "cropped"]
    assert list(rows["cat/1.jpg"].values()) == ["cat/1.jpg", "0", "", "", "", "", "none"]
    assert (rows["ann/old/2.jpg"]["faces"], rows["ann/old/2.jpg"]["verdict"]) == ("2", "cropped")


def test_settings(tmp_path):
    source = folder(tmp_path / "people", {"a/one.jpg": PERSON, "a/two.jpg": PAIR})
    report = crop_faces(source, tmp_path / "out", margin=0, several="skip", quality=30)
    assert crops(tmp_path / "out") == ["a/one.jpg"]
    assert report.several == ("a/two.jpg",)
    row = table(tmp_path / "out")["a/two.jpg"]
    assert (row["faces"], row["verdict"]) == ("2", "several")
    assert int(row["right"]) <= 180  # the larger one
    found = find_faces(read_photo(tmp_path / "people/a/one.jpg").image)[0]
    with Image.open(tmp_path / "out/a/one.jpg") as crop:
        assert max(crop.size) == max(found.bottom - found.top, found.right - found.left)
    assert crop_faces(source, tmp_path / "large", smallest=0.9).cropped == 0


def test_given_splits(tmp_path):
    photos = dict.fromkeys(["train/ann/1.jpg", "valid/ann/1.jpg", "test/bob/x/1.jpg"], PERSON)
    source = folder(tmp_path / "people", photos, ["ann", "ann", "bob"], splits=["train", "val", "test"])
    crop_faces(source, tmp_path / "out")
    assert crops(tmp_path / "out") == ["test/bob/x/1.jpg", "train/ann/1.jpg", "val/ann/1.jpg"]


def test_names_of_any_kind(tmp_path):
    names = ["Zoë/ひと 1.jpg", "Zoë/b.png", "Zoë/b.jpg", "Zoë/B.JPG", "Анна/ひと 1.jpg", "Анна/raw\udcff.jpg"]
    source = folder(tmp_path / "people", dict.fromkeys(names, encoded(PERSON)))
    report = crop_faces(source, tmp_path / "out")
    assert report.cropped == 6
    wanted = ["Zoë/ひと 1.jpg", "Zoë/b.png.jpg", "Zoë/b.jpg", "Zoë/B-2.JPG", "Анна/ひと 1.jpg", "Анна/raw\udcff.jpg"]
    assert crops(tmp_path / "out") == sorted(wanted)
    assert list(table(tmp_path / "out")) == names
    assert crop_faces(source, tmp_path / "out").kept == 6


def test_a_list_of_photos_anywhere(tmp_path):
    """Absolute names lose what they share; names that come twice, or leave the folder, find a place in their class."""
    place = tmp_path / "far"
    names = [str(place / name) for name in ("s1/1.jpg", "s2/1.jpg", ".hidden/2.jpg")]
    source = folder(place, dict.fromkeys(names, PERSON), ["n/a", "n/a", None], kind="list")
    crop_faces(source, tmp_path / "far/out")  # beside the photos, of which only a list is read
    assert crops(tmp_path / "far/out") == ["_.hidden/2.jpg", "n_a/s1/1.jpg", "n_a/s2/1.jpg"]
    (place / "in").mkdir()
    up = folder(place / "in", {"../s1/1.jpg": None, "../../far/s1/1.jpg": None}, ["s1", "s1"], kind="list")
    crop_faces(up, tmp_path / "out")
    assert crops(tmp_path / "out") == ["s1/1-2.jpg", "s1/1.jpg"]


def test_arrays(tmp_path, opened):
    pixels = np.stack([np.asarray(PERSON), np.asarray(ImageOps.mirror(PERSON))])
    source = listed("set:people", "set", Arrays(pixels, Names.of(["0", "1"])), ["ann", "bob"])
    assert crop_faces(source, tmp_path / "out").cropped == 2
    assert crops(tmp_path / "out") == ["ann/0.jpg", "bob/1.jpg"]
    assert crop_faces(source, tmp_path / "out").kept == 0  # nothing says whether arrays changed
    assert len(opened) == 4


# Photos of any kind


def test_photos_are_upright_and_flat(tmp_path):
    lying = Image.Exif()
    lying[0x0112] = 8  # turn it to the left to see it
    transparent = PERSON.convert("RGBA")
    transparent.putalpha(Image.new("L", PERSON.size, 255))
    photos = {
        "p/plain.png": PERSON,
        "p/lying.png": encoded(PERSON.transpose(Image.Transpose.ROTATE_270), "PNG", exif=lying),
        "p/clear.png": transparent,
        "p/grey.png": PERSON.convert("L"),
    }
    crop_faces(folder(tmp_path / "people", photos), tmp_path / "out")
    plain, lying, clear, grey = (Image.open(tmp_path / "out" / f"{name}.jpg") for name in photos)
    assert lying.tobytes() == plain.tobytes()
    assert clear.tobytes() == plain.tobytes()
    assert not lying.getexif()
    difference = np.asarray(grey.convert("L").resize((64, 64)), float) - np.asarray(plain.convert("L").resize((64, 64)))
    assert abs(difference).mean() < 6


def test_broken_files_are_told_of_and_the_rest_is_done(tmp_path):
    photos = {"p/cut.jpg": encoded(PERSON)[:3000], "p/empty.jpg": b"", "p/page.jpg": b"<html>", "p/gone.jpg": None}
    source = folder(tmp_path / "people", {**photos, "p/good.jpg": PERSON})
    report = crop_faces(source, tmp_path / "out")
    assert [name for name, *_ in report.broken] == list(photos)
    assert (report.cropped, report.none) == (1, ())
    assert "truncated" in report.broken[0].reason
    assert "empty" in report.broken[1].reason
    assert "web page" in report.broken[2].reason
    assert "No such file" in report.broken[3].reason
    assert table(tmp_path / "out")["p/empty.jpg"]["verdict"] == f"broken: {report.broken[1].reason}"
    PERSON.save(tmp_path / "people/p/gone.jpg")
    again = crop_faces(source, tmp_path / "out")
    assert (again.cropped, again.kept, len(again.broken)) == (2, 1, 3)


# Runs that go on


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError, Cancelled])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path, monkeypatch, opened, stop):
    names = [f"{person}/{i}.jpg" for person in "ab" for i in range(8)]
    source = folder(tmp_path / "people", {name: CAT if name == "a/3.jpg" else PERSON for name in names})
    PERSON.crop((0, 0, 180, 179)).save(tmp_path / "people/b/1.jpg")
    count, out = faces.find_faces, tmp_path / "out"

    def stopping(photo, **options):
        if photo.height == 179:
            raise stop("enough")
        return count(photo, **options)

    with monkeypatch.context() as patch:
        patch.setattr(faces, "find_faces", stopping)
        with pytest.raises(stop):
            crop_faces(source, out)
    before = len(opened)
    assert not (out / "report.csv").exists()
    for crop in crops(out):
        Image.open(out / crop).load()
    with (out / LOG).open("a") as log:
        log.write('["a/0.jpg", [1')  # as a cut of the power leaves it
    report = crop_faces(source, out)
    assert len(opened) - before == 16 - 9
    assert (report.cropped, report.kept, report.none) == (15, 9, ("a/3.jpg",))
    assert crops(out) == [name for name in names if name != "a/3.jpg"]
    assert list(table(out)) == names


def test_only_what_changed_is_done_again(tmp_path, opened):
    people, out = tmp_path / "people", tmp_path / "out"
    photos = {"p/a.jpg": PERSON, "p/b.jpg": PERSON, "p/c.jpg": PERSON, "p/d.jpg": CAT}
    source = folder(people, photos)
    first = crop_faces(source, out)
    written = {crop: (out / crop).stat().st_mtime_ns for crop in crops(out)}
    assert crop_faces(source, out) == faces.Report(out, 4, 3, 4, ("p/d.jpg",), (), ())
    assert len(opened) == 4
    CAT.save(people / "p/b.jpg")
    (out / "p/c.jpg").unlink()
    report = crop_faces(source, out)
    assert len(opened) == 6
    assert (report.cropped, report.kept, report.none) == (2, 2, ("p/b.jpg", "p/d.jpg"))
    assert crops(out) == ["p/a.jpg", "p/c.jpg"]
    assert (out / "p/a.jpg").stat().st_mtime_ns == written["p/a.jpg"]
    assert first.kept == 0


def test_a_photo_that_moved_to_another_class_leaves_no_crop_behind(tmp_path):
    people, out = tmp_path / "people", tmp_path / "out"
    crop_faces(folder(people, {"ann/1.jpg": PERSON, "bob/1.jpg": PERSON}), out)
    (out / "ann/mine.txt").write_text("a note of somebody's")
    os.replace(people / "ann/1.jpg", people / "bob/2.jpg")
    crop_faces(folder(people, {"bob/1.jpg": None, "bob/2.jpg": None}), out)
    assert crops(out) == ["ann/mine.txt", "bob/1.jpg", "bob/2.jpg"]


def test_a_log_that_was_meddled_with_removes_nothing_outside(tmp_path):
    source = folder(tmp_path / "people", {"p/1.jpg": PERSON})
    crop_faces(source, tmp_path / "out")
    for name in ("../people/p/1.jpg", str(tmp_path / "people/p/1.jpg")):
        line = json.dumps(["x", [1, 1], name, 1, None, "cropped", ""])
        with (tmp_path / "out" / LOG).open("a") as log:
            log.write(line + "\n17\n")
        assert crop_faces(source, tmp_path / "out").kept == 1
    assert (tmp_path / "people/p/1.jpg").exists()


def test_progress_and_cancelling(tmp_path):
    source = folder(tmp_path / "people", {f"p/{i}.jpg": CAT for i in range(6)})
    told = []

    class Listener:
        def begin(self, label, total):
            told.append((label, total))

        def advance(self, done):
            told.append(done)

        def end(self):
            told.append("end")

    with reporting(Listener(), cancel=lambda: len(told) > 3), pytest.raises(Cancelled):
        crop_faces(source, tmp_path / "out")
    assert told == [("faces cropped", 6), 1, 1, 1, "end"]
    assert crop_faces(source, tmp_path / "out").kept == 3


# What is refused


def test_originals_are_untouched(tmp_path):
    people = tmp_path / "people"
    source = folder(people, {"p/1.jpg": PERSON, "p/2.png": CAT, "p/3.jpg": b"no photo"})
    before = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in people.rglob("*")}
    crop_faces(source, tmp_path / "out")
    for out in (people, people / "p", people / "cropped", people / "p/../q"):
        with pytest.raises(UsageError, match="inside the photos' folder"):
            crop_faces(source, out)
    after = {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in people.rglob("*")}
    assert after == before


def test_folders_of_others_are_refused(tmp_path):
    source, out = folder(tmp_path / "people", {"p/1.jpg": PERSON}), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(UsageError, match="not empty and not by this"):
        crop_faces(source, out)
    with pytest.raises(UsageError, match="is a file"):
        crop_faces(source, out / "thesis.txt")
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    assert crop_faces(source, out).cropped == 1  # an empty one is fine


@pytest.mark.parametrize("other", [{"margin": 0.5}, {"several": "skip"}, {"quality": 80}, {"smallest": 0.2}])
def test_other_settings_are_refused(tmp_path, other):
    source, out = folder(tmp_path / "people", {"p/1.jpg": CAT}), tmp_path / "out"
    crop_faces(source, out)
    with pytest.raises(UsageError, match=f"made with {next(iter(other))} .*delete it"):
        crop_faces(source, out, **other)
    with pytest.raises(UsageError, match="made with source"):
        crop_faces(folder(tmp_path / "others", {"p/1.jpg": CAT}), out)
    for damaged in ("{", "[1]", ""):
        (out / MARKER).write_text(damaged)
        with pytest.raises(UsageError, match="made with source None"):
            crop_faces(source, out)


@pytest.mark.parametrize("other", [{"margin": -1}, {"several": "all"}, {"quality": 0}, {"smallest": 0}])
def test_settings_that_are_none_leave_nothing_behind(tmp_path, other):
    with pytest.raises(UsageError, match=next(iter(other))):
        crop_faces(folder(tmp_path / "people", {"p/1.jpg": CAT}), tmp_path / "out", **other)
    assert not (tmp_path / "out").exists()


def test_classes_that_would_share_a_folder(tmp_path):
    source = folder(tmp_path / "p", {"1.jpg": CAT, "2.jpg": CAT}, ["a/b", "a_b"], kind="table")
    with pytest.raises(UsageError, match="two classes would share the folder 'a_b'"):
        crop_faces(source, tmp_path / "out")


def test_a_place_that_cannot_be_written(tmp_path):
    source = folder(tmp_path / "people", {"p/1.jpg": PERSON})
    crop_faces(source, tmp_path / "out")
    (tmp_path / "out/p/1.jpg").unlink()
    (tmp_path / "out/p").rmdir()
    (tmp_path / "out/p").write_text("in the way")
    with pytest.raises(ConvscopeError, match="run it again") as caught:
        crop_faces(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
