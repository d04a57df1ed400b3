"""Two processes, started by torchrun for real, beside one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

NET = """
from torch import nn
def Net(num_classes=10):
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, num_classes))
"""
AUXILIARY = """
from torch import nn
class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.head, self.aux, self.idle = (nn.Linear(72, num_classes) for _ in range(3))
    def forward(self, x):
        x = self.body(x)
        return (self.head(x), self.aux(x)) if self.training else self.head(x)
"""
TRAIN = ["train", "digits", "--model", "net.py:Net", "--size", "8", "--epochs", "2", "--batch-size", "57"]


def run(place: Path, processes: int, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    start = [sys.executable, "-m", "convscope"]
    if processes > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        start += ["-m", "convscope"]
    return subprocess.run([*start, *args], cwd=place, env=env, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "net.py").write_text(NET)
    return folder


def test_training_is_equal_to_rounding_and_evaluation_is_identical(place: Path) -> None:
    # 1258 photos in batches of 57: the last is of 4, and with class weights parts do not weigh the same.
    more = ["--balance", "weights", "--augment", "rotation=10", "--clip", "1"]
    one, two = (run(place, n, *TRAIN, *more, "--out", f"run{n}") for n in (1, 2))
    assert one.returncode == two.returncode == 0, two.stderr
    assert two.stdout.count("accuracy") == one.stdout.count("accuracy")  # one of them speaks
    left, right = (load_file(place / f"run{n}" / "model.safetensors") for n in (1, 2))
    for name, value in left.items():
        np.testing.assert_allclose(right[name].numpy(), value.numpy(), atol=2e-5, err_msg=name)
    rows = [[json.loads(line) for line in (place / f"run{n}" / "metrics.jsonl").open()] for n in (1, 2)]
    for a, b in zip(*rows, strict=True):
        for key, value in a.items():
            assert b[key] == pytest.approx(value, rel=2e-3, abs=2e-3), key
    found = [run(place, n, "evaluate", "run1", "--json") for n in (1, 2)]
    assert found[0].returncode == found[1].returncode == 0, found[1].stderr
    figures = [json.loads(one.stdout) for one in found]
    assert figures[0] == figures[1]  # to the last bit
    assert figures[0]["count"] == sum(figures[0]["confusion"][i][j] for i in range(10) for j in range(10))


def test_a_world_size_that_is_not_so_is_refused(place: Path) -> None:
    env = {**os.environ, "WORLD_SIZE": "2", "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-m", "convscope", *TRAIN, "--out", "lonely"]
    done = subprocess.run(line, cwd=place, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "WORLD_SIZE is 2" in done.stderr
    assert not (place / "lonely").exists()


def test_what_has_no_part_in_the_loss_is_no_obstacle(place: Path) -> None:
    """An auxiliary head, and a layer that is never run."""
    (place / "aux.py").write_text(AUXILIARY)
    line = ["train", "digits", "--model", "aux.py:Net", "--size", "8", "--epochs", "1", "--batch-size", "64"]
    one, two = (run(place, n, *line, "--out", f"aux{n}") for n in (1, 2))
    assert one.returncode == two.returncode == 0, two.stderr
    assert "find_unused" not in two.stderr
    left, right = (load_file(place / f"aux{n}" / "model.safetensors") for n in (1, 2))
    for name, value in left.items():
        np.testing.assert_allclose(right[name].numpy(), value.numpy(), atol=2e-5, err_msg=name)


# Photos that vanish between the scan and the training, all of them in the second process's share of each batch.
VANISHING = """
import sys
from convscope.cli import main
from convscope.data import loading
from convscope.data.listing import Refused
plain = loading.Photos.one
def one(self, row, epoch):
    gone = self.catalog.labels[row] == 3
    return Refused(self.catalog.store.names[row], "gone", "3") if gone else plain(self, row, epoch)
loading.Photos.one = one
sys.argv = ["convscope", *sys.argv[1:]]
sys.exit(main())
"""


def test_photos_that_vanish_weigh_nothing_and_are_told_by_whichever_process_missed_them(place: Path) -> None:
    (place / "vanishing.py").write_text(VANISHING)
    # Read anew for each batch: the augmentation crops.
    more = ["--augment", "crop=0.9", "--workers", "0", "--balance", "weights"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for processes in (1, 2):
        start = [sys.executable, "vanishing.py"]
        if processes > 1:
            start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            start += ["vanishing.py"]
        done = subprocess.run(
            [*start, *TRAIN, *more, "--out", f"vanished{processes}"],
            cwd=place, env=env, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "photos could not be read any more while training" in done.stderr
    left, right = (load_file(place / f"vanished{n}" / "model.safetensors") for n in (1, 2))
    for name, value in left.items():
        np.testing.assert_allclose(right[name].numpy(), value.numpy(), atol=2e-5, err_msg=name)
    gone = [sorted((place / f"vanished{n}" / "quarantine.csv").read_text().splitlines()) for n in (1, 2)]
    assert gone[0] == gone[1]
    assert len(gone[0]) > 100  # the threes among the training photos


NORMED = """
from torch import nn
def Net(num_classes=10):
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, num_classes))
"""


def test_processes_that_saw_other_photos_are_measured_as_one_network(place: Path) -> None:
    """BatchNorm's statistics are each process's own while it learns; the figures are those of the first's."""
    (place / "normed.py").write_text(NORMED)
    line = ["train", "digits", "--model", "normed.py:Net", "--size", "8", "--epochs", "3", "--batch-size", "64"]
    done = run(place, 2, *line, "--out", "normed")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(text) for text in (place / "normed/metrics.jsonl").open()]
    found = json.loads((place / "normed/evaluation.json").read_text())
    best = rows[found["best"]["epoch"] - 1]
    assert found["val"]["loss"] == pytest.approx(best["val_loss"], rel=1e-9)
    assert found["val"]["accuracy"] == best["val_accuracy"]


# In the second process alone a loss is not finite.
NAN = """
import sys, torch
from convscope.cli import main
from convscope.training import totals
plain = totals.Totals.add
def add(self, losses, logits, labels, counts):
    broken = torch.distributed.get_rank() == 1
    plain(self, losses * float("nan") if broken else losses, logits, labels, counts)
totals.Totals.add = add
sys.argv = ["convscope", *sys.argv[1:]]
sys.exit(main())
"""


def test_a_loss_that_is_not_finite_in_one_process_ends_all_of_them_with_a_line(place: Path) -> None:
    (place / "nan.py").write_text(NAN)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "nan.py"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    line = [*start, *TRAIN, "--out", "nan"]
    done = subprocess.run(line, cwd=place, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "the loss is no longer finite in epoch 1, step 1" in done.stderr
    assert "convscope/training/fit.py" not in done.stderr  # torchrun's own complaint aside, there is no traceback
