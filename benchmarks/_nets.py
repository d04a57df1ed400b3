"""The networks measured: real architectures with random weights, which cost what trained ones cost."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convscope.models.classifier import Classifier

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE = 224


def network(name: str, device: str = "cpu") -> nn.Module:
    """resnet50, vgg16 or efficientnet_lite0; in-place ReLUs as their makers wrote them."""
    torch.manual_seed(0)
    if name == "efficientnet_lite0":
        import timm

        return timm.create_model("tf_efficientnet_lite0").eval().to(device)
    from torchvision import models

    return models.get_model(name, weights=None).eval().to(device)


def classifier(module: nn.Module) -> Classifier:
    return Classifier(module, mean=MEAN, std=STD)


def pixels(count: int, device: str = "cpu") -> Tensor:
    """Noise in [0, 1]: what is in a photo does not change what it costs."""
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)


def normalised(images: Tensor) -> Tensor:
    """What peers are given: they do not normalise."""
    mean, std = (images.new_tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


def devices() -> list[str]:
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
