"""The training loop, on one page: epochs of steps, a look at the validation photos, a checkpoint now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from convscope.data.listing import Refused
from convscope.data.loading import Batch, balanced, cut, order
from convscope.errors import Cancelled, ConvscopeError
from convscope.progress import cancelled, track
from convscope.training import optim
from convscope.training.config import Training
from convscope.training.folder import BEST, LAST, Checkpoint, RunFolder, fill, tensors
from convscope.training.freeze import freeze_others, set_modes
from convscope.training.parallel import all_sum, gathered, most, on_first, share
from convscope.training.totals import Totals

SAVE_EVERY = 60.0  # seconds between checkpoints within an epoch: what a kill can cost
SAVE_EPOCH = 5.0  # and at the end of one: epochs of cached features take milliseconds
LOOK_EVERY = 25  # steps between looks at the loss on a GPU, which has to be waited for


class Source(Protocol):
    """Where batches come from."""

    def batches(self, wanted: Sequence[np.ndarray], epoch: int = 0) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Task:
    """What is to be learned from what. ``forward`` takes a batch's images to logits; ``network`` holds its weights."""

    forward: nn.Module
    network: nn.Module
    chosen: set[str]  # the parameters that learn
    source: Source  # of training photos, augmented
    plain: Source  # of the same catalog, as it is
    labels: np.ndarray
    train: np.ndarray  # rows of the catalog
    val: np.ndarray
    classes: int
    config: Training
    after_step: Callable[[int, Tensor], None] = lambda step, images: None
    after_epoch: Callable[[int], None] = lambda epoch: None


@dataclass
class Progress:
    """How far a training is. All of it is in a checkpoint."""

    epoch: int = 0  # whole epochs that are done
    step: int = 0  # of the next one
    finished: bool = False
    best: dict[str, Any] = field(default_factory=dict)
    stale: int = 0  # epochs since the validation loss was at its lowest
    lowest: float = math.inf
    seconds: float = 0.0
    totals: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # of this epoch: loss, right, photos
    lost: list[Refused] = field(default_factory=list)


def fit(
    task: Task,
    run: RunFolder,
    accelerator: Accelerator,
    *,
    resumed: Checkpoint | None = None,
    told: Callable[[dict[str, Any], Progress], None] = lambda row, done: None,
    keep_best: Callable[[Checkpoint], None] = lambda best: None,
) -> Progress:
    """Train until the last epoch, or until ``patience`` is lost; the network then has the weights of the best epoch.

    Order, augmentation and dropout are functions of the seed, the epoch and the step, so a training that goes on from
    ``resumed`` does what the uninterrupted one would have done. Cancelled, it first writes a checkpoint. ``told`` hears
    of every epoch; ``keep_best`` is given the best weights so far whenever they are written.
    """
    config, device = task.config, accelerator.device
    assert config.epochs is not None
    freeze_others(task.network, task.chosen)
    optimizer, groups = optim.make_optimizer(task.network, task.chosen, config)
    done = Progress()
    model = accelerator.prepare(task.forward)
    if accelerator.scaler is not None:  # what accelerate wraps it for; it costs a third of a millisecond a step
        optimizer = accelerator.prepare(optimizer)
    batches = cut(task.train, config.batch_size, drop_last=config.drop_last)
    schedule = optim.Schedule(config, config.epochs, len(batches))
    saver = Saver(task, run, accelerator, optimizer, groups, schedule, done, keep_best)
    if resumed is not None:
        saver.restore(resumed)
    else:
        saver.save()  # what will go wrong with the disk goes wrong now
    filters = optim.filters_of(task.network, task.chosen) if config.max_filter_rms else []
    weights = None
    if config.balance == "weights":
        weights = optim.class_weights(task.labels[task.train], task.classes).to(device)

    while done.epoch < config.epochs and not done.finished:
        set_modes(task.network, task.chosen)
        start = time.monotonic()
        totals = Totals(done.totals, device)
        wanted = cut(_order(task, done.epoch), config.batch_size, drop_last=config.drop_last)[done.step :]
        mine = [share(rows, accelerator) for rows in wanted]
        steps = zip(wanted, task.source.batches(mine, done.epoch), strict=True)
        for rows, batch in track(Sized(steps, len(wanted)), f"epoch {done.epoch + 1}/{config.epochs}", stoppable=False):
            images, labels, counts = _on_device(batch, device)
            optim.set_rate(optimizer, schedule.at(done.epoch, done.step))
            _seed(device, config.seed, done.epoch, done.step, accelerator.process_index)
            logits = model(images).float()
            losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
            accelerator.backward(_mean(losses, labels, counts, weights, task.labels[rows], accelerator))
            if config.clip is not None:
                accelerator.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
            if filters and config.max_filter_rms:
                optim.limit_filters(filters, config.max_filter_rms)
            totals.add(losses.detach(), logits.detach(), labels, counts)
            done.lost += [refused for refused in batch.lost if refused not in done.lost]
            done.step += 1
            if device.type == "cpu" or done.step % LOOK_EVERY == 0:
                _guard(totals, done, optimizer)
            task.after_step(done.epoch * len(batches) + done.step, batch.images)
            # Agreed on by all processes, whose clocks and signals differ: 1 to save, 2 to stop as well.
            wish = most(2 if cancelled() else int(time.monotonic() - saver.when > SAVE_EVERY), accelerator)
            if wish:
                _guard(totals, done, optimizer)
                done.totals = on_first(totals.tolist(), accelerator)
                totals = Totals(done.totals, device)
                saver.save(spent=time.monotonic() - start)
                start = time.monotonic()
                if wish == 2:
                    raise Cancelled("training was interrupted")
        done.totals = totals.tolist()
        _guard(totals, done, optimizer)
        rate = max(group["initial_lr"] for group in optimizer.param_groups) * schedule.at(done.epoch, done.step - 1)
        row = _row(done, all_sum(done.totals, accelerator), rate, validate(task, accelerator))
        done.epoch, done.step, done.totals = done.epoch + 1, 0, [0.0, 0.0, 0.0]
        done.seconds += time.monotonic() - start
        _judge(done, row, schedule, config)
        task.after_epoch(done.epoch)
        saver.epoch(row)
        told(row, done)
        if most(int(cancelled()), accelerator) and not done.finished:
            saver.save()
            raise Cancelled("training was interrupted")
    saver.finish()
    return done


@torch.no_grad()
def outputs(
    forward: nn.Module,
    network: nn.Module,
    source: Source,
    rows: np.ndarray,
    size: int,
    accelerator: Accelerator,
    label: str = "",
) -> tuple[np.ndarray, Tensor, list[Refused]]:
    """Logits of photos in evaluation mode: their rows, the logits on the CPU, and what was lost.

    Several processes take whole batches in turn, so that every photo is in the batch that one process would have put it
    in: the logits are the same to the last bit, and no photo is counted twice. ``label``: what progress is told of it.
    """
    network.eval()
    parts = cut(rows, size)
    own = parts[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[np.ndarray, Tensor, tuple[Refused, ...]]] = []
    for batch in track(Sized(source.batches(own), len(own)), label, stoppable=False) if label else source.batches(own):
        if len(batch.rows):
            logits = forward(batch.images.to(accelerator.device, non_blocking=True)).float().cpu()
            found.append((batch.rows, logits, batch.lost))
        else:
            found.append((batch.rows, torch.zeros(0, 1), batch.lost))
    every = gathered(found, accelerator)
    inorder = [every[i % len(every)][i // len(every)] for i in range(len(parts))]
    lost = [refused for *_, some in inorder for refused in some]
    kept = [(r, logits) for r, logits, _ in inorder if len(r)]
    if not kept:
        return np.zeros(0, np.int64), torch.zeros(0, 1), lost
    return np.concatenate([r for r, _ in kept]), torch.cat([logits for _, logits in kept]), lost


def validate(task: Task, accelerator: Accelerator) -> tuple[float, float] | None:
    """Mean loss and accuracy on the validation photos; None where there are none."""
    if not len(task.val):
        return None
    rows, logits, _ = outputs(task.forward, task.network, task.plain, task.val, task.config.batch_size, accelerator)
    if not len(rows):
        return None
    labels = torch.from_numpy(task.labels[rows].astype(np.int64))
    loss = F.cross_entropy(logits.double(), labels).item()
    return loss, (logits.argmax(1) == labels).double().mean().item()


def _order(task: Task, epoch: int) -> np.ndarray:
    if task.config.balance == "sampling":
        return balanced(task.config.seed, epoch, task.train, task.labels[task.train])
    return order(task.config.seed, epoch, task.train)


def _on_device(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, bool]:
    """Images, labels, and whether they count: a process without a share still takes part, with one that does not."""
    images, labels = batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
    if len(labels):
        return images, labels, True
    return images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1), False


def _mean(
    losses: Tensor,
    labels: Tensor,
    counts: bool,
    weights: Tensor | None,
    whole: np.ndarray,
    accelerator: Accelerator,
) -> Tensor:
    """The mean loss of the whole batch, weighted by class. This process has a share of it: DDP averages processes."""
    if accelerator.num_processes == 1 and counts:
        return losses.mean() if weights is None else (losses * weights[labels]).sum() / weights[labels].sum()
    parts = torch.full_like(losses, float(counts)) if weights is None else weights[labels] * counts
    every = torch.from_numpy(whole).long().to(losses.device)
    total = float(len(every)) if weights is None else weights[every].sum()
    return (losses * parts).sum() * accelerator.num_processes / total


def _seed(device: torch.device, *parts: int) -> None:
    """Seed what dropout draws from. torch.manual_seed would note a traceback for each kind of device there is not."""
    state = 0
    for part in parts:  # the finaliser of splitmix64 (Steele, Lea & Flood 2014)
        state = (state + part + 0x9E3779B97F4A7C15) % 2**64
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        state ^= state >> 31
    torch.default_generator.manual_seed(state)
    if device.type == "cuda":
        torch.cuda.manual_seed(state)
    elif device.type == "mps":
        torch.mps.manual_seed(state)


def _guard(totals: Totals, done: Progress, optimizer: torch.optim.Optimizer) -> None:
    """Training that came to NaN or infinity ends here: nothing that follows could be used."""
    if not totals.finite():
        rate = max(group["lr"] for group in optimizer.param_groups)
        raise ConvscopeError(
            f"the loss is no longer finite in epoch {done.epoch + 1}, step {done.step} (learning rate {rate:.3g}): "
            "lower --lr, or limit the gradient with --clip 1; the last checkpoint is kept"
        )


def _row(done: Progress, totals: Sequence[float], rate: float, val: tuple[float, float] | None) -> dict[str, Any]:
    loss, right, count = totals
    if val and not math.isfinite(val[0]):
        raise ConvscopeError(
            f"the validation loss is no longer finite after epoch {done.epoch + 1} (learning rate {rate:.3g}): lower "
            "--lr, or limit the gradient with --clip 1; the last checkpoint is kept"
        )
    if not count:
        raise ConvscopeError("none of the training photos can be read any more: are they still where they were?")
    return {
        "epoch": done.epoch + 1,
        "train_loss": loss / count,
        "train_accuracy": right / count,
        "val_loss": val[0] if val else None,
        "val_accuracy": val[1] if val else None,
        "lr": rate,
    }


def _judge(done: Progress, row: dict[str, Any], schedule: optim.Schedule, config: Training) -> None:
    """Is this the best epoch so far, does the rate go down, is it time to stop?"""
    watched = "train" if row["val_loss"] is None else "val"
    loss, accuracy = row[f"{watched}_loss"], row[f"{watched}_accuracy"]
    if not done.best or (accuracy, -loss) > (done.best["accuracy"], -done.best["loss"]):
        done.best = {"epoch": done.epoch, "accuracy": accuracy, "loss": loss, "of": watched}
    done.stale = 0 if loss < done.lowest else done.stale + 1
    done.lowest = min(done.lowest, loss)
    schedule.after_epoch(loss)
    done.finished = done.epoch == config.epochs or (config.patience is not None and done.stale >= config.patience)


@dataclass
class Sized:
    """An iterator whose length is known: what progress is told of."""

    items: Iterator[Any]
    count: int

    def __iter__(self) -> Iterator[Any]:
        return self.items

    def __len__(self) -> int:
        return self.count


@dataclass
class Saver:
    """Writes checkpoints, and metrics beside them. The best weights wait in memory until it is time to write."""

    task: Task
    run: RunFolder
    accelerator: Accelerator
    optimizer: Any
    groups: list[list[str]]
    schedule: optim.Schedule
    done: Progress
    keep_best: Callable[[Checkpoint], None]
    when: float = field(default_factory=time.monotonic)
    best: Checkpoint | None = None  # not written yet

    def save(self, spent: float = 0.0) -> None:
        self.done.seconds += spent
        if self.accelerator.is_main_process:
            if self.best is not None:
                self.run.save(BEST, self.best)
                self.keep_best(self.best)
                self.best = None
            self.run.save(LAST, self._now())
        self.accelerator.wait_for_everyone()
        self.when = time.monotonic()

    def epoch(self, row: dict[str, Any]) -> None:
        """After an epoch: its row, and a checkpoint where the last one is a while ago."""
        if self.accelerator.is_main_process:
            self.run.append(row)
            if self.done.best["epoch"] == self.done.epoch:
                self.best = self._now()
        if most(int(self.done.finished or time.monotonic() - self.when > SAVE_EPOCH), self.accelerator):
            self.save()

    def finish(self) -> None:
        """Give the network the weights of its best epoch."""
        best = self.best or self.run.load(BEST)
        if best is not None:
            fill(self.task.network, best.network)
        self.task.network.eval()

    def _now(self) -> Checkpoint:
        moments, plain = optim.pack(self.optimizer, self.groups)
        done = {**vars(self.done), "lost": [list(refused) for refused in self.done.lost]}
        scaler = self.accelerator.scaler
        state = {
            **done,
            "optimizer": plain,
            "schedule": self.schedule.state(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        return Checkpoint(tensors(self.task.network.state_dict()), moments, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        state = dict(checkpoint.state)
        fill(self.task.network, checkpoint.network)
        optim.unpack(self.optimizer, self.groups, checkpoint.optimizer, state.pop("optimizer"))
        self.schedule.restore(state.pop("schedule"))
        scaler = state.pop("scaler")
        if scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        state["lost"] = [Refused(*refused) for refused in state["lost"]]
        vars(self.done).update(state)
        more = self.done.epoch < (self.task.config.epochs or 0)
        if more and self.done.stale < (self.task.config.patience or math.inf):
            self.done.finished = False  # there are more epochs to do than there were
        if self.accelerator.is_main_process:
            self.run.cut_back(self.done.epoch)
        else:
            self.done.totals = [0.0, 0.0, 0.0]  # the first process has those of all
