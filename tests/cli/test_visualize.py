"""``convscope visualize``: sheets and files of patterns, going on, evolution, dreams, and what goes wrong."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from convscope.cli import visualize
from tests.cli.conftest import MODEL, Call

QUICK = ("--steps", 4)


def test_units_become_a_sheet_and_a_file_each(call: Call, here: Path) -> None:
    done = call("visualize", *MODEL, "features.1:0-2,features.4:5", *QUICK, "--out", "p")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "p/features.1.png: 3 patterns of features.1",
        "p/features.4.png: 1 pattern of features.4",
    ]
    names = {str(file.relative_to("p")) for file in Path("p").rglob("*") if file.is_file()}
    units = {f"features.1/000{i}.png" for i in range(3)} | {"features.4/0005.png"}
    assert names == units | {"features.1.png", "features.4.png", "patterns.jsonl"}
    lines = [json.loads(line) for line in Path("p/patterns.jsonl").read_text("utf-8").splitlines()]
    assert [line["name"] for line in lines] == ["features.1:0", "features.1:1", "features.1:2", "features.4:5"]


def test_what_is_there_is_not_made_again(call: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("visualize", *MODEL, "features.1:0-1", *QUICK, "--out", "p")
    before = Path("p/features.1/0000.png").stat().st_mtime_ns
    done = call("visualize", *MODEL, "features.1:0-3", *QUICK, "--out", "p", "--json")
    assert "2 of 4 patterns are there already" in done.err
    assert [row["name"] for row in done.json["layers"][0]["patterns"]] == [f"features.1:{i}" for i in range(4)]
    assert Path("p/features.1/0000.png").stat().st_mtime_ns == before
    assert "already" not in call("visualize", *MODEL, "features.1:0-3", "--steps", 5, "--out", "p").err
    assert Path("p/features.1/0000.png").stat().st_mtime_ns > before


def test_classes_recipes_negatives_and_several_pictures(call: Call, here: Path) -> None:
    done = call("visualize", *MODEL, "@logits:spoon,0", "--recipe", "maco", *QUICK, "--photos", "a.png", "--json")
    assert done.code == 0, done.err
    (layer,) = done.json["layers"]
    assert [row["file"] for row in layer["patterns"]] == ["@logits/0002-spoon.png", "@logits/0000-tabby-cat.png"]
    assert (layer["recipe"], layer["size"]) == ("maco", [32, 32])
    assert all(row["natural"] is not None for row in layer["patterns"])
    done = call("visualize", *MODEL, "features.1:3", "--negative", "--diversity", 2, *QUICK, "--json")
    assert "features.1 is rectified" in done.err
    (layer,) = done.json["layers"]
    assert [row["file"] for row in layer["patterns"]] == [f"features.0-negative/0003-{i}.png" for i in range(2)]
    done = call("visualize", *MODEL, "features.*:0", *QUICK, "--canvas", "20x24", "--json")
    assert [layer["size"] for layer in done.json["layers"]] == [[20, 24]] * 5


def test_a_run_is_compared_with_what_it_began_as(call: Call, here: Path) -> None:
    done = call(
        "train", "digits", "--model", "convscope:mnist_convnet", "--subset", "8/4/4", "--epochs", 1, "--out", "run"
    )
    assert done.code == 0, done.err
    begun = ("convscope:mnist_convnet@random", "--option", "num_classes=10")
    done = call("visualize", *begun, "features.conv1:0-1", "--evolve", "run:run", *QUICK, "--json", "--out", "p")
    assert done.code == 0, done.err
    assert done.json["evolution"] == ["p/evolution-features.conv1.png"]
    assert Image.open("p/evolution-features.conv1.png").width > 4 * 128
    assert Path("p/epoch-001/features.conv1/0001.png").is_file()
    assert call("visualize", *begun, "features.conv1:0", "--evolve", "run:nowhere", *QUICK).code == 2


def test_dreams_and_caricatures(call: Call, here: Path) -> None:
    done = call("visualize", *MODEL, "features.4", "--dream", "a.png", "--canvas", 40, "--steps", 2, "--out", "p")
    assert done.code == 0, done.err
    assert Image.open("p/dream-a-features.4.png").size == (33, 40)
    done = call("visualize", *MODEL, "features.4", "--caricature", "a.png", "--steps", 3, "--out", "p", "--json")
    assert done.json["file"] == "p/caricature-a-features.4.png"
    assert Image.open(done.json["file"]).size == (32, 32)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["nothing"], "unknown layer 'nothing'"),
        (["features.1:99"], "unit 99 is out of range: features.1 has 4 units"),
        (["features.1:0,features.4:99"], "unit 99 is out of range"),
        (["head:1@0,0"], "head has no rows and columns"),
        (["features.4:0", "--canvas", "2"], "canvas of 2x2"),
        (["features.4:0", "--canvas", "large"], "--canvas 'large'"),
        (["features.4:0", "--recipe", "macos"], "unknown recipe 'macos'; nearest: maco"),
        (["features.4:0", "--steps", "0"], "--steps"),
        (["features.4:0", "--budget", "0"], "memory budget"),
        (["@logits:fork"], "unknown class 'fork'"),
        (["features.4", "--dream", "a.png", "--caricature", "a.png"], "one at a time"),
        (["features.4", "--caricature", "a.png", "--canvas", "9"], "network's input"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_writes_nothing(
    call: Call, here: Path, args: list[str], words: str
) -> None:
    done = call("visualize", *MODEL, *args, "--out", "p")
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert len([line for line in done.err.splitlines() if "error" in line]) == 1
    assert not Path("p").exists()


def test_interrupted_it_keeps_what_is_done_and_goes_on(here: Path) -> None:
    line = [sys.executable, "-m", "convscope", "visualize", *MODEL, "features.4", "--steps", "300", "--budget", "3"]
    line += ["--out", "p"]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    lines, deadline = Path("p/patterns.jsonl"), time.monotonic() + 120
    while not lines.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    done = len(lines.read_text("utf-8").splitlines())
    assert 0 < done < 8
    again = subprocess.run(line, capture_output=True, text=True, check=True)
    assert f"{done} of 8 patterns are there already" in again.stderr
    assert Image.open("p/features.4.png").width > 128


def test_the_budget_is_the_librarys() -> None:
    import inspect

    from convscope.optvis.visualize import BUDGET_MIB

    assert inspect.signature(visualize.visualize).parameters["budget"].default == BUDGET_MIB
