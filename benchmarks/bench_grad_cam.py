"""What does Grad-CAM cost over one forward pass and one backward pass to the layer, and what do peers cost?

The bound is written by hand: the part before the layer without a graph, the part after it with one that begins at the
layer, parameters frozen, the gradient weighed by nothing. Nothing that computes the gradient does less.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from _nets import classifier, devices, network, normalised, pixels
from _table import Table, options
from _timing import Run, interleaved, middle, ratio
from torch import Tensor, nn

from convscope.instrument.target import Target
from convscope.methods.grad_cam import GradCam

CLASS = 281
DEMAND = 1.1
LAYERS = {"resnet50": "layer4", "vgg16": "features.29"}
BATCHES = (1, 16)


def parts(name: str, net: nn.Module) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The network before and after the layer."""
    if name == "vgg16":
        head = nn.Sequential(net.features[30:], net.avgpool, nn.Flatten(), net.classifier)
        return net.features[:30], head
    body = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4)
    return body, nn.Sequential(net.avgpool, nn.Flatten(), net.fc)


def by_hand(name: str, net: nn.Module, ready: Tensor) -> Run:
    body, head = parts(name, net)

    def run() -> Tensor:
        with torch.no_grad():
            maps = body(ready)
        maps = maps.detach().requires_grad_()
        scores = head(maps)[:, CLASS].sum()
        return torch.autograd.grad(scores, maps)[0]

    return run


def forward(net: nn.Module, ready: Tensor) -> Run:
    def run() -> Tensor:
        with torch.no_grad():
            return net(ready)

    return run


def peers(net: nn.Module, layer: nn.Module, ready: Tensor) -> dict[str, Run]:
    """Other people's Grad-CAM as their documentation uses it: parameters are trainable, as a loaded model's are."""
    from captum.attr import LayerGradCam
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torchcam.methods import GradCAM as TorchcamGradCAM

    count = len(ready)
    captum = LayerGradCam(net, layer)
    targets = [ClassifierOutputTarget(CLASS)] * count

    def grad_cam() -> None:
        with GradCAM(net, [layer]) as cam:
            cam(ready, targets)

    def torchcam() -> None:
        with TorchcamGradCAM(net, layer) as cam:
            cam([CLASS] * count, net(ready.detach().requires_grad_()))

    return {"captum": lambda: captum.attribute(ready, target=CLASS), "grad-cam": grad_cam, "torchcam": torchcam}


def measure(table: Table, name: str, count: int, device: str, quick: bool) -> None:
    net = network(name, device)
    images = pixels(count, device)
    ready = normalised(images)
    model, target, method = classifier(net), Target(index=(CLASS,) * count), GradCam(layer=LAYERS[name])
    ours = {"convscope": lambda: method.run(model, images, target)}
    seconds = 5 if quick else 25

    for parameter in net.parameters():
        parameter.requires_grad_(False)
    bound = {"by hand": by_hand(name, net, ready), "forward": forward(net, ready)}
    # convscope freezes the parameters itself; the bound is given them frozen.
    times = interleaved({**ours, **bound}, seconds=seconds, least=3 if quick else 5, device=device)
    case = f"{name} b{count} {device}"
    table.at_most(f"{case}: convscope / by hand", ratio(times, "convscope", "by hand"), DEMAND)
    table.note(f"{case}: convscope / forward", ratio(times, "convscope", "forward"))
    table.note(f"{case}: by hand / forward", ratio(times, "by hand", "forward"))
    for parameter in net.parameters():
        parameter.requires_grad_(True)
    layer = net.get_submodule(LAYERS[name])
    others = {**peers(net, layer, ready), "forward": forward(net, ready)}
    times = interleaved(others, seconds=seconds / 2, least=1 if quick else 2, device=device)
    for peer in others:
        if peer != "forward":
            table.note(f"{case}: {peer} / forward", ratio(times, peer, "forward"))
    table.note(f"{case}: forward alone", 1000 * middle(times, "forward"), "ms")


def main() -> None:
    chosen = options(__doc__).parse_args()
    table = Table("Grad-CAM: what it costs, in forward passes and over the bound")
    for device in devices():
        for name in LAYERS:
            for count in BATCHES:
                measure(table, name, count, device, chosen.quick)
    table.finish()


if __name__ == "__main__":
    main()
