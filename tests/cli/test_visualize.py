"""``convscope visualize``: sheets and files of patterns, going on, evolution, dreams, and what goes wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convscope.cli import visualize
from convscope.images.own import MARK
from tests.cli.conftest import MODEL, Call
from tests.cli.digits import contents, files_of_at_most
from tests.cli.test_process import as_started_by_a_shell

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
    assert names == units | {MARK, "features.1.png", "features.4.png", "patterns.jsonl"}
    lines = [json.loads(line) for line in Path("p/patterns.jsonl").read_text("utf-8").splitlines()]
    assert [line["name"] for line in lines] == ["features.1:0", "features.1:1", "features.1:2", "features.4:5"]


def test_units_of_a_layer_that_are_named_apart_are_on_one_sheet(call: Call, here: Path) -> None:
    done = call("visualize", *MODEL, "features.1:0,features.4:5,features.1:2-3", *QUICK, "--out", "p", "--json")
    assert done.code == 0, done.err
    assert [[row["name"] for row in layer["patterns"]] for layer in done.json["layers"]] == [
        ["features.1:0", "features.1:2", "features.1:3"],
        ["features.4:5"],
    ]
    assert [layer["sheet"] for layer in done.json["layers"]] == ["p/features.1.png", "p/features.4.png"]


def test_a_unit_and_one_of_its_neurons_do_not_take_each_others_place(call: Call, here: Path) -> None:
    done = call("visualize", *MODEL, "features.1:1,features.1:1@3,4", *QUICK, "--out", "p")
    assert done.code == 0, done.err
    assert {name for name in contents(Path("p")) if name.endswith(".png")} == {
        "features.1/0001.png",
        "features.1.png",
        "features.1@3,4/0001.png",
        "features.1@3,4.png",
    }
    assert "already" in call("visualize", *MODEL, "features.1:1", *QUICK, "--out", "p").err


def test_all_units_are_meant_where_none_are_named(call: Call, here: Path) -> None:
    done = call("visualize", *MODEL, "features.1", "--steps", 1, "--json")
    assert [row["name"] for row in done.json["layers"][0]["patterns"]] == [f"features.1:{i}" for i in range(4)]
    assert Path("patterns/features.1/0003.png").is_file()


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
    done = call("visualize", *MODEL, "@logits", "--negative", "--recipe", "classic", *QUICK, "--out", "least", "--json")
    assert [row["name"] for row in done.json["layers"][0]["patterns"]] == ["-tabby cat", "-red fox", "-spoon"]
    assert Path("least/@logits-negative/0002-spoon.png").is_file()


def test_json_stands_alone_on_stdout_and_says_all(call: Call, here: Path) -> None:
    done = call("visualize", *MODEL, "features.4:0-1", *QUICK, "--photos", ".", "--json", "--out", "p")
    assert done.code == 0, done.err
    assert done.out.count("\n") == done.out.rstrip("\n").count("\n") + 1
    assert set(done.json) == {"model", "out", "layers", "evolution"}
    (layer,) = done.json["layers"]
    assert {"layer", "sheet", "patterns", "recipe", "steps", "seed", "size", "transforms", "notes"} <= set(layer)
    on_disk = [json.loads(line) for line in Path("p/patterns.jsonl").read_text("utf-8").splitlines()]
    assert layer["patterns"] == on_disk
    for row in layer["patterns"]:
        assert Path("p", row["file"]).is_file()
        assert row["natural"] > 0


def test_dead_units_are_told_of(call: Call, here: Path) -> None:
    net = Path("net.py").read_text("utf-8")
    dead = """        self.features[0].weight.data[2] = 0
        self.features[0].bias.data = torch.tensor([1.0, 1.0, -1.0, 1.0])
        self.head ="""
    Path("dead.py").write_text("import torch\n" + net.replace("        self.head =", dead, 1), "utf-8")
    done = call("visualize", "dead.py:Net", "--size", 32, "features.1:1-2", *QUICK, "--json")
    assert "convscope: dead: features.1:2" in done.err.splitlines()
    assert [row["verdict"] for row in done.json["layers"][0]["patterns"]] == ["", "dead"]
    red = (np.asarray(Image.open("patterns/features.1.png")).astype(int) == (235, 64, 52)).all(-1)
    assert red.sum() > 300
    again = call("visualize", "dead.py:Net", "--size", 32, "features.1:1-2", *QUICK)
    assert "convscope: dead: features.1:2" in again.err.splitlines(), "also where it is there already"


def test_a_trained_network_and_two_of_its_classes(call: Call, here: Path) -> None:
    lite = "convscope:efficientnet_lite0"
    done = call("visualize", lite, "@logits:tench,goldfish", "--recipe", "maco", "--canvas", 64, *QUICK, "--out", "p")
    assert done.code == 0, done.err
    assert done.out == "p/@logits.png: 2 patterns of @logits\n"
    assert {name for name in contents(Path("p")) if name.endswith(".png")} == {
        "@logits/0000-tench.png",
        "@logits/0001-goldfish.png",
        "@logits.png",
    }
    done = call("visualize", lite, "blocks.0.0:0-3", *QUICK, "--out", "p")
    assert done.out == "p/blocks.0.0.png: 4 patterns of blocks.0.0\n"


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
    before, after = (Path(place, "features.conv1/0000.png").read_bytes() for place in ("p", "p/epoch-001"))
    assert before != after, "the run has learned something"
    options = ("--diversity", 2, "--negative", "--evolve", "run:run", *QUICK)
    done = call("visualize", *begun, "features.relu1:1", *options, "--out", "p")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "p/evolution-features.conv1-negative.png: the same units of run:run"
    assert Path("p/epoch-001/features.conv1-negative/0001-1.png").is_file()
    assert call("visualize", *begun, "features.conv1:0", "--evolve", "run:nowhere", *QUICK).code == 2
    wider = ("convscope:mnist_convnet@random", "--option", "num_classes=12")
    done = call("visualize", *wider, "@logits", "--evolve", "run:run", *QUICK, "--out", "q")
    assert done.code == 2
    assert "@logits: the model has other units there than epoch-001 of the run has" in done.err
    assert not Path("q").exists()


def test_dreams_and_caricatures(call: Call, here: Path) -> None:
    done = call("visualize", *MODEL, "features.4", "--dream", "a.png", "--canvas", 40, "--steps", 2, "--out", "p")
    assert done.code == 0, done.err
    assert Image.open("p/dream-a-features.4.png").size == (33, 40)
    assert done.out.startswith("p/dream-a-features.4.png: energy of features.4 on a.png, score ")
    assert not list(Path("p").glob(".convscope-*"))
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
        (["features.4", "--dream", "a.png", "--negative"], "--negative: not of a dream"),
        (["features.4", "--caricature", "a.png", "--recipe", "maco", "--photos", "."], "--recipe, --photos"),
        (["features.4:0-2", "--dream", "a.png"], "a dream raises one score"),
        (["features.4", "--dream", "none.png"], "none.png: no such file"),
        (["features.4", "--dream", "."], "a dream is of one photo, got 2"),
        (["features.4:0", "--caricature", "a.png"], "leave out the units"),
        (["features.4:0", "--photos", "none.png"], "none.png: no such file"),
        (["features.4:0", "--evolve", "run:none"], "run:none: no such folder"),
        (["features.4:0", "--diversity", "0"], "--diversity"),
        (["features.1:0,@logits:0"], "@logits is the output: ask for it alone"),
        (["features.4", "--caricature", "."], "name one photo, not a folder"),
        (["@logitsfox"], "unknown alias '@logitsfox'"),
        ([""], "'' is not a layer or unit"),
        ([","], "unknown layer ','"),
        (["nothing*"], "nothing*"),
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


@pytest.mark.parametrize(("what", "code"), [("@logits:0", 1), ("features.1:0", 1)])
def test_a_size_that_nobody_said_is_asked_for(call: Call, here: Path, what: str, code: int) -> None:
    done = call("visualize", "net.py:Flat", what)
    assert (done.code, done.out) == (code, "")
    assert "fails on an input of 224x224" in done.err.splitlines()[-1]
    assert "--size" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    assert not Path("patterns").exists()


def test_where_nothing_can_be_written_it_fails_in_one_line(call: Call, here: Path) -> None:
    done = call("visualize", *MODEL, "features.1:0", *QUICK, "--out", "a.png")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("convscope: error: cannot write a.png: ")
    with files_of_at_most(200):
        done = call("visualize", *MODEL, "features.1:0", *QUICK, "--out", "p")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[-1].startswith("convscope: error: cannot write p: ")
    assert [name for name in contents(Path("p")) if name.endswith((".png", ".part"))] == []
    assert call("visualize", *MODEL, "features.1:0", *QUICK, "--out", "p").code == 0


LONG = ["features.4", "--steps", "150", "--budget", "4", "--out", "p"]


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_keeps_what_is_done(call: Call, here: Path, number: signal.Signals, code: int) -> None:
    line = [sys.executable, "-m", "convscope", "visualize", *MODEL, *LONG, "--json"]
    process = subprocess.Popen(
        line,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_started_by_a_shell,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines, deadline = Path("p/patterns.jsonl"), time.monotonic() + 120
    while not (lines.exists() and lines.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(number)
    out, told = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, ""), told
    assert "Traceback" not in told
    done = len(lines.read_text("utf-8").splitlines())
    assert 0 < done < 8
    assert not list(Path("p").rglob("*.part"))
    again = call("visualize", *MODEL, *LONG)
    assert again.code == 0
    assert f"{done} of 8 patterns are there already" in again.err
    shutil.move("p", "gone-on-with")
    assert call("visualize", *MODEL, *LONG).code == 0
    assert contents(Path("gone-on-with")) == contents(Path("p"))


def test_the_budget_is_the_librarys() -> None:
    import inspect

    from convscope.optvis.plan import BUDGET_MIB

    assert inspect.signature(visualize.visualize).parameters["budget"].default == BUDGET_MIB
