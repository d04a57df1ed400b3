"""Paired timing: candidates run in turn, again and again, so that a busy machine slows all of them alike.

With one thread (``OMP_NUM_THREADS=1``) processor time is taken, which other people's work hardly stretches; else wall
time, which is what a user waits.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

Run = Callable[[], object]


def clock(device: str = "cpu") -> Callable[[], float]:
    """The clock that is read: processor time for one thread on a CPU, else wall time."""
    return time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


def timed(run: Run, *, device: str = "cpu", wall: bool = False) -> float:
    """Seconds of one run, the accelerator's work included. ``wall``: where other processes do a part of the work."""
    now = time.perf_counter if wall else clock(device)
    _wait_for(device)
    start = now()
    run()
    _wait_for(device)
    return now() - start


def interleaved(
    runs: Mapping[str, Run],
    *,
    seconds: float,
    least: int = 3,
    most: int = 40,
    device: str = "cpu",
    wall: bool = False,
) -> dict[str, list[float]]:
    """Times of ``least`` to ``most`` rounds A B C, C B A, A B C ... in about ``seconds``, after a warm-up round.

    The order turns round, so that no candidate always runs after the same one. Garbage is collected between rounds,
    not within them.
    """
    for run in runs.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    order, start = list(runs), time.perf_counter()
    for round_ in range(most):
        if round_ >= least and time.perf_counter() - start > seconds:
            break
        gc.collect()
        gc.disable()
        try:
            for name in order:
                times[name].append(timed(runs[name], device=device, wall=wall))
        finally:
            gc.enable()
        order.reverse()
    return times


def ratio(times: Mapping[str, list[float]], name: str, to: str) -> float:
    """The median over rounds of what ``name`` took over what ``to`` took in the same round."""
    return median(a / b for a, b in zip(times[name], times[to], strict=True))


def middle(times: Mapping[str, list[float]], name: str) -> float:
    """Median seconds, for orientation: absolute times drift, ratios do not."""
    return median(times[name])


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()
