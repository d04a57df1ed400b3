"""The other commands: what they print for people and as JSON."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from convscope.methods import METHODS
from convscope.models.zoo import ARCHITECTURES
from tests.cli.conftest import MODEL, Call, photo
from tests.cli.digits import contents


def test_predict(call: Call, here: Path) -> None:
    lines = call("predict", *MODEL, "a.png", "b.png", "--top", 2).out.splitlines()
    assert lines[0].split() == ["photo", "probability", "index", "class"]
    assert [line.split()[0] for line in lines[1:5]] == ["a.png", "a.png", "b.png", "b.png"]
    assert lines[5] == ""
    assert lines[6].split() == ["class", "photos", "the", "surest"]
    assert sum(int(found[1]) for line in lines[7:] if (found := re.search(r"  (\d+)  ", line))) == 2
    (here / "empty.png").touch()
    done = call("predict", *MODEL, ".", "--json")
    assert done.code == 1
    assert [one["photo"] for one in done.json["photos"]] == ["a.png", "b.png"]
    assert done.json["photos"][0]["top"][0].keys() == {"index", "name", "probability"}
    assert done.json["failed"][0]["photo"] == "empty.png"
    assert done.err.endswith("1 of 3 photos failed\n")


def test_layers(call: Call) -> None:
    done = call("layers", "net.py:Net", "--size", "32x48")
    assert done.err == ""
    lines = {line.split()[0]: line.split() for line in done.out.splitlines() if line}
    assert lines["features.0"] == ["features.0", "Conv2d", "4x32x48", "112", "3x3", "1x1"]
    assert lines["features.3"] == ["features.3", "Conv2d", "8x14x22", "296", "8x8", "2x2"]
    assert lines["head"] == ["head", "Linear", "3", "27"]
    assert done.out.splitlines()[-1] == "435 parameters; shapes and fields for an input of 32x48"
    found = call("layers", "net.py:Net", "--size", "32", "--json", "--functions").json
    assert found["parameters"] == 435
    assert "/amax" in [row["layer"] for row in found["layers"]] or len(found["layers"]) > 6
    assert found["layers"][0]["receptive_field"] == {"status": "exact", "size": [3, 3], "stride": [1, 1]}


def test_layers_needs_no_weights(call: Call) -> None:
    done = call("layers", "torchvision:alexnet")
    assert done.code == 0, done.err
    assert "61,100,840 parameters" in done.out


def test_activations(call: Call, here: Path) -> None:
    done = call("activations", *MODEL, "a.png", "--layers", "features.*", "--each", "--each-size", 50, "--json")
    assert done.code == 0, done.err
    (one,) = done.json["photos"]
    folder = here / "activations" / one["folder"]
    assert one["folder"].startswith("000-")
    assert [told["layer"] for told in one["layers"]] == [f"features.{i}" for i in range(5)]
    assert one["layers"][0]["shape"] == [4, 32, 32]
    for told in one["layers"]:
        assert Image.open(here / "activations" / told["sheet"]).width > 300
        assert (folder / f"{told['layer']}-merged.png").exists()
    assert Image.open(folder / "features.3" / "unit-0007.png").size == (50, 50)


def test_activations_of_some_channels_through_a_sigmoid(call: Call, here: Path) -> None:
    done = call("activations", *MODEL, "a.png", "--layers", "features.0,features.3:0,2-4,@last_conv", "--channels", "2")
    assert done.out == "activations: 3 layers of 1 photo\n"
    some = ("--layers", "features.3", "--channels", "1,6-99", "--each", "--squash", "--out", "x")
    (one,) = call("activations", *MODEL, "a.png", *some, "--json").json["photos"]
    names = sorted(file.name for file in (here / "x" / one["folder"] / "features.3").iterdir())
    assert names == ["unit-0001.png", "unit-0006.png", "unit-0007.png"]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--channels", "some"], "--channels 'some' is neither all, nor a number"),
        (["--channels", "0"], "--channels '0' is neither"),
        (["--channels", "9-3"], "--channels '9-3' is neither"),
        (["--channels", "50-60"], "--channels: features has 8 channels, 0 to 7"),
        (["--layers", "nothing"], "unknown layer 'nothing'"),
    ],
)
def test_activations_refuses(call: Call, here: Path, args: list[str], line: str) -> None:
    done = call("activations", *MODEL, "a.png", *args)
    assert done.code == 2
    assert done.err.startswith(f"convscope: error: {line}")
    assert not (here / "activations").exists()


def test_filters(call: Call, here: Path) -> None:
    assert call("filters", *MODEL).out == "filters.png: 4 filters of 3x3x3 at features.0\n"
    assert np.asarray(Image.open("filters.png")).std() > 10
    done = call("filters", *MODEL, "--layer", "features.3:0-1", "--out", "deep/f.safetensors", "--json")
    assert done.json["shape"] == [2, 4, 3, 3]
    assert load_file("deep/f.safetensors")["raw"].shape == (2, 4, 3, 3)
    for args, code, line in (
        (["--out", "f.tiff"], 2, "error: f.tiff: save as"),
        (["--out", "deep"], 2, "--out deep is a folder; name a file"),
        (["--layer", "features.1"], 2, "layer features.1 is a ReLU and has no filters"),
        (["--out", "net.py/f.png"], 1, "cannot write net.py/f.png: a file is where a folder should be"),
    ):
        done = call("filters", *MODEL, *args)
        assert (done.code, done.err.count("\n")) == (code, 1)
        assert line in done.err
        assert "convscope-" not in done.err
    assert not list(here.glob(".convscope-*"))


def test_methods(call: Call) -> None:
    assert [one["name"] for one in call("methods", "--json").json] == list(METHODS)
    table = call("methods").out
    assert all(name in table for name in METHODS)
    assert "Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391)." in table
    for name in METHODS:
        found = call("methods", name, "--json").json
        assert found["name"] == name
        assert all(setting["help"] for setting in found["settings"])
    one = call("methods", "occlusion").out
    assert "side of the square in pixels" in one
    assert "black, grey, white, mean, blur" in one
    assert call("methods", "oclusion").err.startswith("convscope: error: unknown method 'oclusion'; nearest: occlusion")


def test_models(call: Call) -> None:
    found = call("models", "--json").json
    assert {one["name"] for one in found["zoo"]} == set(ARCHITECTURES)
    assert {one["source"] for one in found["sources"]} >= {"convscope", "torchvision", "timm", "file", "run"}
    assert next(one for one in found["zoo"] if one["name"] == "mnist_convnet")["parameters"] == 93322
    table = call("models").out
    assert "138" not in table.split()[0]
    assert "14,720,844" in table


def test_what_cannot_be_meant(call: Call) -> None:
    for args, line in (
        (["explane"], "No such command 'explane'"),
        (["predict"], "Missing argument 'MODEL'"),
        (["predict", "net.py:Net"], "Missing argument 'PHOTOS...'"),
        (["predict", "resnet50", "a.png"], "model 'resnet50' does not say where it comes from"),
        (["predict", *MODEL, "a.png", "--top", "none"], "Invalid value for '--top'"),
        (["--allocator", "fast", "methods"], "Invalid value for '--allocator'"),
    ):
        done = call(*args)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"convscope: error: {line}"), done.err
        assert done.err.count("\n") == 1


def test_help(call: Call) -> None:
    alone = call()
    assert alone.code == 0
    assert alone.out == call("--help").out
    commands = ["explain", "predict", "layers", "activations", "filters", "methods", "models"]
    assert all(f" {command} " in alone.out for command in commands)
    assert "CONVSCOPE_ALLOCATOR" in alone.out
    for command in commands:
        assert "--json" in call(command, "--help").out


@pytest.mark.parametrize(
    "command",
    [
        ("layers", "MODEL"),
        ("activations", "MODEL", "a.png"),
        ("filters", "MODEL"),
        ("explain", "MODEL", "a.png"),
        ("predict", "MODEL", "a.png"),
        ("visualize", "MODEL", "features.0:1"),
        ("atlas", "MODEL", "photos"),
        ("export", "MODEL"),
        ("evaluate", "MODEL", "photos"),
        ("diagnose", "MODEL", "photos"),
        *(("study", name, "MODEL", "photos") for name in ("occlusion", "agreement", "sanity", "probes", "transfer")),
    ],
    ids=" ".join,
)
def test_a_size_that_the_network_does_not_take_is_one_line(call: Call, here: Path, command: tuple[str, ...]) -> None:
    for name in ("tabby cat", "red fox"):
        (here / "photos" / name).mkdir(parents=True)
        for number in range(2):
            photo(f"photos/{name}/{number}.png", 40 + number, 44)
    before = contents(here)
    size = "--canvas" if command[:2] == ("study", "occlusion") else "--size"
    done = call(*(word.replace("MODEL", "net.py:Flat") for word in command), size, 20)
    assert (done.code, done.out) == (1, "")
    line = done.err.splitlines()[-1]
    assert line.startswith("convscope: error: net.py:Flat fails on an input of 20x20 (mat1 and mat2 shapes cannot be")
    assert line.endswith((": if it was made for another size, give that", ": --size sets the canvas"))
    assert contents(here) == before
