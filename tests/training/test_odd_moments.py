"""What a training does with odd batches, odd networks, kills at odd moments, and with files that are not its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import convscope as cs
from convscope.errors import ConvscopeError, UsageError
from convscope.images.own import MARK
from convscope.training import beginning, saver
from convscope.training.api import train
from convscope.training.folder import RunFolder
from tests.training.jobs import Stopped, go, stopped


def test_a_last_batch_of_one_photo_joins_the_one_before(place: Path) -> None:
    """BatchNorm on maps of 1x1 has nothing to average over one photo."""
    (place / "norm.py").write_text(
        "from torch import nn\n"
        "def Norm(num_classes=2):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, num_classes))\n"
    )
    done = go(model="norm.py:Norm", batch_size=33)  # of 34
    assert len(done.rows) == 1
    with pytest.raises(UsageError, match=r"BatchNorm on maps of 1x1 has nothing to average in a batch of 1: give a"):
        go(model="norm.py:Norm", batch_size=1, out="one")


def test_a_frozen_base_whose_features_are_kept_is_watched_too(place: Path) -> None:
    save_file({"0.weight": torch.randn(4, 1, 3, 3), "0.bias": torch.zeros(4)}, "base.safetensors")
    again = go(weights="base.safetensors", epochs=4, evolve=2, evolve_units=["0:0-1"])
    steps = sorted(path.name for path in (again.folder / "evolution").glob("merged-*.png"))
    assert steps == ["merged-000002.png", "merged-000004.png", "merged-000006.png", "merged-000008.png"]
    with Image.open(again.folder / "evolution/evolution.png") as picture:
        picture.load()
    assert [place.name for place in (again.folder / "evolution").glob(".*")] == [MARK]


def test_nobodys_files_are_removed(place: Path) -> None:
    (place / "exp").mkdir()
    (place / "exp/config.yaml").write_text("training:\n  epochs: 1\n")
    with pytest.raises(UsageError, match="is there already"):
        go(config="exp/config.yaml", out="exp")
    assert [path.name for path in (place / "exp").iterdir()] == ["config.yaml"]
    (place / "mine").mkdir()
    with pytest.raises(UsageError, match="no parameter that learns"):
        go(out="mine", rates={"nothing.*": 0.1})
    assert list((place / "mine").iterdir()) == []


@pytest.mark.parametrize("at", ["write_run", "write_split", "write_learned"])
def test_a_kill_while_the_folder_is_filled_is_no_dead_end(
    place: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(beginning, at, stopped)
        patch.setattr(beginning, "discard", lambda folder: None)
        with pytest.raises(Stopped):
            go(out="killed")
    assert (place / "killed/.unbegun").exists()
    assert len(go(out="killed").rows) == 1
    assert not list((place / "killed").glob(".*"))


def test_the_best_weights_are_those_that_are_reported_whenever_it_was_killed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the best checkpoint and the last, then asked for no more epochs than the last one knows of."""
    go(epochs=2, out="two", schedule="constant")
    plain = RunFolder.save
    saved: list[str] = []

    def killed(self: RunFolder, name: str, checkpoint: Any) -> None:
        saved.append(name)
        if name == "last" and checkpoint.state["epoch"] == 3:
            raise Stopped
        plain(self, name, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(saver, "SAVE_EPOCH", 0.0)
        patch.setattr(RunFolder, "save", killed)
        with pytest.raises(Stopped):
            go(epochs=4, out="killed", schedule="constant")
    assert saved[-2:] == ["best", "last"]  # so that this test can fail
    train(resume="killed", epochs=2, workers=0, device="cpu")
    assert load_file("killed/model.safetensors").keys() == load_file("two/model.safetensors").keys()
    for name, value in load_file("two/model.safetensors").items():
        assert torch.equal(load_file("killed/model.safetensors")[name], value)


def test_a_run_stays_what_it_was_loaded_from(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = go().folder.resolve()
    scope = cs.load("run:runs/last")
    own = [loss.name for loss in scope.evaluate().metrics.top_losses]
    go(seed=5)
    monkeypatch.chdir("/")
    assert scope.run == first
    assert [loss.name for loss in scope.evaluate().metrics.top_losses] == own


def test_what_an_earlier_run_learned_from_is_told_again_and_again(place: Path) -> None:
    first = go(seed=0, out="first")
    second = go(model=f"run:{first.folder}", size=None, seed=1, out="second")
    assert second.seen > 0
    assert train(resume="second", epochs=2, workers=0, device="cpu").seen == second.seen
    told = cs.load("run:second").evaluate().remarks
    assert [remark for remark in told if remark.startswith(f"{second.seen} of them had been learned from")]


def test_a_runs_own_settings_repeat_it(place: Path) -> None:
    """Also where it went on from another run, and with a single output."""
    first = go(seed=0, out="first", head="binary", options={"num_classes": 1})
    tuned = go(model=f"run:{first.folder}", size=None, lr=0.01, out="tuned")
    again = train(config="tuned/config.yaml", out="again", workers=0, device="cpu")
    assert again.rows == tuned.rows
    single = train(config="first/config.yaml", out="single", workers=0, device="cpu")
    assert single.rows == first.rows
    assert go(options={"num_classes": 1}, head="binary", resume="first", epochs=2).rows[:1] == first.rows


def test_more_epochs_of_the_same_job_go_on_with_it(place: Path) -> None:
    run = go(resume="auto").folder.resolve()
    assert go(resume="auto", epochs=3).folder.resolve() == run
    assert go(resume="auto", epochs=3).folder.resolve() != run


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"evolve": [1, 2]}, "begun with other settings: evolution.at"),
        ({"mean": 0.5}, "mean must be"),
        ({"epochs": "many"}, "epochs must be a whole number"),
    ],
)
def test_what_cannot_be_compared_is_one_line(place: Path, settings: dict[str, Any], says: str) -> None:
    run = go(evolve=1, evolve_units=["0:0"]).folder
    with pytest.raises(UsageError, match=says):
        train(resume=run, **settings)


def test_a_damaged_last_run_is_one_line(place: Path) -> None:
    run = go().folder
    config = yaml.safe_load((run / "config.yaml").read_text())
    del config["model"]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(ConvscopeError, match=r"its files are damaged \(KeyError: 'model'\)"):
        go(resume="auto")


def test_old_weight_norm_and_float64_are_trained_too(place: Path) -> None:
    (place / "old.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def Normed(num_classes=2):\n"
        "    return nn.Sequential(torch.nn.utils.weight_norm(nn.Conv2d(1, 4, 3)), nn.ReLU(), nn.Flatten(),\n"
        "                         nn.Linear(144, num_classes))\n"
        "def Double(num_classes=2):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes)).double()\n"
    )
    assert len(go(model="old.py:Normed", out="normed").rows) == 1
    save_file({"0.weight": torch.randn(4, 1, 3, 3).double(), "0.bias": torch.zeros(4).double()}, "base.safetensors")
    frozen = go(model="old.py:Double", weights="base.safetensors", out="double")
    assert len(frozen.rows) == 1
