"""The loop does what is written by hand beside it, step for step."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from convscope.data.augment import augmentation
from convscope.data.loading import Loader, Photos, order
from convscope.errors import Cancelled, ConvscopeError
from convscope.parallel import accelerated
from convscope.progress import reporting
from convscope.training.config import Training
from convscope.training.fit import Task, fit
from convscope.training.folder import BEST, LAST, RunFolder
from convscope.training.freeze import set_modes
from convscope.training.prepare import Pixels
from tests.training.small import classifier_of, digits, plain_net

COUNT = 90
TRAIN, VAL = np.arange(70), np.arange(70, COUNT)


def task_of(network: nn.Module, chosen: set[str] | None = None, augment: str = "none", **settings: Any) -> Task:
    classifier, found = classifier_of(network), digits(COUNT)
    config = Training(
        **{"epochs": 3, "batch_size": 16, "lr": 0.05, "optimizer": "sgd", "schedule": "constant", **settings}
    )
    photos = Photos(found, classifier.framing, 1)
    changed = Photos(found, classifier.framing, 1, augmentation=augmentation(augment), seed=config.seed)
    names = {name for name, _ in network.named_parameters()}
    return Task(
        Pixels(classifier),
        network,
        chosen or names,
        Loader(changed),
        Loader(photos),
        found.labels,
        TRAIN,
        VAL,
        10,
        config,
    )


def fitted(task: Task, folder: Path, **more: Any) -> tuple[Any, list[dict[str, Any]]]:
    run = RunFolder.create(folder)
    with accelerated(torch.device("cpu"), "fp32") as accelerator:
        done = fit(task, run, accelerator, **more)
    return done, run.rows()


def by_hand(network: nn.Module, config: Training) -> list[float]:
    """SGD from its definition, in float64: the mean training loss of each epoch. Changes the network."""
    network.double()
    found = digits(COUNT)
    pixels = (torch.from_numpy(found.store.pixels).double()[:, None] / 255 - 0.3) / 0.4  # type: ignore[attr-defined]
    labels = torch.from_numpy(found.labels.astype(np.int64))
    counts = torch.bincount(labels[:70], minlength=10)
    weights = torch.where(counts > 0, 70 / ((counts > 0).sum() * counts.clamp(min=1)), torch.zeros(10)).double()
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    steps, losses = math.ceil(70 / 16), []
    for epoch in range(config.epochs or 0):
        rows, total = order(config.seed, epoch, TRAIN), 0.0
        for step in range(steps):
            batch = torch.from_numpy(rows[step * 16 : step * 16 + 16])
            done = epoch * steps + step
            rate = config.lr or 0
            if config.warmup and done < config.warmup * steps:
                rate *= (done + 1) / (config.warmup * steps)
            elif config.schedule == "cosine":
                begun = config.warmup * steps
                rate *= (1 + math.cos(math.pi * (done - begun) / (3 * steps - begun))) / 2
            log = network(pixels[batch]).log_softmax(1)
            smooth = config.label_smoothing
            each = -(1 - smooth) * log[range(len(batch)), labels[batch]] - smooth * log.mean(1)
            share = weights[labels[batch]] if config.balance == "weights" else torch.ones(len(batch)).double()
            grads = torch.autograd.grad((each * share).sum() / share.sum(), list(network.parameters()))
            if config.clip:
                norm = math.sqrt(sum(float(g.square().sum()) for g in grads))
                grads = tuple(g * min(1.0, config.clip / (norm + 1e-6)) for g in grads)
            with torch.no_grad():
                for (name, p), g in zip(network.named_parameters(), grads, strict=True):
                    g = g + (config.weight_decay or 0) * p if p.ndim > 1 else g
                    velocity[name] = config.momentum * velocity[name] + g
                    p -= rate * velocity[name]
                if config.max_filter_rms:
                    filters: Tensor = network[0].weight  # type: ignore[index]
                    for one in filters:
                        rms = math.sqrt(float(one.square().mean()))
                        one *= min(1.0, config.max_filter_rms / rms)
            total += float(each.detach().sum())
        losses.append(total / 70)
    return losses


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({}, id="plain"),
        pytest.param({"momentum": 0.9, "weight_decay": 0.01}, id="momentum and weight decay"),
        pytest.param({"label_smoothing": 0.1}, id="label smoothing"),
        pytest.param({"balance": "weights"}, id="class weights"),
        pytest.param({"clip": 0.5}, id="clipped"),
        pytest.param({"schedule": "cosine"}, id="cosine"),
        pytest.param({"schedule": "cosine", "warmup": 1.0}, id="cosine after warm-up"),
        pytest.param({"max_filter_rms": 0.15, "lr": 0.3}, id="filters limited"),
    ],
)
def test_it_is_sgd_as_written_by_hand(tmp_path: Path, settings: dict[str, Any]) -> None:
    task = task_of(plain_net(), **settings)
    _, rows = fitted(task, tmp_path / "run")
    other = plain_net()
    losses = by_hand(other, task.config)
    assert [row["train_loss"] for row in rows] == pytest.approx(losses, rel=1e-4)
    last = RunFolder(tmp_path / "run").load(LAST)
    assert last is not None
    for name, expected in other.state_dict().items():
        torch.testing.assert_close(last.network[name].double(), expected, rtol=1e-3, atol=2e-5)


def test_the_filter_limit_bites(tmp_path: Path) -> None:
    task = task_of(plain_net(), max_filter_rms=0.15, lr=0.3)
    fitted(task, tmp_path / "run")
    rms = task.network[0].weight.square().mean((1, 2, 3)).sqrt()  # type: ignore[index]
    assert float(rms.detach().max()) <= 0.15 + 1e-6
    free = task_of(plain_net(), lr=0.3)
    fitted(free, tmp_path / "free")
    assert float(free.network[0].weight.detach().square().mean((1, 2, 3)).sqrt().max()) > 0.2  # type: ignore[index]


def test_the_rows_say_what_a_slow_look_says(tmp_path: Path) -> None:
    task = task_of(plain_net(), epochs=2)
    _, rows = fitted(task, tmp_path / "run")
    last = RunFolder(tmp_path / "run").load(LAST)
    assert last is not None
    network = plain_net()
    network.load_state_dict(last.network)
    network.double().eval()
    found = digits(COUNT)
    right, loss = 0, 0.0
    for row in VAL:
        pixels = (torch.from_numpy(found.store.pixels[row]).double()[None, None] / 255 - 0.3) / 0.4  # type: ignore[attr-defined]
        log = network(pixels).log_softmax(1)[0]
        right += int(log.argmax()) == found.labels[row]
        loss -= float(log[int(found.labels[row])])
    assert rows[-1]["val_accuracy"] == right / 20
    assert rows[-1]["val_loss"] == pytest.approx(loss / 20, rel=1e-5)
    assert rows[-1].keys() == {"epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"}


def test_the_best_epoch_is_kept_and_the_network_gets_its_weights(tmp_path: Path) -> None:
    # A rate that destroys what was learned: the last epoch is not the best.
    task = task_of(plain_net(), epochs=6, lr=0.9, momentum=0.9)
    done, rows = fitted(task, tmp_path / "run")
    best = max(rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert done.best["epoch"] == best["epoch"] != 6
    kept = RunFolder(tmp_path / "run").load(BEST)
    assert kept is not None
    for name, value in task.network.state_dict().items():
        assert torch.equal(value, kept.network[name])
    assert not task.network.training


def test_what_is_frozen_does_not_move(tmp_path: Path) -> None:
    network = plain_net(batch_norm=True)
    network[1].running_mean.fill_(0.2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fitted(task_of(network, {"6.weight", "6.bias"}, epochs=2), tmp_path / "run")
    moved = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"6.weight", "6.bias"}  # BatchNorm's statistics neither


def test_modes_follow_what_learns() -> None:
    network = nn.Sequential(plain_net(batch_norm=True, dropout=0.5), nn.Sequential(nn.Dropout(0.3), nn.Linear(10, 10)))
    set_modes(network, {"1.1.weight"})
    assert [m.training for m in network[0].modules()] == [False] * 8  # type: ignore[union-attr]
    assert [m.training for m in network[1].modules()] == [True] * 3  # type: ignore[union-attr]
    set_modes(network, {name for name, _ in network.named_parameters()})
    assert all(module.training for module in network.modules())


def test_plateau_divides_the_rate_and_patience_ends(tmp_path: Path) -> None:
    # Nothing can be learned at this rate, so the loss does not become better in any way that lasts.
    settings = {"epochs": 30, "lr": 1e-12, "schedule": "plateau", "plateau": 2, "patience": 7}
    done, rows = fitted(task_of(plain_net(), **settings), tmp_path / "run")
    stale, best, expected, waited, factor = 0, math.inf, [], 0, 1.0
    for row in rows:  # the rule, told again
        expected.append(factor * 1e-12)
        if row["val_loss"] < best:
            best, stale, waited = row["val_loss"], 0, 0
        else:
            stale, waited = stale + 1, waited + 1
            if waited == 2:
                factor, waited = factor * 0.1, 0
    assert [row["lr"] for row in rows] == pytest.approx(expected)
    assert done.finished
    assert (len(rows) == 30) != (stale == 7)


@pytest.mark.parametrize(("lr", "says"), [(1e30, "no longer finite")])
def test_nan_ends_it_with_a_line_and_the_last_checkpoint(tmp_path: Path, lr: float, says: str) -> None:
    with pytest.raises(ConvscopeError, match=says) as caught:
        fitted(task_of(plain_net(), lr=lr), tmp_path / "run")
    assert "--lr" in str(caught.value)
    assert "\n" not in str(caught.value)
    last = RunFolder(tmp_path / "run").load(LAST)
    assert last is not None
    assert all(bool(value.isfinite().all()) for value in last.network.values())


def test_cancelled_it_stands_between_two_steps(tmp_path: Path) -> None:
    calls = [0]

    def cancel() -> bool:
        calls[0] += 1
        return calls[0] > 9

    with pytest.raises(Cancelled), reporting(cancel=cancel):
        fitted(task_of(plain_net()), tmp_path / "run")
    last = RunFolder(tmp_path / "run").load(LAST)
    assert last is not None
    assert (last.state["epoch"], last.state["step"]) == (1, 2)  # 5 steps, 2 batches looked at, and a look after


def test_augmentation_changes_with_the_epoch_and_nothing_else(tmp_path: Path) -> None:
    runs = []
    for name in ("one", "two"):
        task = task_of(plain_net(dropout=0.5), augment="rotation=20,shift=.1", seed=3)
        torch.manual_seed(len(name) * 7)  # whatever it is: not what dropout draws from
        fitted(task, tmp_path / name)
        runs.append((tmp_path / name / "metrics.jsonl").read_text())
    assert runs[0] == runs[1]
    other = task_of(plain_net(dropout=0.5), augment="rotation=20,shift=.1", seed=4)
    fitted(other, tmp_path / "other")
    assert (tmp_path / "other" / "metrics.jsonl").read_text() != runs[0]


def test_balanced_sampling_shows_rare_classes_as_often(tmp_path: Path) -> None:
    task = task_of(plain_net(), balance="sampling")
    seen: list[np.ndarray] = []

    class Watched:
        def batches(self, wanted: Any, epoch: int = 0) -> Any:
            seen.extend(wanted)
            return task.source.batches(wanted, epoch)

    rare = np.concatenate([TRAIN[task.labels[TRAIN] != 3], TRAIN[task.labels[TRAIN] == 3][:1]])
    changed = Task(**{**vars(task), "source": Watched(), "train": rare})
    fitted(changed, tmp_path / "run")
    shown = np.bincount(task.labels[np.concatenate(seen)], minlength=10)
    assert shown.max() - shown.min() <= 3  # one an epoch at most


@pytest.mark.parametrize("left", ["old and new", "old"])
def test_a_kill_between_two_renamings_does_no_lasting_harm(tmp_path: Path, left: str) -> None:
    fitted(task_of(plain_net(), epochs=1), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    whole = folder.load(LAST)
    assert whole is not None
    place = tmp_path / "run" / "checkpoints"
    (place / LAST).rename(place / f".{LAST}.old")
    if left == "old and new":
        folder.save(LAST, whole)
        shutil.copytree(place / LAST, place / f".{LAST}.old", dirs_exist_ok=True)
    for _ in range(2):
        folder.save(LAST, whole)
        assert folder.load(LAST) is not None
    assert sorted(found.name for found in place.iterdir()) == [BEST, LAST]
