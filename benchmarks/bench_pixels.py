"""What do deconvnet and guided backpropagation cost over one forward and one backward pass, and what do peers cost?

The bound is the plain gradient at the pixels written by hand, parameters frozen.
"""

from __future__ import annotations

import copy

import torch
from _nets import classifier, devices, network, normalised, pixels
from _table import Table, options
from _timing import Run, interleaved, middle, ratio
from torch import Tensor, nn

from convscope.instrument.target import Target
from convscope.methods.deconvnet import Deconvnet
from convscope.methods.guided import Guided

CLASS = 281
DEMAND = 1.1
NETWORKS = ("resnet50", "vgg16")
BATCHES = (1, 16)


def by_hand(net: nn.Module, ready: Tensor) -> Run:
    def run() -> Tensor:
        leaf = ready.detach().requires_grad_()
        return torch.autograd.grad(net(leaf)[:, CLASS].sum(), leaf)[0]

    return run


def peers(net: nn.Module, ready: Tensor) -> dict[str, Run]:
    """Other people's as their documentation uses it. They hook modules, so ReLUs must not work in place."""
    from captum.attr import Deconvolution, GuidedBackprop
    from pytorch_grad_cam import GuidedBackpropReLUModel
    from zennit.attribution import Gradient
    from zennit.composites import DeconvNet
    from zennit.composites import GuidedBackprop as ZennitGuided

    seed = torch.eye(1000, device=ready.device)[[CLASS] * len(ready)]
    captum = {"captum deconvnet": Deconvolution(net), "captum guided": GuidedBackprop(net)}

    def zennit(composite: type) -> None:
        with Gradient(net, composite()) as attributor:
            attributor(ready.detach().requires_grad_(), seed)

    runs: dict[str, Run] = {
        name: lambda method=method: method.attribute(ready.detach().requires_grad_(), target=CLASS)
        for name, method in captum.items()
    }
    runs |= {"zennit deconvnet": lambda: zennit(DeconvNet), "zennit guided": lambda: zennit(ZennitGuided)}
    if len(ready) == 1:  # it explains the first image of a batch only
        guided = GuidedBackpropReLUModel(net)
        runs["grad-cam guided"] = lambda: guided(ready.detach().clone(), CLASS)
    return runs


def measure(table: Table, name: str, count: int, device: str, quick: bool) -> None:
    net = network(name, device).requires_grad_(False)
    images = pixels(count, device)
    ready = normalised(images)
    model, target = classifier(net), Target(index=(CLASS,) * count)
    runs: dict[str, Run] = {
        "deconvnet": lambda: Deconvnet().run(model, images, target),
        "guided": lambda: Guided().run(model, images, target),
        "by hand": by_hand(net, ready),
    }
    seconds = 5 if quick else 25
    times = interleaved(runs, seconds=seconds, least=3, device=device)
    case = f"{name} b{count} {device}"
    for method in ("deconvnet", "guided"):
        table.at_most(f"{case}: convscope {method} / by hand", ratio(times, method, "by hand"), DEMAND)
    loud = copy.deepcopy(net).requires_grad_(True)
    for module in loud.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    others = {**peers(loud, ready), "by hand": by_hand(net, ready)}
    times = interleaved(others, seconds=seconds / 2, least=1, device=device)
    for peer in others:
        if peer != "by hand":
            table.note(f"{case}: {peer} / by hand", ratio(times, peer, "by hand"))
    table.note(f"{case}: by hand alone", 1000 * middle(times, "by hand"), "ms")


def main() -> None:
    chosen = options(__doc__).parse_args()
    table = Table("Deconvnet and guided backpropagation: what they cost over the plain gradient")
    for device in devices():
        for name in NETWORKS:
            for count in BATCHES:
                measure(table, name, count, device, chosen.quick)
    table.finish()


if __name__ == "__main__":
    main()
