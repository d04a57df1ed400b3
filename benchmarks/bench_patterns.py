"""How many steps a second do patterns of units take, beside torch-lucent, and beside a bare forward and backward pass?

A unit-step is one step of ascent on one unit's picture of 128 pixels. The bound is forward + backward as far as the
layer, written by hand, parameters frozen, at the same batch, in the memory format that is faster on this machine.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec

import torch
from _memory import again, peak_growth
from _nets import classifier, devices, network
from _table import Table, options
from _timing import Run, interleaved, middle, ratio
from torch import Tensor, nn

from convscope.models.classifier import Classifier
from convscope.optvis.objectives import channel
from convscope.optvis.recipes import FOURIER
from convscope.optvis.render import render
from convscope.optvis.visualize import plan_patterns, visualize

SIDE, UNITS = 128, 16
SHAPE = (3, SIDE, SIDE)
# A layer of VGG16, and how many times as many unit-steps as torch-lucent are demanded of the CPU and of a GPU.
PEER = {"features.7": (6.0, 20.0), "features.14": (6.0, 20.0), "features.28": (3.0, 8.0)}
BOUND = {
    "vgg16": ("features.7", "features.14", "features.21", "features.28"),  # from the second block on
    "efficientnet_lite0": ("blocks.1.1", "blocks.2.1", "blocks.4.2", "blocks.6.0"),
}
MOST = 1.15
MEMORY = {"vgg16": ("features.2", "features.28"), "efficientnet_lite0": ("blocks.0.0", "blocks.6.0")}
BUDGETS = (256, 1024)  # MiB


class Reached(Exception):
    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps


def ours(model: Classifier, layer: str, units: int, steps: int) -> Run:
    how = replace(FOURIER.how, steps=steps)
    return lambda: render(model, channel(layer, range(units)), how, SHAPE, range(units))


def by_hand(model: Classifier, layer: str, units: int, steps: int, form: torch.memory_format) -> Run:
    """The mean of a unit's map, back to the pixels: nothing is optimised."""
    module, own = model.network.get_submodule(layer), torch.arange(units, device=model.device)

    def stop(_: nn.Module, __: object, output: Tensor) -> None:
        raise Reached(output)

    def run() -> None:
        pixels = torch.rand(units, *SHAPE, device=model.device).contiguous(memory_format=form)
        hook = module.register_forward_hook(stop)
        try:
            for _ in range(steps):
                leaf = pixels.detach().requires_grad_()
                maps = _reached(model, leaf)
                torch.autograd.grad(maps[own, own].flatten(1).mean(1).sum(), leaf)
        finally:
            hook.remove()

    return run


def _reached(model: Classifier, images: Tensor) -> Tensor:
    try:
        model(images)
    except Reached as stopped:
        return stopped.maps
    raise RuntimeError("the layer does not run")


def lucent(net: nn.Module, layer: str, steps: int) -> Run:
    """torch-lucent as its documentation has it, one unit: it enlarges the picture to 224 and runs the whole network."""
    from lucent.optvis import param, render

    def begin() -> tuple[list[Tensor], Run]:
        return param.image(SIDE, fft=True, decorrelate=True)

    def run() -> None:
        objective = f"{layer.replace('.', '_')}:0"
        render.render_vis(net, objective, begin, thresholds=(steps,), show_image=False, progress=False)
        for module in net.modules():  # it leaves its hooks behind, which would make each run slower than the last
            module._forward_hooks.clear()

    return run


def beside_lucent(table: Table, device: str, quick: bool) -> None:
    if find_spec("lucent") is None:
        table.note(f"{device}: torch-lucent is not installed (make bench installs it)", "")
        return
    steps = 8 if quick else 32
    for layer, demands in PEER.items():
        # Each has a network of its own: lucent's has its parameters trainable, and keeps its hooks.
        model, other = classifier(network("vgg16", device)), network("vgg16", device)
        runs = {"convscope": ours(model, layer, UNITS, steps), "lucent": lucent(other, layer, steps)}
        times = interleaved(runs, seconds=10 if quick else 60, least=3, device=device)
        faster = UNITS * ratio(times, "lucent", "convscope")
        table.at_least(f"vgg16 {layer} {device}: unit-steps/s / torch-lucent's", faster, demands[device != "cpu"])
        table.note(f"vgg16 {layer} {device}: ours", 1000 * middle(times, "convscope") / steps / UNITS, "ms")


def beside_bound(table: Table, name: str, device: str, quick: bool) -> None:
    steps = 16  # as far as features.28 a round takes a minute
    for layer in BOUND[name]:
        for units in (UNITS,) if quick else (UNITS, 1):
            model = classifier(network(name, device).requires_grad_(False))
            runs = {"ours": ours(model, layer, units, steps)}
            for form in (torch.contiguous_format, torch.channels_last):
                runs[str(form)] = by_hand(model, layer, units, steps, form)
            times = interleaved(runs, seconds=10 if quick else 40, least=3, device=device)
            found = max(ratio(times, "ours", name) for name in runs if name != "ours")
            what = f"{name} {layer} b{units} {device}: unit-step / forward+backward"
            if name == "vgg16":
                table.at_most(what, found, MOST)
            else:
                table.note(what, found)  # of so cheap a pass the pictures' own arithmetic is a tenth to a quarter


def growth(name: str, layer: str, budget: float) -> float:
    """MiB that a layer's patterns take. To be called once a process."""
    model = classifier(network(name))
    job = plan_patterns(model, f"{layer}:0-15", size=SIDE, steps=3, budget=budget)
    return peak_growth(lambda: visualize(job))


def within_budget(table: Table) -> None:
    for name, layers in MEMORY.items():
        for layer in layers:
            for budget in BUDGETS:
                done = again("--case", name, layer, str(budget))
                if done.returncode != 0:
                    sys.exit(f"{name} {layer} {budget} ended with {done.returncode}")
                table.at_most(f"{name} {layer}, budget {budget} MiB", float(done.stdout), budget, "MiB")


def main() -> None:
    parser = options(__doc__ or "")
    parser.add_argument("--case", nargs=3, metavar=("NETWORK", "LAYER", "BUDGET"), help="one case of memory, here")
    parser.add_argument("--memory", action="store_true", help="the memory alone")
    chosen = parser.parse_args()
    if chosen.case:
        name, layer, budget = chosen.case
        print(growth(name, layer, float(budget)))
        return
    warnings.filterwarnings("ignore", module="lucent|kornia")
    table = Table("Patterns: unit-steps beside torch-lucent, and beside a bare forward and backward pass")
    within_budget(table)
    for device in () if chosen.memory else devices():
        beside_lucent(table, device, chosen.quick)
        for name in BOUND:
            beside_bound(table, name, device, chosen.quick)
    table.finish()


if __name__ == "__main__":
    sys.exit(main())
