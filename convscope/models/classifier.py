"""Classifier: an ``nn.Module`` from pixels to logits, with its class names and its way to frame a photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from convscope.errors import ModelError, UsageError
from convscope.images.frame import Framing
from convscope.models.classes import Classes, numbered
from convscope.types import Images, Logits


class Classifier(nn.Module):
    """Pixels "b c h w" in [0, 1] -> logits "b classes". Normalisation is inside, so every method speaks pixels.

    The user's module is ``network``; it is called, never changed. Pixels are brought to the dtype of its weights, so a
    gradient comes back in the dtype of the pixels. A network with one output is a binary classifier: its z becomes the
    logits (-z/2, z/2), whose softmax is (1 - sigmoid(z), sigmoid(z)).
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Classes | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        framing: Framing | None = None,
        channels: int | None = None,
        name: str = "",
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.framing = framing or Framing()
        self.channels = channels or _channels(network, mean)
        self.name = name or type(network).__name__
        self.mean, self.std = (
            _per_channel("mean", mean, 0.0, self.channels),
            _per_channel("std", std, 1.0, self.channels),
        )
        if min(self.std) <= 0:
            raise UsageError(f"std must be positive, got {', '.join(map(str, self.std))}")

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self._tensors()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the weights; None for a network without any."""
        return next((p.dtype for p in self._tensors() if p.is_floating_point()), None)

    def _tensors(self) -> Any:
        yield from self.network.parameters()
        yield from self.network.buffers()

    def forward(self, images: Images) -> Logits:
        return self.read(self.network(self.normalise(images)), len(images))

    def normalise(self, images: Images) -> Images:
        """What the network is given: pixels in the dtype of its weights, less the mean, over the standard deviation."""
        if images.shape[1] != self.channels:
            raise UsageError(f"the model takes {self.channels} channels, the images are {tuple(images.shape)}")
        pixels = images.to(self.dtype or images.dtype)
        mean, std = (pixels.new_tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (pixels - mean) / std

    def read(self, output: Any, count: int) -> Logits:
        """The logits of ``count`` images in what a network returned."""
        output = getattr(output, "logits", output)
        if isinstance(output, Mapping) and "logits" in output:
            output = output["logits"]
        if isinstance(output, (tuple, list)) and output:
            output = output[0]
        if not isinstance(output, Tensor):
            raise ModelError(f"{self.name} returned {type(output).__name__}, not a tensor of logits")
        if output.shape == (count,) or (output.ndim > 2 and output.shape[2:].numel() == 1):
            output = output.reshape(count, -1)
        if output.ndim != 2 or output.shape[0] != count:
            raise ModelError(f"{self.name} gave {tuple(output.shape)} for {count} images, not logits (b, classes)")
        if output.shape[1] == 1:
            output = torch.cat([-output / 2, output / 2], dim=1)
        if self.classes is None:
            self.classes = numbered(output.shape[1])
        if len(self.classes) != output.shape[1]:
            raise ModelError(f"{self.name} has {output.shape[1]} outputs but {len(self.classes)} class names")
        return output


def probabilities(logits: Logits) -> Logits:
    """Softmax in float32 or better; outputs that already are probabilities (a network that ends in softmax) stay."""
    logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    if bool((logits >= 0).all()) and torch.allclose(logits.sum(1), torch.ones_like(logits[:, 0]), atol=1e-3):
        return logits
    return logits.softmax(1)


def _channels(network: nn.Module, mean: Sequence[float] | None) -> int:
    if mean is not None and len(mean) > 1:
        return len(mean)
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
    return first.in_channels if first is not None else 3


def _per_channel(name: str, values: Sequence[float] | None, default: float, channels: int) -> tuple[float, ...]:
    values = [default] if values is None else [float(v) for v in values]
    if len(values) not in (1, channels):
        raise UsageError(f"{name} has {len(values)} values, the model takes {channels} channels")
    return tuple(values * channels if len(values) == 1 else values)
