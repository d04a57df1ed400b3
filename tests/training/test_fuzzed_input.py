"""Photos as they are found: one in ten broken, odd names, lists by hand. Training never stops, nor miscounts them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from convscope.cli.process import run as command
from convscope.data.split import read_split
from convscope.errors import ConvscopeError
from convscope.progress import reporting
from convscope.training.api import train
from convscope.training.folder import RunFolder
from convscope.training.job import Told, Trained
from tests.data.pictures import HEIC, encoded, flipped, folder, half, piece, sixteen, turned

NET = """
from torch import nn
def Net(num_classes=2):
    return nn.Sequential(
        nn.Conv2d(3, 4, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, num_classes))
"""
CLASSES = ("cat", "a dog", "Über, all", 'the "other"', "007", "9", "+1 (old)", "猫")
STEMS = ("{}", "IMG {}", "photo, {}", "{} copy (2)", "naïve-{}", "{}\n", "#{}", "caf\udce9{}", "=1+{}")
PLAIN_STEMS = ("{}", "IMG {}", "photo, {}", "naïve-{}", "#{}", "a b/{}")  # what a line of a list can name


@dataclass
class Planted:
    """What lies there, and what must become of it, known from how it was made."""

    source: Path
    classes: tuple[str, ...]
    whole: dict[str, str] = field(default_factory=dict)  # name -> class
    refused: list[tuple[str, str]] = field(default_factory=list)  # (name, class), sorted

    @property
    def learnable(self) -> bool:
        return len(set(self.whole.values())) > 1


def good(rng: np.random.Generator) -> bytes:
    """A piece of a photo, 40 to 80 pixels a side, in any of the ways that photos are kept."""
    number = int(rng.integers(10**6))
    image = piece(number, *rng.integers(40, 80, 2).tolist())
    ways = (
        lambda: encoded(image),
        lambda: encoded(image, "PNG"),
        lambda: encoded(image, "WEBP"),
        lambda: encoded(image.convert("L")),
        lambda: encoded(image.convert("RGBA"), "PNG"),
        lambda: encoded(image.convert("P"), "GIF"),
        lambda: encoded(image.convert("CMYK")),
        lambda: encoded(sixteen(number), "PNG"),
        lambda: turned(number, int(rng.integers(2, 9))),
    )
    return ways[int(rng.integers(len(ways)))]()


def bad(rng: np.random.Generator) -> bytes:
    image = piece(int(rng.integers(10**6)), 60, 60)
    ways = (b"", b"no photo\r\n" * 9, HEIC, half(encoded(image)), half(encoded(image, "PNG")),
            flipped(encoded(image, "PNG")), half(encoded(image, "WEBP")), b"<html>")  # fmt: skip
    return ways[int(rng.integers(len(ways)))]


def contents(rng: np.random.Generator, count: int) -> list[tuple[bytes, bool]]:
    """Files and whether each can be read: one in ten cannot, one in ten is a copy of another."""
    found: list[tuple[bytes, bool]] = []
    for _ in range(count):
        kind = rng.random()
        if kind < 0.1:
            found.append((bad(rng), False))
        elif kind < 0.2 and found:
            found.append(found[int(rng.integers(len(found)))])
        else:
            found.append((good(rng), True))
    return found


def planted_folder(root: Path, seed: int) -> Planted:
    """One folder a class; some classes have a photo or two."""
    rng = np.random.default_rng(seed)
    names = tuple(rng.permutation(CLASSES)[: int(rng.integers(1, 6))].tolist())
    files: dict[str, bytes] = {"note.txt": b"x"}
    made = Planted(root / "my photos", ())
    for name in names:
        for i, (content, whole) in enumerate(contents(rng, int(rng.choice([1, 2, 7, 15])))):
            path = f"{name}/{STEMS[int(rng.integers(len(STEMS)))].format(i)}.{rng.choice(['jpg', 'JPEG', 'png'])}"
            files[path] = content
            if whole:
                made.whole[path] = name
            else:
                made.refused.append((path, name))
    folder(made.source, files)
    made.classes = ordered(set(names))
    made.refused.sort()
    return made


def planted_list(root: Path, seed: int, kind: str) -> Planted:
    """A list with blank lines, Windows line ends, missing files, and photos listed twice, alike or not."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(CLASSES)[: int(rng.integers(2, 5))].tolist()
    files: dict[str, bytes] = {}
    readable: dict[str, bool] = {}
    for i, (content, whole) in enumerate(contents(rng, int(rng.integers(20, 45)))):
        path = f"{PLAIN_STEMS[int(rng.integers(len(PLAIN_STEMS)))].format(i)}.jpg"
        files[path], readable[path] = content, whole
    lines = [(path, classes[int(rng.integers(len(classes)))]) for path in files]
    lines += [(f"gone {i}.jpg", classes[0]) for i in range(int(rng.integers(0, 4)))]
    lines += [lines[int(rng.integers(len(lines)))] for _ in range(int(rng.integers(0, 3)))]  # again, the same
    lines += [(lines[0][0], classes[int(rng.integers(len(classes)))])]  # again, perhaps another class
    lines = [lines[i] for i in rng.permutation(len(lines))]
    made = Planted(root / "lists" / f"all of them.{kind}", ordered({label for _, label in lines}))
    said: dict[str, list[str]] = {}
    for path, label in lines:
        said.setdefault(path, []).append(label)
    for path, labels in said.items():
        if readable.get(path) and len(set(labels)) == 1:
            made.whole[path] = labels[0]
            labels = labels[1:]
        made.refused += [(path, label) for label in labels]
    # A class is one that a photo has which is there: those of refused lines alone are none.
    there = {labels[0] for path, labels in said.items() if path in files and len(set(labels)) == 1}
    made.classes = ordered(there)
    made.refused.sort()
    folder(made.source.parent, files)
    made.source.write_bytes(written(rng, lines, kind))
    return made


def written(rng: np.random.Generator, lines: list[tuple[str, str]], kind: str) -> bytes:
    end = str(rng.choice(["\n", "\r\n"]))
    if kind == "txt":
        texts = [f"{path}\t{label}" for path, label in lines]
    else:
        texts = ["path,label", *(",".join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines)]
    for _ in range(4):
        texts.insert(int(rng.integers(1, len(texts))), str(rng.choice(["", "  "])))
    mark = "\ufeff" if rng.random() < 0.5 else ""
    return (mark + end.join(texts) + end * int(rng.integers(0, 3))).encode()


def ordered(names: set[str]) -> tuple[str, ...]:
    """In the order of numbers if all are, else of the alphabet."""
    return tuple(sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names))


def trained(place: Path, source: Path, **settings: object) -> Trained:
    (place / "net.py").write_text(NET)
    usual = {"size": 32, "epochs": 1, "batch_size": 8, "workers": 0, "device": "cpu", "out": place / "run"}
    with reporting(cancel=lambda: False):
        return train(source, model=f"{place / 'net.py'}:Net", **(usual | settings))


def quarantined(place: Path) -> list[tuple[str, str, str]]:
    with (place / "run/quarantine.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["photo", "class", "reason"]
    return [(name, label, reason) for name, label, reason in rows]


def accounted(place: Path, made: Planted) -> None:
    """Every file and line is in the run, once, with its class."""
    names, labels, of = read_split(place / "run/split.csv")
    assert len(names) == len(made.whole)
    assert dict(zip(names, labels, strict=True)) == made.whole
    assert set(of.tolist()) <= {0, 1, 2}
    rows = quarantined(place)
    assert sorted((name, label) for name, label, _ in rows) == made.refused
    assert all(reason and "\n" not in reason for *_, reason in rows)
    assert json.loads((place / "run/classes.json").read_text("utf-8")) == list(made.classes)
    evaluation = json.loads((place / "run/evaluation.json").read_text("utf-8", "surrogateescape"))
    for which, number in (("val", 1), ("test", 2)):
        assert evaluation.get(which, {"count": 0})["count"] == int((of == number).sum())
    (row,) = [json.loads(line) for line in (place / "run/metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(row["train_loss"])


def state(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


CASES = [
    *(("folder", seed) for seed in range(8)),
    *(("txt", seed) for seed in range(4)),
    *(("csv", s) for s in range(4)),
]


@pytest.mark.parametrize(("kind", "seed"), CASES)
def test_any_set_of_photos_is_learned_from_or_refused_in_a_line(
    tmp_path: Path, kind: str, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    made = planted_folder(tmp_path, seed) if kind == "folder" else planted_list(tmp_path, seed, kind)
    before = state(made.source.parent)
    code = command(["check", str(made.source), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["photos"] == len(made.whole)
    assert sorted((one["name"], one["label"]) for one in told["left_out"]) == made.refused
    assert sum(one["count"] for one in told["findings"] if one["kind"] == "left out") == len(made.refused)
    assert told["counts"]["photos"] == [Counter(made.whole.values())[name] for name in made.classes]
    assert code == bool(told["findings"])
    if made.learnable:
        trained(tmp_path, made.source)
        accounted(tmp_path, made)
    else:
        with pytest.raises(ConvscopeError) as caught:
            trained(tmp_path, made.source)
        assert len(str(caught.value).splitlines()) == 1
        assert not (tmp_path / "run").exists()
    assert {name: found for name, found in state(made.source.parent).items() if name in before} == before


def test_the_seeds_hold_what_they_are_there_for(tmp_path: Path) -> None:
    """Sets that can be learned from and one that cannot, broken files, copies, missing and quarrelling lines."""
    cases = [
        planted_folder(tmp_path / f"{i}", seed) if kind == "folder" else planted_list(tmp_path / f"{i}", seed, kind)
        for i, (kind, seed) in enumerate(CASES)
    ]
    assert {made.learnable for made in cases} == {True, False}
    refused = sum(len(made.refused) for made in cases)
    assert 0.08 < refused / sum(len(made.whole) + len(made.refused) for made in cases) < 0.3
    lists = b"".join(made.source.read_bytes() for made in cases if made.source.is_file())
    assert b"\r\n" in lists
    assert b"\xef\xbb\xbf" in lists
    assert b"gone 0.jpg" in lists


PHOTO = encoded(piece(1))
NOTHING: dict[str, dict[str, bytes]] = {
    "one class": {f"cat/{i}.jpg": encoded(piece(i)) for i in range(5)},
    "one photo": {"cat/1.jpg": PHOTO},
    "no class": {f"{i}.jpg": encoded(piece(i)) for i in range(5)},
    "all broken": {f"{'ab'[i % 2]}/{i}.jpg": half(encoded(piece(i))) for i in range(6)},
    "empty files": {"a/1.jpg": b"", "b/2.jpg": b""},
    "no files": {"a/note.txt": b"x"},
}


@pytest.mark.parametrize("what", NOTHING)
def test_where_nothing_can_be_learned_one_line_says_so(tmp_path: Path, what: str) -> None:
    source = folder(tmp_path / "p", NOTHING[what])
    with pytest.raises(ConvscopeError) as caught:
        trained(tmp_path, source)
    assert len(str(caught.value).splitlines()) == 1
    assert str(source) in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("copies", [False, True])
def test_one_photo_a_class_is_enough_to_run(tmp_path: Path, copies: bool) -> None:
    files = {"a/1.jpg": PHOTO, "b/1.jpg": PHOTO if copies else encoded(piece(2))}
    made = Planted(folder(tmp_path / "p", files), ("a", "b"), {"a/1.jpg": "a", "b/1.jpg": "b"})
    trained(tmp_path, made.source)
    accounted(tmp_path, made)


def test_the_same_photos_are_divided_the_same_way_under_other_names(tmp_path: Path) -> None:
    """What is trained on is a function of seed and photo; where and in which order the files lie does not count."""
    found = []
    for i, stem in enumerate(("{}.jpg", "x {}.jpg")):
        place = tmp_path / str(i)
        files = {f"{'ab'[k % 2]}/{stem.format(k if i == 0 else 30 - k)}": encoded(piece(k)) for k in range(30)}
        trained(place, folder(place / "p", files))
        names, labels, of = read_split(place / "run/split.csv")
        rows = zip(names, labels, of.tolist(), strict=True)
        found.append({files[name]: (label, split) for name, label, split in rows})
    assert found[0] == found[1]


def test_photos_that_vanish_while_it_trains_are_told_once_and_change_no_label(tmp_path: Path) -> None:
    gone = 3
    files = {f"{'ab'[i % 2]}/{i}.jpg": encoded(piece(i)) for i in range(30)}
    files["b/broken.jpg"] = b""
    source = folder(tmp_path / "p", files)
    remarks: list[str] = []

    def vanish(_: object) -> None:
        for name in list(files)[:gone]:
            (source / name).unlink(missing_ok=True)

    found = trained(tmp_path, source, epochs=3, augment="crop=.6", told=Told(remark=remarks.append, epoch=vanish))
    assert len(found.rows) == 3
    names, labels, of = read_split(tmp_path / "run/split.csv")
    assert dict(zip(names, labels, strict=True)) == {name: name[0] for name in files if name != "b/broken.jpg"}
    learned = {name for name, split in zip(names, of.tolist(), strict=True) if split == 0}
    lost = sorted(name for name in list(files)[:gone] if name in learned)  # the others are kept in memory
    first, *rest = quarantined(tmp_path)
    assert first[:2] == ("b/broken.jpg", "b")
    assert sorted(name for name, *_ in rest) == lost
    assert all(label == name[0] for name, label, _ in rest)
    assert {reason for *_, reason in rest} == {"cannot be read any more: no such file or directory"}
    assert any(remark.startswith(f"{len(lost)} photos could not be read any more") for remark in remarks)


def test_where_all_photos_vanish_it_ends_with_a_line_and_keeps_what_it_has(tmp_path: Path) -> None:
    files = {f"{'ab'[i % 2]}/{i}.jpg": encoded(piece(i)) for i in range(30)}
    source = folder(tmp_path / "p", files)

    def vanish(_: object) -> None:
        for name in files:
            (source / name).unlink(missing_ok=True)

    with pytest.raises(ConvscopeError, match="none of the training photos can be read any more"):
        trained(tmp_path, source, epochs=3, augment="crop=.6", told=Told(epoch=vanish))
    assert len(RunFolder(tmp_path / "run").rows()) == 1
    assert RunFolder(tmp_path / "run").load("last") is not None


def test_the_command_ends_well_with_broken_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = Planted(tmp_path / "my photos", ("a cat", "dog"))
    for i in range(60):
        name = f"{made.classes[i % 2]}/{STEMS[i % len(STEMS)].format(i)}.jpg"
        folder(made.source, {name: bad(rng) if i % 10 == 7 else good(rng)})
        if i % 10 == 7:
            made.refused.append((name, made.classes[i % 2]))
        else:
            made.whole[name] = made.classes[i % 2]
    made.refused.sort()
    (tmp_path / "net.py").write_text(NET)
    line = [sys.executable, "-m", "convscope", "train", str(made.source), "--model", "net.py:Net", "--size", "32"]
    line += ["--epochs", "1", "--batch-size", "8", "--workers", "2", "--out", "run", "--device", "cpu"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "6 files are left out, see run/quarantine.csv" in done.stderr
    accounted(tmp_path, made)
