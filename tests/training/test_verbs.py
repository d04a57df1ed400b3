"""What the commands do, in Python: check, evaluate, export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import convscope as cs
from convscope.errors import UsageError
from tests.exporting import unchecked_tracing
from tests.training.small import plain_net


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of two classes, one of them broken, and a run on them."""
    folder, found = tmp_path_factory.mktemp("verbs"), load_digits()
    for label in (0, 1):
        (folder / "photos" / f"number {label}").mkdir(parents=True)
        for i, pixels in enumerate(found.images[found.target == label][:40]):
            pixels = np.rint(pixels * 15.9).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / f"number {label}" / f"{i}.png")
    (folder / "photos/number 0/broken.png").write_bytes(b"no picture")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        settings = {"size": 8, "epochs": 4, "lr": 0.01, "workers": 0, "device": "cpu"}
        cs.train("photos", model="convscope:mnist_convnet", out="run", **{**settings, "size": None})
    return folder


def command(place: Path, *args: str) -> dict[str, object]:
    line = [sys.executable, "-m", "convscope", *args, "--json"]
    done = subprocess.run(line, cwd=place, capture_output=True, text=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_check_says_what_the_command_says(place: Path) -> None:
    found, problems = cs.check(place / "photos")
    assert (len(found), found.classes) == (80, ("number 0", "number 1"))
    told = command(place, "check", "photos")
    assert [vars(one) | {"photos": list(one.photos)} for one in problems] == told["findings"]
    assert [one.kind for one in problems] == ["left out"]
    with pytest.raises(UsageError, match="unknown option of a source 'colums'; nearest: columns"):
        cs.check(place / "photos", colums={})


def test_evaluate_is_the_commands(place: Path) -> None:
    scope = cs.load(f"run:{place / 'run'}")
    assert scope.run == place / "run"
    own = scope.evaluate()
    told = command(place, "evaluate", "run")
    assert (own.metrics.accuracy, own.metrics.count) == (told["accuracy"], told["count"])
    assert own.remarks[0] == "the run's own test photos"
    every = scope.evaluate(place / "photos")
    assert every.metrics.count == 80
    assert [one.name for one in every.refused] == ["number 0/broken.png"]
    assert "of these photos trained the model" in every.remarks[-1]
    assert repr(every).startswith("<accuracy ")
    with pytest.raises(UsageError, match="only a run has photos of its own"):
        cs.Scope(plain_net(), size=8).evaluate()


def test_vanished_test_photos_are_told_of(place: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(place, tmp_path / "moved")
    config = tmp_path / "moved/run/config.yaml"
    config.write_text(config.read_text().replace(str(place), str(tmp_path / "moved")))
    scope = cs.load(f"run:{tmp_path / 'moved/run'}")
    first = scope.evaluate()
    one, *others = [photo for photo in (tmp_path / "moved/run/split.csv").read_text().splitlines() if ",test" in photo]
    name = one.split(",")[0].strip('"')
    (tmp_path / "moved/photos" / name).unlink()
    second = scope.evaluate()
    assert second.metrics.count == first.metrics.count - 1
    assert f"1 of the run's {1 + len(others)} test photos are gone, such as {name}" in second.remarks
    for other in others:
        (tmp_path / "moved/photos" / other.split(",")[0].strip('"')).unlink()
    with pytest.raises(UsageError, match="test photos are gone"):
        scope.evaluate()


def test_export_of_a_run_and_of_a_module(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unchecked_tracing(monkeypatch)
    scope = cs.load(f"run:{place / 'run'}")
    photo = place / "photos/number 1/3.png"
    for name in ("net.onnx", "net.safetensors"):
        checked = scope.export(tmp_path / name, check=photo)
        assert (tmp_path / name).stat().st_size > 1000
        assert checked.difference < 1e-4
        assert checked.images == 5
    own = cs.Scope(plain_net().eval(), [str(i) for i in range(10)], size=8, channels=1)
    assert own.export(tmp_path / "own.onnx").canvas in ((8, 8), None)
    with pytest.raises(UsageError, match="how the network is built is said by a specifier"):
        own.export(tmp_path / "own.safetensors")
    assert not list(tmp_path.glob("own.s*"))
    assert own.run is None
    assert torch.equal(own.classifier.network[0].weight, plain_net()[0].weight)  # type: ignore[index]
