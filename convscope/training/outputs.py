"""What a network gives for photos, in evaluation mode, by however many processes there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from convscope.data.listing import Refused
from convscope.data.loading import Batch, cut
from convscope.errors import Cancelled
from convscope.parallel import gathered
from convscope.progress import cancelled, track

T = TypeVar("T")


class Source(Protocol):
    """Where batches come from."""

    def batches(self, wanted: Sequence[np.ndarray], epoch: int = 0) -> Iterator[Batch]: ...


@torch.no_grad()
def each_batch(
    forward: nn.Module,
    network: nn.Module,
    source: Source,
    rows: np.ndarray,
    size: int,
    accelerator: Accelerator,
    made: Callable[[np.ndarray, Tensor], T],
    label: str = "",
) -> tuple[list[T], list[Refused]]:
    """What ``made`` makes of each batch's rows and its logits, on the CPU; in order, and what was lost.

    Several processes take whole batches in turn, so that every photo is in the batch that one process would have put it
    in: the logits are the same to the last bit, and no photo is counted twice. A batch of which nothing could be read
    is not there. ``label``: what progress is told of it. A process that is alone can be cancelled.
    """
    network.eval()
    parts = cut(rows, size)
    own = parts[accelerator.process_index :: accelerator.num_processes]
    found: list[tuple[T | None, tuple[Refused, ...]]] = []
    alone = accelerator.num_processes == 1  # several would have to agree
    told = track(own, label, weigh=len, stoppable=False) if label else own
    for _, batch in zip(told, source.batches(own), strict=True):
        if alone and cancelled():
            raise Cancelled("interrupted while photos were being looked at")
        if len(batch.rows):
            logits = forward(batch.images.to(accelerator.device, non_blocking=True)).float().cpu()
            found.append((made(batch.rows, logits), batch.lost))
        else:
            found.append((None, batch.lost))
    every = gathered(found, accelerator)
    inorder = [every[i % len(every)][i // len(every)] for i in range(len(parts))]
    return [one for one, _ in inorder if one is not None], [refused for _, lost in inorder for refused in lost]


def outputs(
    forward: nn.Module,
    network: nn.Module,
    source: Source,
    rows: np.ndarray,
    size: int,
    accelerator: Accelerator,
    label: str = "",
) -> tuple[np.ndarray, Tensor, list[Refused]]:
    """Logits of photos: their rows, the logits on the CPU, and what was lost."""
    kept, lost = each_batch(forward, network, source, rows, size, accelerator, lambda rows, found: (rows, found), label)
    if not kept:
        return np.zeros(0, np.int64), torch.zeros(0, 1), lost
    return np.concatenate([rows for rows, _ in kept]), torch.cat([logits for _, logits in kept]), lost
