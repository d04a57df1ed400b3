"""``convscope study``: commands made of the studies' settings; results on the terminal, as JSON and as files."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convscope.images.own import MARK, is_own
from convscope.scope import load
from convscope.settings import settings_of
from convscope.studies import STUDIES
from convscope.studies.retraining import runs
from tests.cli.conftest import Call, photo

MODEL = ("net.py:Net", "--weights", "weights.safetensors", "--classes", "classes.txt", "--canvas", "32")
MODEL += ("--mean", ".5", "--std", ".5")
QUICK = ("--size", "16", "--stride", "16")


@pytest.fixture(autouse=True)
def foxes(here: Path) -> Path:
    """Two photos of foxes, so that their class is known."""
    folder = here / "red fox"
    folder.mkdir()
    for name, seed in (("x.png", 0), ("y.png", 1)):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 48, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_the_studies_are_listed(call: Call) -> None:
    done = call("study")
    assert done.code == 0
    for name, study in STUDIES.items():
        if name != "diagnose":
            assert f" {name} " in done.out
            assert study.__doc__.split()[0] in done.out


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_setting_is_an_option_with_its_default(call: Call, name: str) -> None:
    command = ("diagnose",) if name == "diagnose" else ("study", name)
    done = call(*command, "--help")
    assert done.code == 0
    text = " ".join(done.out.replace("│", " ").split())
    for setting in settings_of(STUDIES[name]):
        assert f"--{setting.name.replace('_', '-')}" in text
        if isinstance(setting.default, tuple) and len(",".join(map(str, setting.default))) < 20:
            assert f"[default: {','.join(map(str, setting.default))}]" in text


def test_it_is_the_librarys_result(call: Call, foxes: Path) -> None:
    done = call("study", "occlusion", *MODEL, foxes, *QUICK, "--layer", "features.1", "--out", "found")
    assert done.code == 0, done.err
    options = {"weights": "weights.safetensors", "classes": "classes.txt", "mean": 0.5, "std": 0.5, "size": 32}
    scope = load("net.py:Net", progress=False, **options)
    wanted = scope.study("occlusion", foxes, size=16, stride=16, layer="features.1")
    assert Path("found/squares.csv").read_text() == wanted.table("squares").csv()
    told = json.loads(Path("found/result.json").read_text())
    assert told == json.loads(json.dumps(wanted.about()))
    assert [photo["class"] for photo in told["photos"]] == ["red fox", "red fox"]
    assert sorted(path.name for path in Path("found").iterdir()) == [
        *(MARK, "occlusion.png", "occlusion.svg", "photos.csv", "report.html", "result.json", "squares.csv")
    ]
    assert done.out.startswith("What the answer and the strongest map depend on:\n")
    assert "\nEvery place of the square: 8 rows in found/squares.csv\n" in done.out
    assert done.out.endswith("\nfound/report.html\n")
    assert all(line in done.out for line in wanted.findings)


def test_what_is_on_can_be_switched_off(call: Call, foxes: Path) -> None:
    how = ("sanity", *MODEL, foxes, "--methods", "gradient", "--steps", "2", "--json")
    both, one = call("study", *how), call("study", *how, "--no-independent", "-o", "one")
    assert one.code == both.code == 0, one.err
    assert "independent" in both.json["tables"]
    assert "independent" not in one.json["tables"]


def test_a_table_too_wide_to_read_leaves_its_intervals_to_the_file(call: Call, foxes: Path) -> None:
    how = ("--methods", "grad-cam,gradient", "--steps", "2", "--subsets", "4", "-o", "wide")
    done = call("study", "faithfulness", *MODEL, foxes, *how)
    assert done.code == 0, done.err
    head = done.out.splitlines()[1]
    assert head.split() == ["map", "kind", "deletion", "insertion", "difference", "sensitivity-n"]
    assert "(with intervals in wide/scores.csv)" in done.out
    assert "deletion low" in Path("wide/scores.csv").read_text().splitlines()[0]


def test_json_is_alone_on_stdout(call: Call, foxes: Path) -> None:
    done = call("study", "occlusion", *MODEL, foxes, *QUICK, "--json")
    assert done.code == 0, done.err
    assert done.json["out"] == "studies/occlusion"
    assert done.json == {**json.loads(Path("studies/occlusion/result.json").read_text()), "out": "studies/occlusion"}


def test_another_studys_folder_is_left_as_it_is(call: Call, foxes: Path) -> None:
    assert call("study", "occlusion", *MODEL, foxes, *QUICK, "-o", "found").code == 0
    before = {path.name: path.read_bytes() for path in Path("found").iterdir()}
    done = call("study", "invariance", *MODEL, foxes, "-o", "found")
    assert done.code == 2
    assert "found holds the result of the study occlusion: choose another folder" in done.err
    assert {path.name: path.read_bytes() for path in Path("found").iterdir()} == before
    assert call("study", "occlusion", *MODEL, foxes, *QUICK, "--seed", "1", "-o", "found").code == 0


def test_the_canvas_is_size_too_where_the_study_has_none(call: Call, foxes: Path) -> None:
    named = [("--size" if word == "--canvas" else word) for word in MODEL]
    settings = ("--transforms", "shift", "--steps", "3", "--json")
    one, other = (call("study", "invariance", *model, foxes, *settings) for model in (MODEL, named))
    assert one.code == other.code == 0, other.err
    assert one.json == other.json


@pytest.mark.parametrize("name", ["occlusion", "invariance", "agreement", "sanity", "faithfulness"])
def test_a_network_that_gives_nan_is_refused(call: Call, foxes: Path, name: str) -> None:
    text = Path("net.py").read_text("utf-8") + "\n\nclass Nan(Net):\n    def forward(self, x):\n"
    Path("net.py").write_text(text + "        return super().forward(x) * float('nan')\n", "utf-8")
    done = call("study", name, "net.py:Nan", "--canvas", "32", foxes, "--out", "found")
    assert done.code == 1
    assert done.err.strip().splitlines()[-1].endswith("net.py:Nan gave NaN: check its weights, and mean and std")
    assert not Path("found").exists()


def test_the_class_of_photos_may_be_named(call: Call) -> None:
    done = call("study", "occlusion", *MODEL, "a.png", *QUICK, "--label", "spoon", "--json")
    assert done.json["photos"] == [{"name": "a.png", "class": "spoon", "known": True}]
    assert done.json["notes"] == []
    unknown = call("study", "occlusion", *MODEL, "a.png", *QUICK, "--json")
    assert unknown.json["notes"] == ["the class of the photos is not known: the most probable one stands for it"]
    assert "convscope: the class of the photos is not known" in unknown.err


def test_at_most_so_many_photos(call: Call, foxes: Path) -> None:
    done = call("study", "occlusion", *MODEL, foxes, *QUICK, "--sample", "1", "--seed", "3", "--json")
    assert len(done.json["photos"]) == 1
    assert done.json["seed"] == 3
    assert done.json["notes"] == ["1 of 2 photos, drawn at random (seed 3)"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("occlusoin", "net.py:Net", "a.png"), 2, "unknown study 'occlusoin'; nearest: occlusion"),
        (("occlusion", *MODEL, "a.png", "--size", "x"), 2, "occlusion: size is 'x': input should be a valid integer"),
        (("occlusion", *MODEL, "a.png", "--size", "99"), 2, "a square of 99 does not fit into 32x32"),
        (("occlusion", *MODEL, "a.png", "--fill", "pink"), 2, "fill is 'pink', not one of black"),
        (("occlusion", *MODEL, "a.png", "--sizes", "9"), 2, "No such option"),
        (("occlusion", *MODEL, "a.png", "--layer", "nope"), 2, "unknown layer 'nope'"),
        (("occlusion", *MODEL, "c.png"), 2, "c.png"),
        (("occlusion", *MODEL), 2, "Missing argument"),
        (("occlusion", *MODEL[:5], "--canvas", "a4", "a.png"), 2, "--canvas 'a4' is neither a side"),
        (("occlusion", *MODEL, "a.png", "--label", "owl"), 2, "unknown class 'owl'"),
        (("occlusion", *MODEL, "a.png", "-o", "a.png"), 2, "--out a.png is a file; name a folder"),
        (
            ("correspondence", *MODEL, "a.png", "--parts", "p.json"),
            2,
            "compares photos: give at least 2, got 1",
        ),
        (("correspondence", *MODEL, "a.png", "b.png"), 2, "correspondence needs the photos' parts: --parts FILE.json"),
        (("correspondence", *MODEL, "a.png", "b.png", "--parts", "p.json"), 2, "there is no file of boxes p.json"),
        (("occlusion", "net.py:Flat", "a.png", "b.png"), 2, "photos of different sizes"),
        (("occlusion", "net.py:Flat", "a.png"), 1, "--canvas sets the canvas"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(call: Call, args: tuple[str, ...], code: int, words: str) -> None:
    before = sorted(Path().rglob("*"))
    done = call("study", *args)
    assert done.code == code, done.err
    last = done.err.strip().splitlines()[-1]
    assert words in last, done.err
    assert "Traceback" not in done.err
    assert done.out == ""
    assert [path for path in sorted(Path().rglob("*")) if "__pycache__" not in str(path)] == before


def test_a_signal_ends_it_and_leaves_what_was_there(call: Call, foxes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("study", "occlusion", *MODEL, foxes, *QUICK, "-o", "found").code == 0
    before = Path("found/result.json").read_bytes()
    calls = []

    def interrupted(*_: object, **__: object) -> None:
        calls.append(1)
        os.kill(os.getpid(), signal.SIGTERM)  # SIGINT is ignored by what a shell runs in the background

    monkeypatch.setattr("convscope.studies.occlusion.patched_readings", interrupted)
    done = call("study", "occlusion", *MODEL, foxes, *QUICK, "-o", "found", "--seed", "1")
    assert done.code == 143
    assert calls
    assert Path("found/result.json").read_bytes() == before
    assert not list(Path("found").glob(".convscope-*"))


def test_a_training_study_that_is_ended_says_how_to_go_on(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cat", "fox", "spoon"):
        Path("photos", name).mkdir(parents=True)
        for number in range(10):
            photo(f"photos/{name}/{number}.png", 20 + number, 24)
    command = ("study", "ablation", "photos", "--model", "net.py:Net", "--variants", "width=2")
    command += ("--size", "16", "--epochs", "1", "--json")
    evaluate, calls = runs.evaluate, []

    def counted(*args: Any, **how: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(*args, **how)

    monkeypatch.setattr(runs, "evaluate", counted)
    done = call(*command)
    assert (done.code, done.out) == (143, "")
    told = [line for line in done.err.splitlines() if "goes on" in line]
    assert told == ["convscope: the same command goes on with what is in studies/ablation/trained"]
    assert done.err.endswith("convscope: ended by SIGTERM\n")
    assert len(calls) < 4
    again = call(*command)
    assert again.code == 0, again.err
    assert len(calls) == 5, "a test and a training accuracy of two networks, the first of which was interrupted"
    assert is_own("studies/ablation"), "its pictures are no photos, though it was made by the one that was ended"
    assert [row["variant"] for row in again.json["tables"]["variants"]["rows"]] == ["whole", "width=2"]


def test_a_model_that_fails_inside_is_a_bug_and_not_hidden(call: Call) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug of the user's own"):
        call("study", "occlusion", "net.py:Buggy", "a.png", "--canvas", "32", "-o", "found")
    assert not Path("found").exists()
