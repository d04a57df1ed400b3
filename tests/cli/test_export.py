"""``convscope export``: one file, checked, told in a line; never over another one unasked, never half of one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
import typer
from PIL import Image
from safetensors import safe_open

from convscope.cli import app as application
from convscope.cli.export import export
from convscope.cli.options import grouped
from convscope.models.registry import load_classifier
from convscope.models.run import write_run
from tests.cli.conftest import MODEL, Call
from tests.exporting import unchecked_tracing


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line, with this command whether or not the application lists it."""
    unchecked_tracing(monkeypatch)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    app.command()(grouped(export))
    monkeypatch.setattr(application, "app", app)


def left(folder: Path) -> set[str]:
    known = {"net.py", "weights.safetensors", "classes.txt", "a.png", "b.png", "__pycache__"}
    return {place.name for place in folder.iterdir()} - known


def test_onnx_by_default_under_the_models_name(call: Call, here: Path) -> None:
    done = call("export", *MODEL, "--check", "*.png")
    assert (done.code, done.err) == (0, "")
    size, verdict = done.out.split("; ")
    assert size.startswith("Net.onnx: 32x32, float32, ")
    assert verdict.startswith("checked on 6 images: largest difference ")
    assert float(verdict.split()[-1]) < 1e-5
    assert left(here) == {"Net.onnx"}
    session = onnxruntime.InferenceSession("Net.onnx")
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["tabby cat", "red fox", "spoon"]
    given = load_classifier("net.py:Net", weights="weights.safetensors", mean=0.5, std=0.5, size=32)
    pixels = given.framing.apply(Image.open("a.png"))[0][None]
    logits = session.run(["logits"], {"pixels": pixels.numpy()})[0]
    assert torch.allclose(torch.from_numpy(logits), given(pixels).detach(), atol=1e-4)


def test_safetensors_loads_as_weights_again(call: Call, here: Path) -> None:
    done = call("export", *MODEL, "--option", "width=4", "--out", "deep/cat.safetensors", "--json")
    assert done.code == 0, done.err
    assert (done.json["file"], done.json["format"], done.json["canvas"]) == (
        "deep/cat.safetensors",
        "safetensors",
        [32, 32],
    )
    assert done.json["checked"] == {"images": 4, "largest_difference": 0.0}
    assert done.json["bytes"] == Path("deep/cat.safetensors").stat().st_size
    about = safe_open("deep/cat.safetensors", "pt").metadata()
    assert (about["spec"], json.loads(about["options"])) == ("net.py:Net", {"width": 4})
    first, again = (
        load_classifier("net.py:Net", weights=file).network.state_dict()
        for file in ("weights.safetensors", "deep/cat.safetensors")
    )
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_a_run_gives_its_folders_name(call: Call, here: Path) -> None:
    spec, options = "convscope:mnist_convnet", {"num_classes": 3, "size": [20, 20]}
    write_run(
        load_classifier(f"{spec}@random", options=options, classes=["a", "b", "c"]), Path("digits"), spec, options
    )
    done = call("export", "run:digits", "--format", "safetensors", "--device", "cpu")
    assert done.out.startswith("digits.safetensors: 20x20, float32, "), done.err
    assert done.out.endswith("; checked on 4 images: largest difference 0\n")
    assert safe_open("digits.safetensors", "pt").metadata()["spec"] == spec


def test_a_size_that_could_not_be_left_open_is_told_of(call: Call, here: Path) -> None:
    with open("net.py", "a", encoding="utf-8") as file:
        file.write(
            "\n\nclass At224(Net):\n    def __init__(self):\n        super().__init__()\n"
            "        self.head = nn.Linear(8 * 110 * 110, 3)\n\n"
            "    def forward(self, x):\n        return self.head(self.features(x).flatten(1))\n"
        )
    done = call("export", "net.py:At224")
    assert done.out.startswith("At224.onnx: 224x224, ")
    assert done.err.splitlines()[1:] == [
        "convscope: At224.onnx takes 224x224 alone: height and width could not be left open; --size sets them"
    ]
    assert call("export", "net.py:Net").out.startswith("Net.onnx: any size, float32, ")


def test_a_file_that_is_there_is_kept_unless_forced(call: Call, here: Path) -> None:
    Path("Net.onnx").write_text("mine")
    done = call("export", *MODEL)
    assert (done.code, done.out) == (2, "")
    assert done.err == "convscope: error: Net.onnx is there already: --force replaces it, --out names another\n"
    assert Path("Net.onnx").read_text() == "mine"
    assert call("export", *MODEL, "--force").code == 0
    assert onnxruntime.InferenceSession("Net.onnx").get_inputs()[0].name == "pixels"


def test_what_fails_leaves_nothing(call: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for args, code, line in (
        ([*MODEL, "--out", "x.pt"], 2, "error: --out x.pt is for the format onnx: end it in .onnx"),
        ([*MODEL, "--out", "x.onnx", "--format", "safetensors"], 2, "is for the format safetensors: end it in"),
        ([*MODEL, "--format", "onx"], 2, "error: unknown --format 'onx'; nearest: onnx"),
        ([*MODEL, "--check", "none.png"], 2, "none.png: no such file"),
        ([*MODEL, "--check", "net.py"], 1, "net.py is not a photo that can be read"),
        (["net.py:Flat"], 1, "net.py:Flat fails on an input of 224x224"),
        ([*MODEL, "--out", "net.py/x.onnx"], 1, "cannot write net.py/x.onnx: a file is where a folder should be"),
    ):
        done = call("export", *args)
        assert (done.code, done.out) == (code, "")
        assert line in done.err
        assert left(here) == set()
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    done = call("export", *MODEL, "--out", "deep/x.onnx")
    assert done.err == ("convscope: error: ONNX needs onnxscript, which is not there: pip install 'convscope[onnx]'\n")
    assert left(here) == set()
