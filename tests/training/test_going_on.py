"""What is the same job and what is not, and what a run keeps of how it began."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import convscope as cs
from convscope.data.catalog import catalog
from convscope.data.split import read_split
from convscope.errors import Cancelled, UsageError
from convscope.progress import reporting
from convscope.training import fit, job, saver
from convscope.training.api import train
from convscope.training.evaluate import evaluate
from convscope.training.resume import which
from tests.training.jobs import NET, Stopped, go, stopped


def stop_in_the_second_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """An end without any warning, after the first epoch's checkpoint."""
    monkeypatch.setattr(saver, "SAVE_EPOCH", 0.0)

    def judged(done: fit.Progress, *rest: Any) -> None:
        if done.epoch == 2:
            raise Stopped
        plain(done, *rest)

    plain = fit._judge
    monkeypatch.setattr(fit, "_judge", judged)


def test_auto_goes_on_with_the_same_job_only(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"0.weight": torch.ones(4, 1, 3, 3)}, "some.safetensors")
    begun: dict[str, Any] = {
        **{"epochs": 2, "mean": [0.5], "std": [0.25], "weights": "some.safetensors"},
        **{"model": "net.py:Net", "options": {"width": 4}, "size": 8, "split": "60/20/20", "unfreeze": ["0"]},
    }
    with monkeypatch.context() as patch:
        stop_in_the_second_epoch(patch)
        with pytest.raises(Stopped):
            go(**begun)
    run = (place / "runs/last").resolve()
    names = {"weights": "model", "mean": "model", "std": "model", "options": "model", "size": "model"}
    homes = {**names, "split": "data", "epochs": "training", "unfreeze": "training"}

    def same(**changed: Any) -> bool:
        settings = {**begun, **changed}
        spec = settings.pop("model")
        given: dict[str, dict[str, Any]] = {"model": {"spec": spec}, "data": {"source": "photos"}, "training": {}}
        for name, value in settings.items():
            given[homes[name]][name] = value
        return which("auto", None, given) == run

    assert same()
    assert same(model="~/net.py:Net", weights="~/some.safetensors", size=(8, 8), epochs=5)
    assert not same(model="net.py:Noting")
    assert not same(model="convscope:mnist_convnet")
    assert not same(weights="other.safetensors")
    assert not same(mean=[0.4])
    assert not same(options={"width": 5})
    assert not same(split="50/25/25")
    done = go(**begun, resume="auto")
    assert done.folder.resolve() == run
    assert [row["epoch"] for row in done.rows] == [1, 2]
    assert not same()  # nothing is left to do


def test_the_same_command_goes_on_from_a_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By then ``runs/last`` is another run than the one that was named."""
    first = go().folder.resolve()
    again: dict[str, Any] = {"model": "run:runs/last", "epochs": 2, "size": None, "resume": "auto"}
    with monkeypatch.context() as patch:
        stop_in_the_second_epoch(patch)
        with pytest.raises(Stopped):
            go(**again)
    second = (place / "runs/last").resolve()
    assert second != first
    done = go(**again)
    assert done.folder.resolve() == second
    assert len(done.rows) == 2
    assert yaml.safe_load((second / "config.yaml").read_text())["model"]["begun_from"] == f"run:{first}"


def test_a_run_that_was_killed_while_it_was_being_measured_is_not_done(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job.artifacts, "conclude", stopped)
        with pytest.raises(Stopped):
            go(resume="auto")
    run = (place / "runs/last").resolve()
    assert not (run / "evaluation.json").exists()
    done = go(resume="auto")
    assert done.folder.resolve() == run
    assert json.loads((run / "evaluation.json").read_text())["epochs"] == 1
    assert go(resume="auto").folder.resolve() != run


def test_fewer_epochs_than_are_done_are_refused(place: Path) -> None:
    run = go(epochs=3).folder
    with pytest.raises(UsageError, match="has done 3 epochs already: --epochs 2 is less"):
        go(epochs=2, resume=run)
    assert len(go(epochs=4, resume=run).rows) == 4


def test_a_run_without_a_checkpoint_is_begun_anew_in_its_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job, "sources", stopped)
        patch.setattr(job, "discard", lambda folder: None)  # as kill -9 leaves it
        with pytest.raises(Stopped):
            go(out="killed")
    assert (place / "killed/config.yaml").exists()
    with pytest.raises(UsageError, match=r"stopped before its first checkpoint.*--out .*killed"):
        train(resume="killed")
    assert go(out="killed").rows[0]["epoch"] == 1
    with pytest.raises(UsageError, match="is there already"):
        go(out="killed")


def test_it_goes_on_from_another_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths of the photos' root, of the network and of the weights are kept in full; one may hold an @."""
    at = place / "me@work"
    at.mkdir()
    (at / "net.py").write_text(NET)
    (at / "list.txt").write_text("".join(f"number {c}/{i}.png {c}\n" for c in (0, 1) for i in range(20)))
    save_file({"0.weight": torch.ones(4, 1, 3, 3)}, at / "some.safetensors")
    monkeypatch.chdir(at)
    settings = {"model": "net.py:Net", "size": 8, "workers": 0, "device": "cpu", "epochs": 1}
    run = train("list.txt", root="../photos", weights="some.safetensors", **settings, out="run").folder.resolve()
    monkeypatch.chdir("/")
    assert len(train(resume=run, epochs=2, workers=0, device="cpu").rows) == 2
    again = train(config=run / "config.yaml", out=place / "again", workers=0, device="cpu")  # the same run once more
    assert again.rows[0]["train_loss"] == train(resume=run).rows[0]["train_loss"]


def test_a_rate_is_told_right_after_an_end_exactly_between_two_epochs(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = go(epochs=2, schedule="cosine", out="whole").rows
    steps = [0]
    plain = fit.Totals.add

    def add(self: fit.Totals, *args: Any) -> None:
        plain(self, *args)
        steps[0] += 1

    with monkeypatch.context() as patch, reporting(cancel=lambda: steps[0] >= 2):
        patch.setattr(fit.Totals, "add", add)
        with pytest.raises(Cancelled):
            go(epochs=2, schedule="cosine", out="stopped")
    state = json.loads((place / "stopped/checkpoints/last/state.json").read_text())
    assert (state["epoch"], state["step"]) == (0, 2)  # 34 photos by 32: both steps of the first epoch, and no row yet
    assert train(resume="stopped", workers=0, device="cpu").rows == whole


def test_what_a_network_keeps_beside_tensors_is_no_obstacle(place: Path) -> None:
    run = go(model="net.py:Noting").folder
    assert len(go(model="net.py:Noting", resume=run, epochs=2).rows) == 2
    assert cs.load(f"run:{run}").classifier.network.notes == "as built"


def test_a_ready_module_is_not_trained_in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(place)
    net = importlib.import_module("net")
    del sys.modules["net"]
    monkeypatch.setitem(sys.modules, "net", net)  # for this test alone: others have one of that name
    before = {name: value.clone() for name, value in net.ready.state_dict().items()}
    net.ready.train()
    run = go(model="net:ready", lr=0.1).folder
    assert all(torch.equal(value, before[name]) for name, value in net.ready.state_dict().items())
    assert net.ready.training
    assert all(parameter.requires_grad for parameter in net.ready.parameters())
    trained = cs.load(f"run:{run}").classifier.network.state_dict()
    assert not torch.equal(trained["0.weight"], before["0.weight"])


class Backwards(nn.Module):
    """Its head is defined first."""

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__()
        self.head = nn.Linear(4, num_classes)
        self.body = nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu().mean((2, 3)))


def test_weights_leave_out_the_layer_that_runs_last_and_that_is_said(place: Path) -> None:
    from convscope.models.classes import numbered
    from convscope.training.start import start

    torch.manual_seed(1)
    save_file(Backwards().state_dict(), "backwards.safetensors")
    begun = start(f"{__name__}:Backwards", numbered(2), weights="backwards.safetensors", size=(8, 8))
    assert begun.loaded == {"body.weight", "body.bias"}
    assert [remark for remark in begun.remarks if "the last layer starts anew" in remark]
    others = start(f"{__name__}:Backwards", numbered(3), weights="backwards.safetensors", size=(8, 8))
    assert others.loaded == begun.loaded
    assert others.remarks == ()  # it could not have been kept


def test_a_head_of_two_layers_is_known_to_the_run_that_goes_on_from_it(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the book does it: first the head on a frozen base, then a block of the base together with all of the head."""
    (place / "two.py").write_text(
        "from torch import nn\n"
        "def Two(num_classes=2):\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(),\n"
        "                         nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))\n"
    )
    base = {"0.weight": torch.randn(4, 1, 3, 3), "0.bias": torch.zeros(4), "2.weight": torch.randn(4, 4, 3, 3)}
    save_file({**base, "2.bias": torch.zeros(4)}, "base.safetensors")

    def learned(run: Path) -> set[str]:
        state = json.loads((run / "checkpoints/last/state.json").read_text())
        return {name.partition(".")[0] for group in state["optimizer"]["groups"] for name in group}

    head = go(model="two.py:Two", weights="base.safetensors").folder
    assert learned(head) == {"5", "7"}
    tuned = go(model=f"run:{head}", unfreeze=["2"], size=None).folder
    assert learned(tuned) == {"2", "5", "7"}
    again = go(model=f"run:{tuned}", unfreeze=["0"], size=None).folder
    assert learned(again) == {"0", "5", "7"}
    plain = go(model=f"run:{head}", unfreeze=[], size=None).folder
    assert learned(plain) == {"5", "7"}


def transparent(place: Path) -> None:
    """Photos that differ by what they are transparent in: on black the one class is dark, on white it is bright."""
    rng = np.random.default_rng(0)
    for label, alpha in (("seen", 255), ("through", 0)):
        folder = place / "clear" / label
        folder.mkdir(parents=True)
        for i in range(16):
            grey = rng.integers(150, 256, (8, 8, 1), dtype=np.uint8)
            full = np.full((8, 8, 1), alpha, np.uint8)
            Image.fromarray(np.concatenate([grey, grey, grey, full], 2)).save(folder / f"{i}.png")


def test_what_lies_behind_transparent_photos_is_kept_with_the_run(place: Path) -> None:
    transparent(place)
    settings: dict[str, Any] = {"model": "net.py:Net", "size": 8, "workers": 0, "device": "cpu", "lr": 0.05}
    run = train("clear", background="black", epochs=30, out="black", **settings)
    assert run.metrics is not None
    assert run.metrics.accuracy == 1
    scope = cs.load("run:black")
    assert scope.background == scope.classifier.background == "black"
    clear = place / "clear/through/0.png"
    assert scope.predict(clear).top(1)[0].name == "through"
    assert cs.load("run:black", background="white").predict(clear).top(1)[0].name == "seen"
    found = evaluate(scope.classifier, catalog("clear"))
    assert found.metrics.accuracy == 1
    assert evaluate(scope.classifier, catalog("clear"), background="white").metrics.accuracy == 0.5
    on = train("clear", epochs=1, out="on", **{**settings, "model": "run:black", "size": None})
    assert cs.load(f"run:{on.folder}").background == "black"
    with pytest.raises(UsageError, match="background"):
        train("clear", background="blakc", **settings)
    again = train(resume="black", background="black", epochs=31, workers=0, device="cpu")
    assert len(again.rows) == 31
    with pytest.raises(UsageError, match=r"begun with other settings: data\.background is 'black' there"):
        train(resume="black", background="white")


def test_photos_that_were_moved_are_the_same_photos(place: Path) -> None:
    run = go().folder
    (place / "photos").rename(place / "elsewhere")
    with pytest.raises(UsageError, match="are not there any more: name where they are now"):
        cs.load(f"run:{run}").evaluate()
    unseen = cs.load(f"run:{run}").evaluate("elsewhere", unseen=True)
    assert unseen.metrics.count == 48 - 34  # all but those of training
    assert "34 of these photos trained the model: are left out" in unseen.remarks
    done = train("elsewhere", resume=run, epochs=2, workers=0, device="cpu")
    assert len(done.rows) == 2
    assert cs.load(f"run:{run}").evaluate().metrics.count > 0  # it knows where they are now


def test_auto_says_why_it_begins_anew(place: Path) -> None:
    said: list[str] = []
    go(resume="auto", told=job.Told(said.append))
    go(resume="auto", told=job.Told(said.append))
    go(resume="auto", lr=0.5, told=job.Told(said.append))
    told = [remark for remark in said if remark.startswith("a new run begins")]
    assert [remark.rpartition(", ")[2] for remark in told[:1]] == ["is done"]
    assert "is another job (training.lr is" in told[1]


def test_a_new_head_learns_at_its_own_pace_when_layers_are_unfrozen(place: Path) -> None:
    save_file({"0.weight": torch.randn(4, 1, 3, 3), "0.bias": torch.zeros(4)}, "base.safetensors")
    run = go(weights="base.safetensors", unfreeze=["0"]).folder
    config = yaml.safe_load((run / "config.yaml").read_text())["training"]
    assert (config["lr"], config["rates"]) == (1e-4, {"4": 1e-3})
    own = go(weights="base.safetensors", unfreeze=["0"], lr=0.01, out="own").folder
    assert yaml.safe_load((own / "config.yaml").read_text())["training"]["rates"] == {}


def test_a_split_is_taken_from_a_file(place: Path) -> None:
    first = go(out="first", seed=3)
    names, _, of = read_split(first.folder / "split.csv")
    second = go(out="second", seed=4, split="first/split.csv")
    assert read_split(second.folder / "split.csv")[0] == names
    assert read_split(second.folder / "split.csv")[2].tolist() == of.tolist()
    other = go(out="third", seed=4)
    assert read_split(other.folder / "split.csv")[2].tolist() != of.tolist()
    assert go(out="second", resume="auto", split="first/split.csv", seed=4, epochs=2).progress.epoch == 2
