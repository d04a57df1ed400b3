"""Several processes, started by torchrun, as one: who does what, and how they agree."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import Tensor, nn

from convscope.errors import ConvscopeError, UsageError

T = TypeVar("T")

RENDEZVOUS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what torchrun sets, by which processes meet
TIMEOUT = timedelta(days=2)  # the first process may scan a million photos while the others wait
TOGETHER = "start all of them by torchrun, or unset WORLD_SIZE"


def leads() -> bool:
    """Whether this is the process that speaks for all, as far as the environment says."""
    return int(os.environ.get("RANK") or 0) == 0


@contextmanager
def accelerated(device: torch.device, precision: str) -> Iterator[Accelerator]:
    """accelerate's view of the devices and processes there are; the environment and its memory are left
    as they were."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    before = {key: os.environ.get(key) for key in os.environ}
    ours, accumulation = not PartialState._shared_state, dict(GradientState._shared_state)
    wanted = int(os.environ.get("WORLD_SIZE") or 1)
    if missing := [name for name in RENDEZVOUS if wanted > 1 and name not in os.environ]:
        raise UsageError(f"WORLD_SIZE is {wanted} but {missing[0]} is not set: {TOGETHER}")
    if wanted > 1 and device.index is not None:
        raise UsageError(f"of {wanted} processes each has a device of its own: give --device {device.type}")
    # torch's current GPU is what accelerate takes.
    current = torch.cuda.device(device) if device.type == "cuda" and device.index is not None else nullcontext()
    mode, patient = _mode(precision, device), InitProcessGroupKwargs(timeout=TIMEOUT)
    try:
        with current:
            accelerator = _accelerator(device, mode, patient)
            if accelerator.num_processes != wanted:
                at_work = f"{accelerator.num_processes} process is at work"
                raise UsageError(f"WORLD_SIZE is {wanted} but {at_work}: {TOGETHER}")
            yield accelerator
    finally:
        if ours:
            if dist.is_available() and dist.is_initialized():
                dist.destroy_process_group()
            for state in (AcceleratorState, GradientState, PartialState):
                state._shared_state.clear()
        else:
            GradientState._shared_state.clear()
            GradientState._shared_state.update(accumulation)
        for key in os.environ.keys() - before.keys():
            del os.environ[key]
        os.environ.update({key: value for key, value in before.items() if value is not None})


@contextmanager
def on_own_device(module: nn.Module, device: torch.device) -> Iterator[Accelerator]:
    """``accelerated`` in full precision, with a module that is on ``device`` on the one that this process has: of
    several each has its own. Afterwards it is where it was."""
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1
    with accelerated(torch.device(device.type) if several else device, "fp32") as accelerator:
        try:
            module.to(accelerator.device)
            yield accelerator
        finally:
            module.to(device)


def _accelerator(device: torch.device, mode: str, patient: InitProcessGroupKwargs) -> Accelerator:
    """One that is where it was asked for; there may be one of the user's own in this process already."""
    try:
        found = Accelerator(
            cpu=device.type == "cpu", mixed_precision=mode, kwargs_handlers=[patient], gradient_accumulation_steps=1
        )
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise UsageError(
            f"accelerate is at work in this process with other settings ({first}): give the same precision and device"
        ) from None
    if found.device.type != device.type:
        raise UsageError(
            f"accelerate is at work in this process on {found.device.type}, not {device.type}: give that device"
        )
    return found


def _mode(precision: str, device: torch.device) -> str:
    if precision == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    if precision == "fp16" and device.type != "cuda":
        raise UsageError(f"fp16 needs a CUDA device, not {device.type}: use fp32")
    return "no" if precision == "fp32" else precision


@contextmanager
def led(accelerator: Accelerator) -> Iterator[None]:
    """The first process does it, then the others do. Its errors are those of all: none is left waiting for it."""
    if accelerator.num_processes == 1:
        yield
        return
    if not accelerator.is_main_process:
        failed = from_first(None, accelerator)
        if failed is not None:
            raise failed[0](failed[1])
        yield
        return
    try:
        yield
    except ConvscopeError as error:
        from_first((type(error), str(error)), accelerator)
        raise
    from_first(None, accelerator)


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


def total(value: Tensor, accelerator: Accelerator) -> Tensor:
    """The sum over the processes, which no gradient goes through."""
    if accelerator.num_processes > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
    return value


def prepared(module: nn.Module, accelerator: Accelerator, unused: Callable[[], bool]) -> nn.Module:
    """The module as several processes train it. ``unused``: whether some of it has no part in what is learned."""
    if accelerator.num_processes > 1:
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=unused())
    made: nn.Module = accelerator.prepare(module)
    return made


def same_buffers(network: nn.Module, accelerator: Accelerator) -> None:
    """Let all have the first process's buffers: each has seen other photos, so BatchNorm's statistics differ."""
    if accelerator.num_processes > 1:
        for buffer in network.buffers():
            dist.broadcast(buffer, 0)


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
