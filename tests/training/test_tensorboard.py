"""TensorBoard's files: what the metrics say, one file for each time that a run goes on, and nothing left open."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import convscope as cs
from convscope.training.config import Config
from convscope.training.job import Epoch, Told
from convscope.training.saver import Progress
from convscope.training.tensorboard import logged

NET = """
from torch import nn
def Net(num_classes=10):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))
"""


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def epoch(folder: Path, number: int, loss: float, *, last: bool = False) -> Epoch:
    row: dict[str, Any] = {"epoch": number, "train_loss": loss, "val_loss": None}
    return Epoch(row, Progress(finished=last), Config(), folder)


def writing() -> int:
    """Threads that write events."""
    gc.collect()
    return sum(type(thread).__name__ == "_AsyncWriterThread" for thread in threading.enumerate())


def test_it_is_told_what_the_metrics_say_in_one_file_and_another_for_what_follows(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    settings: dict[str, Any] = {"model": f"{tmp_path}/net.py:Net", "size": 8, "batch_size": 256}
    cs.train("digits", epochs=2, out=tmp_path / "run", tensorboard=True, **settings)
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 1
    done = cs.train(resume=tmp_path / "run", epochs=4, tensorboard=True)
    assert len(list((tmp_path / "run/tensorboard").iterdir())) == 2
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"):
        assert scalars(done.folder, name) == [(row["epoch"], pytest.approx(row[name], rel=1e-5)) for row in done.rows]
    assert repr(done).startswith(f"<run {done.folder}: 4 epochs, accuracy")


def test_every_epoch_is_on_disk_at_once_and_the_file_is_closed_after_the_last(tmp_path: Path) -> None:
    before = writing()
    heard: list[int] = []
    told = logged(Told(epoch=lambda found: heard.append(found.row["epoch"])))
    for number, loss in ((1, 0.5), (2, 0.25)):
        told.epoch(epoch(tmp_path, number, loss))
        assert scalars(tmp_path, "train_loss")[-1] == (number, loss)  # a kill now would lose nothing
    told.epoch(epoch(tmp_path, 3, 0.125, last=True))
    assert (heard, writing()) == ([1, 2, 3], before)
    assert scalars(tmp_path, "train_loss") == [(1, 0.5), (2, 0.25), (3, 0.125)]


def test_a_run_that_ends_early_closes_its_file(tmp_path: Path) -> None:
    before = writing()
    told = logged(Told())
    told.epoch(epoch(tmp_path, 1, 0.5))
    assert writing() == before + 1
    del told
    assert writing() == before


def test_epochs_that_are_done_again_are_told_once(tmp_path: Path) -> None:
    for numbers in ((1, 2, 3), (3, 4)):  # killed after the third, before its checkpoint
        told = logged(Told())
        for number in numbers:
            told.epoch(epoch(tmp_path, number, number / len(numbers)))
    assert scalars(tmp_path, "train_loss") == [(1, pytest.approx(1 / 3)), (2, pytest.approx(2 / 3)), (3, 1.5), (4, 2)]
