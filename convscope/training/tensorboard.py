"""TensorBoard's files beside our own, for those who look there."""

from __future__ import annotations

from dataclasses import replace

from convscope.errors import UsageError
from convscope.training.job import Epoch, Told


def logged(told: Told) -> Told:
    """Also write every epoch's figures into the folder ``tensorboard`` of the run."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("TensorBoard is not installed: pip install 'convscope[tensorboard]'") from None

    def epoch(found: Epoch) -> None:
        told.epoch(found)
        number = found.row["epoch"]
        # Closed each time: what a killed run wrote is whole, and a run that goes on purges what it does again.
        with SummaryWriter(found.folder / "tensorboard", purge_step=number) as writer:
            for name, value in found.row.items():
                if value is not None and name != "epoch":
                    writer.add_scalar(name, value, number)

    return replace(told, epoch=epoch)
