"""Several processes, started by torchrun, as one: who does what, and how they agree."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator

from convscope.errors import UsageError

T = TypeVar("T")

RENDEZVOUS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets, by which processes meet
TOGETHER = "start all of them by torchrun, or unset WORLD_SIZE"


@contextmanager
def accelerated(device: torch.device, precision: str) -> Iterator[Accelerator]:
    """accelerate's view of the devices and processes there are; the environment and its memory are left
    as they were."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    before = {key: os.environ.get(key) for key in os.environ}
    ours = not PartialState._shared_state
    wanted = int(os.environ.get("WORLD_SIZE") or 1)
    if missing := [name for name in RENDEZVOUS if wanted > 1 and name not in os.environ]:
        raise UsageError(f"WORLD_SIZE is {wanted} but {missing[0]} is not set: {TOGETHER}")
    try:
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=_mode(precision, device))
        if accelerator.num_processes != wanted:
            raise UsageError(f"WORLD_SIZE is {wanted} but {accelerator.num_processes} process is at work: {TOGETHER}")
        yield accelerator
    finally:
        if ours:
            if dist.is_available() and dist.is_initialized():
                dist.destroy_process_group()
            for state in (AcceleratorState, GradientState, PartialState):
                state._shared_state.clear()
        for key in os.environ.keys() - before.keys():
            del os.environ[key]
        os.environ.update({key: value for key, value in before.items() if value is not None})


def _mode(precision: str, device: torch.device) -> str:
    if precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(f"fp16 needs a CUDA device, not {device.type}: use fp32")
    return "no" if precision == "fp32" else precision


def share(rows: np.ndarray, accelerator: Accelerator) -> np.ndarray:
    """This process's part of a batch; the parts of all make up the batch, none is padded."""
    return rows[accelerator.process_index :: accelerator.num_processes]


def most(value: int, accelerator: Accelerator) -> int:
    """The largest of what the processes have."""
    if accelerator.num_processes == 1:
        return value
    found = torch.tensor([value], device=accelerator.device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found.item())


def all_sum(values: Sequence[float], accelerator: Accelerator) -> list[float]:
    if accelerator.num_processes == 1:
        return list(values)
    found = torch.tensor(values, dtype=torch.float64, device=accelerator.device)
    dist.all_reduce(found)
    return found.tolist()


def on_first(values: Sequence[float], accelerator: Accelerator) -> list[float]:
    """The sums of all processes, which the first keeps from now on; the others begin at zero."""
    total = all_sum(values, accelerator)
    return total if accelerator.is_main_process else [0.0] * len(total)


def gathered(value: T, accelerator: Accelerator) -> list[T]:
    """What each of the processes has, in their order."""
    if accelerator.num_processes == 1:
        return [value]
    found: list[Any] = [None] * accelerator.num_processes
    dist.all_gather_object(found, value)
    return found


def from_first(value: T, accelerator: Accelerator) -> T:
    """What the first process has."""
    if accelerator.num_processes == 1:
        return value
    found: list[Any] = [value]
    dist.broadcast_object_list(found, src=0)
    return found[0]
