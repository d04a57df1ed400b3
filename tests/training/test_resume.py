"""A training that is killed goes on as if it had not been: by real signals, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tests.cli.test_process import as_started_by_a_shell

NET = """
from torch import nn
def Net(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.2),
        nn.Flatten(), nn.Linear(8 * 3 * 3, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, num_classes))
"""
# Runs the command line as it is, but for checkpoints as often as asked, and a kill at an exact step.
DRIVER = """
import os, signal, sys
from convscope.cli import main
from convscope.training import optim, saver
saver.SAVE_EVERY, saver.SAVE_EPOCH = float(os.environ["EVERY"]), float(os.environ["EPOCH"])
plain, steps, at = optim.set_rate, [0], int(os.environ.get("KILL_AT", "0"))
def counted(optimizer, factor):
    steps[0] += 1
    if steps[0] == at:
        os.kill(os.getpid(), getattr(signal, os.environ["WITH"]))
    plain(optimizer, factor)
optim.set_rate = counted
sys.argv = ["convscope", *sys.argv[1:]]
sys.exit(main())
"""
SETTINGS = [
    "--size",
    "8",
    "--epochs",
    "3",
    "--batch-size",
    "64",
    "--augment",
    "rotation=10,shift=.1",
    "--clip",
    "1",
    "--schedule",
    "cosine",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    (folder / "net.py").write_text(NET)
    (folder / "driver.py").write_text(DRIVER)
    return folder


def command(place: Path, *args: str, every: float = 0.0, epoch: float = 0.0, kill: int = 0, by: str = "SIGKILL"):
    env = {**os.environ, "EVERY": str(every), "EPOCH": str(epoch), "KILL_AT": str(kill), "WITH": by}
    line = [sys.executable, "driver.py", "train", "digits", "--model", "net.py:Net", *SETTINGS, *args]
    env |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    how: dict[str, Any] = {"capture_output": True, "text": True, "preexec_fn": as_started_by_a_shell}
    return subprocess.run(line, cwd=place, env=env, **how)


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    done = command(place, "--out", "whole", every=1e9, epoch=1e9)
    assert done.returncode == 0, done.stderr
    return place / "whole"


def same(a: Path, b: Path) -> None:
    """Metrics, figures and every tensor, to the last bit."""
    assert (a / "metrics.jsonl").read_bytes() == (b / "metrics.jsonl").read_bytes()
    figures = [json.loads((run / "evaluation.json").read_text()) for run in (a, b)]
    for found in figures:
        del found["seconds"], found["prepared"]
    assert figures[0] == figures[1]
    for name in ("model.safetensors", "checkpoints/last/model.safetensors", "checkpoints/last/training.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes() or tensors_equal(a / name, b / name)


def tensors_equal(a: Path, b: Path) -> bool:
    left, right = load_file(a), load_file(b)
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype and left[k].numpy().tobytes() == right[k].numpy().tobytes() for k in left
    )


# 20 steps an epoch: the first step, within an epoch, an epoch's first and last, and where no checkpoint is recent.
@pytest.mark.parametrize(("kill", "every", "epoch"), [(1, 0, 0), (21, 0, 0), (33, 1e9, 0), (50, 1e9, 1e9)])
def test_killed_at_a_step_it_goes_on_to_the_same_weights(
    place: Path, whole: Path, kill: int, every: float, epoch: float
) -> None:
    name = f"killed-{kill}-{every:g}-{epoch:g}"
    dead = command(place, "--out", name, every=every, epoch=epoch, kill=kill)
    assert dead.returncode == -signal.SIGKILL
    done = command(place, "--out", name, "--resume", "auto", every=every, epoch=epoch)
    assert done.returncode == 0, done.stderr
    same(place / name, whole)


def test_killed_again_and_again(place: Path, whole: Path) -> None:
    for kill in (9, 14, 3):
        assert command(place, "--out", "often", "--resume", "auto", kill=kill).returncode == -signal.SIGKILL
    assert command(place, "--out", "often", "--resume", "auto").returncode == 0
    same(place / "often", whole)


@pytest.mark.parametrize(("by", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_asked_to_end_it_writes_a_checkpoint_and_says_so(place: Path, whole: Path, by: str, code: int) -> None:
    name = f"asked-{by}"
    dead = command(place, "--out", name, every=1e9, epoch=1e9, kill=27, by=by)
    assert dead.returncode == code, dead.stderr
    assert "Traceback" not in dead.stderr
    state = json.loads((place / name / "checkpoints/last/state.json").read_text())
    assert (state["epoch"], state["step"]) == (1, 7)  # the step that it was in is finished
    assert command(place, "--resume", name, every=1e9, epoch=1e9).returncode == 0
    same(place / name, whole)


def test_fine_tuning_keeps_its_groups(place: Path, whole: Path) -> None:
    """A part of another run's network learns, at rates of its own; killed, it goes on with the same groups."""
    tuned = ("--from", "whole", "--unfreeze", "6,9", "--rate", "6=0.001", "--optimizer", "adamw")

    def tune(*args: str, kill: int = 0) -> int:
        line = [sys.executable, "driver.py", "train", "digits", "--epochs", "2", "--batch-size", "64", *args]
        settings = {"EVERY": "0", "EPOCH": "0", "KILL_AT": str(kill), "WITH": "SIGKILL", "OMP_NUM_THREADS": "1"}
        return subprocess.run(line, cwd=place, env={**os.environ, **settings}, capture_output=True).returncode

    assert tune(*tuned, "--out", "tuned") == 0
    assert tune(*tuned, "--out", "tuned-killed", kill=13) == -signal.SIGKILL
    assert tune("--resume", "tuned-killed") == 0
    same(place / "tuned-killed", place / "tuned")
    groups = json.loads((place / "tuned-killed/checkpoints/last/state.json").read_text())["optimizer"]["groups"]
    assert sorted(name for group in groups for name in group) == ["6.bias", "6.weight", "9.bias", "9.weight"]
    assert len(groups) == 4  # two rates, with weight decay and without
    before, after = (load_file(place / run / "model.safetensors") for run in ("whole", "tuned"))
    moved = {name for name, value in before.items() if not bool((value == after[name]).all())}
    assert moved == {"6.bias", "6.weight", "9.bias", "9.weight"}  # BatchNorm's statistics stayed


def test_a_finished_run_has_nothing_left_to_do(place: Path, whole: Path) -> None:
    before = (whole / "metrics.jsonl").read_bytes(), (whole / "model.safetensors").stat().st_mtime_ns
    done = command(place, "--out", "whole", "--resume", "auto", kill=1)
    assert done.returncode == 0, done.stderr  # no step was made: the first would have killed it
    assert (whole / "metrics.jsonl").read_bytes() == before[0]


def test_more_epochs_go_on_from_the_last(place: Path) -> None:
    assert command(place, "--out", "more", "--schedule", "constant").returncode == 0
    first = (place / "more/metrics.jsonl").read_text()
    done = command(place, "--resume", "more", "--schedule", "constant", "--epochs", "5")
    assert done.returncode == 0, done.stderr
    rows = (place / "more/metrics.jsonl").read_text()
    assert rows.startswith(first)
    assert len(rows.splitlines()) == 5
    assert (
        command(place, "--resume", "more", "--schedule", "constant", "--epochs", "8", kill=5).returncode
        == -signal.SIGKILL
    )
    line = [sys.executable, "-m", "convscope", "train", "--resume", "more"]  # it knows that it was to be eight
    assert subprocess.run(line, cwd=place, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode == 0
    assert len((place / "more/metrics.jsonl").read_text().splitlines()) == 8


def test_other_settings_are_refused(place: Path, whole: Path) -> None:
    done = command(place, "--resume", "whole", "--lr", "0.5")
    assert done.returncode == 2
    assert "training.lr" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_signal_while_waiting_for_photos(place: Path, tmp_path: Path) -> None:
    """SIGTERM at no step in particular, several times over."""
    out = tmp_path / "run"
    line = [sys.executable, "driver.py", "train", "digits", "--model", "net.py:Net", *SETTINGS, "--out", str(out)]
    env = {**os.environ, "EVERY": "1e9", "EPOCH": "1e9", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(line, cwd=place, env=env, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        if (out / "checkpoints/last/state.json").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode in (143, 0), errors
    assert "Traceback" not in errors
