"""What several of the zoo's networks need: layers by name, the width of flattened maps, ImageNet's statistics."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from convscope.errors import UsageError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def chain(**layers: nn.Module) -> nn.Sequential:
    """The layers one after the other, each addressable by its name."""
    return nn.Sequential(OrderedDict(layers))


def flat_features(features: nn.Module, size: int | tuple[int, int], channels: int = 3) -> int:
    """How many numbers ``features`` makes of one image of ``size``: the inputs of the linear layer that follows.

    Runs on the meta device: no arithmetic is done, no random number drawn and no statistic of BatchNorm moved.
    """
    height, width = (size, size) if isinstance(size, int) else size
    state = {name: tensor.to("meta") for name, tensor in features.state_dict().items()}
    try:
        maps: Tensor = torch.func.functional_call(
            features, state, torch.empty(1, channels, height, width, device="meta")
        )
    except RuntimeError as error:
        raise UsageError(f"an input of {height}x{width} is too small for this network's layers: {error}") from error
    return maps.numel()
