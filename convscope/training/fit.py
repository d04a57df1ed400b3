"""The training loop, on one page: epochs of steps, a look at the validation photos, a checkpoint now and then."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from convscope.data.loading import Batch, balanced, cut, order
from convscope.errors import Cancelled, ConvscopeError, UsageError
from convscope.parallel import all_sum, gathered, most, on_first, prepared, same_buffers, share, total
from convscope.progress import cancelled, track
from convscope.training import optim, saver
from convscope.training.chance import seed_dropout, seeds_of
from convscope.training.config import Training
from convscope.training.folder import Checkpoint, RunFolder
from convscope.training.freeze import freeze_others, set_modes
from convscope.training.outputs import Source, each_batch
from convscope.training.saver import Progress, Saver
from convscope.training.totals import Totals

LOOK_EVERY = 25  # steps between looks at the loss on a GPU, which has to be waited for


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
    after_step: Callable[[int, Batch], None] = lambda step, batch: None
    after_epoch: Callable[[int], None] = lambda epoch: None


def fit(
    task: Task,
    run: RunFolder,
    accelerator: Accelerator,
    *,
    resumed: Checkpoint | None = None,
    begun: Callable[[], None] = lambda: None,
    told: Callable[[dict[str, Any], Progress], None] = lambda row, done: None,
) -> Progress:
    """Train until the last epoch, or until ``patience`` is lost; the network then has the weights of the best epoch.

    Order, augmentation and dropout are functions of the seed, the epoch and the step, so a training that goes on from
    ``resumed`` does what the uninterrupted one would have done. Cancelled, it first writes a checkpoint. ``begun`` is
    called when there is one; ``told`` hears of every epoch.
    """
    config, device = task.config, accelerator.device
    assert config.epochs is not None
    freeze_others(task.network, task.chosen)
    optimizer, groups = optim.make_optimizer(task.network, task.chosen, config)
    done = Progress()
    model = prepared(task.forward, accelerator, lambda: _unused(task, device))
    if accelerator.scaler is not None:  # what accelerate wraps it for; it costs a third of a millisecond a step
        optimizer = accelerator.prepare(optimizer)
    steps = len(parts(task.train, config, accelerator))
    schedule = optim.Schedule(config, config.epochs, steps)
    kept = Saver(task.network, config, run, accelerator, optimizer, groups, schedule, done)
    if resumed is not None:
        kept.restore(resumed)
    else:
        kept.save()  # what will go wrong with the disk goes wrong now
    begun()
    filters = optim.filters_of(task.network, task.chosen) if config.max_filter_rms else []
    weights = None
    if config.balance == "weights":
        weights = optim.class_weights(task.labels[task.train], task.classes).to(device)

    while done.epoch < config.epochs and not done.finished:
        set_modes(task.network, task.chosen)
        start = time.monotonic()
        totals = Totals(done.totals, device)
        wanted = parts(_order(task, done.epoch), config, accelerator)[done.step :]
        seeds = seeds_of(config.seed, done.epoch, accelerator.process_index, steps)
        mine = task.source.batches([share(rows, accelerator) for rows in wanted], done.epoch)
        counted = track(wanted, f"epoch {done.epoch + 1}/{config.epochs}", weigh=len, stoppable=False)
        for _, batch in zip(counted, mine, strict=True):
            images, labels, counts = _on_device(batch, device)
            optim.set_rate(optimizer, schedule.at(done.epoch, done.step))
            seed_dropout(device, int(seeds[done.step]))
            logits = _logits(model, images)
            losses = F.cross_entropy(logits, labels, reduction="none", label_smoothing=config.label_smoothing)
            accelerator.backward(_mean(losses, labels, counts, weights, accelerator))
            if config.clip is not None:
                accelerator.clip_grad_norm_(model.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
            if filters and config.max_filter_rms:
                optim.limit_filters(filters, config.max_filter_rms)
            totals.add(losses.detach(), logits.detach(), labels, counts)
            if batch.lost:
                done.lost = list(dict.fromkeys([*done.lost, *batch.lost]))
            done.step += 1
            look = device.type == "cpu" or done.step % LOOK_EVERY == 0
            if look:
                _guard(totals, done, optimizer, accelerator)
            task.after_step(done.epoch * steps + done.step, batch)
            wish = 2 if cancelled() else int(time.monotonic() - kept.when > saver.SAVE_EVERY)  # to stop, to save
            if accelerator.num_processes > 1:  # whose clocks and signals differ, agree on it
                wish = most(wish, accelerator) if look else 0
            if wish:
                if not look:
                    _guard(totals, done, optimizer, accelerator)
                done.totals = on_first(totals.tolist(), accelerator)
                totals = Totals(done.totals, device)
                kept.save(spent=time.monotonic() - start)
                start = time.monotonic()
                if wish == 2:
                    raise Cancelled("training was interrupted")
        done.totals = totals.tolist()
        _guard(totals, done, optimizer, accelerator)
        rate = max(group["initial_lr"] for group in optimizer.param_groups) * schedule.at(done.epoch, done.step - 1)
        same_buffers(task.network, accelerator)
        try:
            val = validate(task, accelerator)
        except Cancelled:
            done.totals = on_first(done.totals, accelerator)
            kept.save(spent=time.monotonic() - start)  # which goes on with this very look
            raise
        row = _row(done, all_sum(done.totals, accelerator), rate, val)
        done.epoch, done.step, done.totals = done.epoch + 1, 0, [0.0, 0.0, 0.0]
        done.lost = list(dict.fromkeys(lost for own in gathered(done.lost, accelerator) for lost in own))
        done.seconds += time.monotonic() - start
        _judge(done, row, schedule, config)
        task.after_epoch(done.epoch)
        kept.epoch(row)
        told(row, done)
        if most(int(cancelled()), accelerator) and not done.finished:
            kept.save()
            raise Cancelled("training was interrupted")
    kept.finish()
    return done


def validate(task: Task, accelerator: Accelerator) -> tuple[float, float] | None:
    """Mean loss and accuracy on the validation photos; None where there are none."""
    if not len(task.val):
        return None

    def sums(rows: np.ndarray, logits: Tensor) -> tuple[float, int, int]:
        labels = torch.from_numpy(task.labels[rows].astype(np.int64))
        loss = F.cross_entropy(logits.double(), labels, reduction="sum").item()
        return loss, int((logits.argmax(1) == labels).sum()), len(rows)

    size = task.config.batch_size
    found, _ = each_batch(task.forward, task.network, task.plain, task.val, size, accelerator, sums)
    loss, right, count = (sum(values) for values in zip(*found, strict=True)) if found else (0.0, 0, 0)
    return (loss / count, right / count) if count else None


def parts(rows: np.ndarray, config: Training, accelerator: Accelerator) -> list[np.ndarray]:
    """An epoch's batches. Each process has a share of at least two photos, which BatchNorm needs, also of the last."""
    return cut(rows, config.batch_size, drop_last=config.drop_last, least=2 * accelerator.num_processes)


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


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    try:
        return model(images).float()
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UsageError(
            f"BatchNorm on maps of 1x1 has nothing to average in a batch of {len(images)}: give a --batch-size of at "
            "least 2 for each process, or a larger --size"
        ) from None


def _mean(losses: Tensor, labels: Tensor, counts: bool, weights: Tensor | None, accelerator: Accelerator) -> Tensor:
    """The mean loss of the whole batch, weighted by class. This process has a share of it: DDP averages processes."""
    if accelerator.num_processes == 1 and counts:
        return losses.mean() if weights is None else (losses * weights[labels]).sum() / weights[labels].sum()
    parts = torch.full_like(losses, float(counts)) if weights is None else weights[labels] * counts
    every = total(parts.sum(), accelerator)
    return (losses * parts).sum() * accelerator.num_processes / every.clamp(min=1e-12)


def _unused(task: Task, device: torch.device) -> bool:
    """Whether some of what learns has no part in the loss, such as the auxiliary heads of torchvision's googlenet."""
    batch = next(iter(task.plain.batches([task.train[:2]])))
    images, *_ = _on_device(batch, device)
    task.network.eval()
    with torch.enable_grad():
        task.forward(images).float().sum().backward()
    learns = [parameter for parameter in task.network.parameters() if parameter.requires_grad]
    unused = any(parameter.grad is None for parameter in learns)
    for parameter in learns:
        parameter.grad = None
    return unused


def _guard(totals: Totals, done: Progress, optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> None:
    """Training that came to NaN or infinity, in any process, ends here: nothing that follows could be used."""
    if most(int(not totals.finite()), accelerator):
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
