"""TensorBoard's files beside our own, for those who look there."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

from convscope.errors import UsageError
from convscope.training.job import Epoch, Told


def logged(told: Told) -> Told:
    """Also write every epoch's figures into the folder ``tensorboard`` of the run: one file, and one for each time that
    it goes on.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("TensorBoard is not installed: pip install 'convscope[tensorboard]'") from None
    writers: list[Any] = []  # none until there is an epoch to write

    def epoch(found: Epoch) -> None:
        told.epoch(found)
        number = found.row["epoch"]
        if not writers:  # a run that goes on purges what it does again
            writers.append(SummaryWriter(found.folder / "tensorboard", purge_step=number))
        for name, value in found.row.items():
            if value is not None and name != "epoch":
                writers[0].add_scalar(name, value, number)
        writers[0].flush()  # so that what a killed run wrote is whole
        if found.done.finished:
            _close(writers)

    weakref.finalize(epoch, _close, writers)  # of a run that ends before its last epoch
    return replace(told, epoch=epoch)


def _close(writers: list[Any]) -> None:
    while writers:
        writers.pop().close()
