"""How many windows a second does occlusion try, in images a second of a plain forward pass at its best batch size?

Incremental inference passes 1. Once with glibc's malloc as it is and once as `convscope --allocator tuned` sets it.
"""

from __future__ import annotations

import sys

import torch
from _memory import again
from _nets import classifier, devices, network, normalised, pixels
from _table import Table, options
from _timing import Run, interleaved, middle, ratio
from torch import Tensor, nn

from convscope.instrument.target import Target
from convscope.methods.occlusion import Occlusion, steps

CLASS = 281
DEMAND = 0.9
SIDE, WINDOW = 224, 32
STRIDES = {"efficientnet_lite0": 8, "vgg16": 22}  # 625 windows, which is the default, and 100
BATCHES = (1, 2, 4, 8, 16, 32)
CAPTUM_STRIDE = 32  # 49 windows: it does the same work for each
CAPTUM_AT_ONCE = (1, 16)


def plain(net: nn.Module, ready: Tensor, batch: int, count: int) -> Run:
    """``count`` images forward, ``batch`` at a time."""

    def run() -> None:
        with torch.no_grad():
            for _ in range(0, count, batch):
                net(ready[:batch])

    return run


def best_batch(net: nn.Module, ready: Tensor, device: str) -> int:
    """The batch size at which a plain forward pass does the most images a second."""
    runs = {str(b): plain(net, ready, b, max(b, 8)) for b in BATCHES}
    times = interleaved(runs, seconds=10, least=1, most=9, device=device)
    return min(BATCHES, key=lambda b: middle(times, str(b)) / max(b, 8))


def captum(net: nn.Module, ready: Tensor, at_once: int) -> Run:
    from captum.attr import Occlusion as CaptumOcclusion

    sizes = {"sliding_window_shapes": (3, WINDOW, WINDOW), "strides": (3, CAPTUM_STRIDE, CAPTUM_STRIDE)}
    return lambda: CaptumOcclusion(net).attribute(
        ready[:1], target=CLASS, baselines=0, perturbations_per_eval=at_once, **sizes
    )


def measure(table: Table, name: str, device: str, quick: bool, allocator: str) -> None:
    net = network(name, device).requires_grad_(False)
    ready = normalised(pixels(max(BATCHES), device))
    image, model, target = pixels(1, device), classifier(net), Target(index=(CLASS,))
    batch = best_batch(net, ready, device)
    method = Occlusion(size=WINDOW, stride=WINDOW if quick else STRIDES[name])
    images = max(32, batch)
    tried = {
        "convscope occlusion": len(steps(SIDE, WINDOW, method.stride)) ** 2,
        **{f"captum, {k} at once": len(steps(SIDE, WINDOW, CAPTUM_STRIDE)) ** 2 for k in CAPTUM_AT_ONCE},
    }
    runs: dict[str, Run] = {
        "plain": plain(net, ready, batch, images),
        "convscope occlusion": lambda: method.run(model, image, target),
        **{f"captum, {k} at once": captum(net, ready, k) for k in CAPTUM_AT_ONCE},
    }
    times = interleaved(runs, seconds=10 if quick else 40, least=1 if quick else 3, most=7, device=device)
    case = f"{name} {device}, malloc {allocator}"
    for who, windows in tried.items():
        share = ratio(times, "plain", who) * windows / images
        if who.startswith("captum"):
            table.note(f"{case}: {who} / plain", share)
        else:
            table.at_least(f"{case}: {windows} windows / plain", share, DEMAND)
    table.note(f"{case}: plain forward, batch {batch}", images / middle(times, "plain"), "img/s")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--allocator", choices=("both", "default", "tuned"), default="both", help="glibc's malloc")
    parser.add_argument("--networks", nargs="+", choices=tuple(STRIDES), default=list(STRIDES))
    parser.add_argument("--inside", action="store_true", help="the process has the allocator already")
    chosen = parser.parse_args()
    if not chosen.inside:
        sys.exit(max(in_new_process(chosen.allocator, chosen.networks, chosen.quick)))
    table = Table(f"Occlusion: windows a second over plain images a second, malloc {chosen.allocator}")
    for device in devices():
        for name in chosen.networks:
            measure(table, name, device, chosen.quick, chosen.allocator)
    table.finish()


def in_new_process(allocator: str, networks: list[str], quick: bool) -> list[int]:
    """Exit codes of this script run with each allocator asked for; glibc is told before a process starts."""
    codes = []
    for one in ("default", "tuned") if allocator == "both" else (allocator,):
        done = again(
            "--inside", "--allocator", one, "--networks", *networks, *(["--quick"] * quick), tuned=one == "tuned"
        )
        print(done.stdout, end="", flush=True)
        codes.append(done.returncode)
    return codes


if __name__ == "__main__":
    main()
