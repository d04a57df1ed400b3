"""How far a training is, and the checkpoints that hold all of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

from accelerate import Accelerator
from torch import nn

from convscope.data.listing import Refused
from convscope.parallel import most
from convscope.training import optim
from convscope.training.config import Training
from convscope.training.folder import BEST, LAST, Checkpoint, RunFolder, fill, tensors

SAVE_EVERY = 60.0  # seconds between checkpoints within an epoch: what a kill can cost
SAVE_EPOCH = 5.0  # and at the end of one: epochs of cached features take milliseconds


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


@dataclass
class Saver:
    """Writes checkpoints, and metrics beside them. The best weights wait in memory until it is time to write."""

    network: nn.Module
    config: Training
    run: RunFolder
    accelerator: Accelerator
    optimizer: Any
    groups: list[list[str]]
    schedule: optim.Schedule
    done: Progress
    when: float = field(default_factory=time.monotonic)
    best: Checkpoint | None = None  # not written yet

    def save(self, spent: float = 0.0) -> None:
        self.done.seconds += spent
        if self.accelerator.is_main_process:
            if self.best is not None:
                self.run.save(BEST, self.best)
                self.run.publish()
                self.best = None
            self.run.save(LAST, self._now())
        self.accelerator.wait_for_everyone()
        self.when = time.monotonic()

    def epoch(self, row: dict[str, Any]) -> None:
        """After an epoch: its row, and a checkpoint where the last one is a while ago."""
        if self.accelerator.is_main_process:
            self.run.append(row)
            if self.config.keep and self.done.epoch % self.config.keep == 0:
                self.run.keep(self.done.epoch, tensors(self.network.state_dict()))
            if self.done.best["epoch"] == self.done.epoch:
                self.best = replace(self._now(), optimizer={})  # it is used, not gone on from
        if most(int(self.done.finished or time.monotonic() - self.when > SAVE_EPOCH), self.accelerator):
            self.save()

    def finish(self) -> None:
        """Give the network the weights of its best epoch."""
        best = self.best or self.run.load(BEST)
        if best is not None:
            fill(self.network, best.network)
            if self.accelerator.is_main_process and self.best is None:
                self.run.publish()  # a kill may have come between the two
        self.network.eval()

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
        return Checkpoint(tensors(self.network.state_dict()), moments, state)

    def restore(self, checkpoint: Checkpoint) -> None:
        state = dict(checkpoint.state)
        fill(self.network, checkpoint.network)
        optim.unpack(self.optimizer, self.groups, checkpoint.optimizer, state.pop("optimizer"))
        self.schedule.restore(state.pop("schedule"))
        scaler = state.pop("scaler")
        if scaler is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        state["lost"] = [Refused(*refused) for refused in state["lost"]]
        vars(self.done).update(state)
        more = self.done.epoch < (self.config.epochs or 0)
        if more and self.done.stale < (self.config.patience or math.inf):
            self.done.finished = False  # there are more epochs to do than there were
        if self.accelerator.is_main_process:
            self.run.settle_best(self.done.best.get("epoch"))
            self.run.cut_back(self.done.epoch)
        else:
            self.done.totals = [0.0, 0.0, 0.0]  # the first process has those of all
