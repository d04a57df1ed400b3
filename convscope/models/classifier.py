"""Classifier: an ``nn.Module`` from pixels to logits, with its class names and its way to frame a photo."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from convscope.errors import ModelError, UsageError
from convscope.images.frame import Framing
from convscope.models.classes import Classes, numbered
from convscope.models.ending import Ending
from convscope.types import Images, Logits

PerChannel: TypeAlias = float | Sequence[float] | np.ndarray | Tensor
USUAL = (224, 224)  # the canvas of a network that takes any size


class Classifier(nn.Module):
    """Pixels "b c h w" in [0, 1] -> logits "b classes". Normalisation is inside, so every method speaks pixels.

    The user's module is ``network``; it is called, never changed. Pixels are brought to the dtype of its weights, so a
    gradient comes back in the dtype of the pixels. Of a network that ends in a sigmoid or softmax the logits are what
    that was given. A network with one output is a binary classifier: its z becomes the logits (-z/2, z/2), whose
    softmax is (1 - sigmoid(z), sigmoid(z)).
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Classes | None = None,
        *,
        mean: PerChannel | None = None,
        std: PerChannel | None = None,
        framing: Framing | None = None,
        channels: int | None = None,
        background: str = "white",
        name: str = "",
    ) -> None:
        super().__init__()
        self.network = network
        self.classes = classes
        self.framing = framing or Framing()
        self.background = background  # what lies behind transparent photos
        self.name = name or type(network).__name__
        given_mean, given_std = _numbers("mean", mean, 0.0), _numbers("std", std, 1.0)
        self.channels = channels or _channels(network, max(len(given_mean), len(given_std)))
        self.mean = _per_channel("mean", given_mean, self.channels)
        self.std = _per_channel("std", given_std, self.channels)
        if not all(0 < value < math.inf for value in self.std) or not all(map(math.isfinite, self.mean)):
            raise UsageError(f"mean must be finite and std positive, got {list(self.mean)} and {list(self.std)}")

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self._tensors()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the weights; None for a network without any."""
        return next((p.dtype for p in self._tensors() if p.is_floating_point()), None)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of its own input; the usual ones where it takes any."""
        return self.framing.size or USUAL

    def blank(self, size: tuple[int, int] | None = None) -> Images:
        """A grey image "1 c h w", by default of its canvas, for asking about the network where no photo is at hand."""
        dtype = torch.promote_types(self.dtype or torch.float32, torch.float32)
        return torch.full((1, self.channels, *(size or self.canvas)), 0.5, device=self.device, dtype=dtype)

    def _tensors(self) -> Any:
        yield from self.network.parameters()
        yield from self.network.buffers()

    def forward(self, images: Images) -> Logits:
        with Ending() as ending:
            output = self.network(self.normalise(images))
        return self.logits(output, len(images), ending.before)

    def normalise(self, images: Images, *, in_place: bool = False) -> Images:
        """What the network is given: pixels in the dtype of its weights, less the mean, over the standard deviation.

        ``in_place``: the images are the caller's to give away. Memory for a large batch costs several times as much as
        the arithmetic.
        """
        if images.shape[1] != self.channels:
            raise UsageError(f"the model takes {self.channels} channels, the images are {tuple(images.shape)}")
        dtype = self.dtype or images.dtype
        pixels = images.to(torch.promote_types(images.dtype, dtype))  # a mean is not rounded to float16 beforehand
        mean, std = (pixels.new_tensor(v).view(1, -1, 1, 1) for v in (self.mean, self.std))
        return (pixels.sub_(mean) if in_place else pixels - mean).div_(std).to(dtype)

    def logits(self, output: Any, count: int, before: Callable[[Tensor], Tensor] = lambda output: output) -> Logits:
        """The logits of ``count`` images in what the network returned. ``before``: what its end was given."""
        output = getattr(output, "logits", output)
        if isinstance(output, Mapping) and "logits" in output:
            output = output["logits"]
        if isinstance(output, (tuple, list)) and output:
            output = self._among(output)
        if not isinstance(output, Tensor):
            held = f" of {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
            raise ModelError(f"{self.name} returned {type(output).__name__}{held}, not a tensor of logits")
        if not output.is_floating_point():
            raise ModelError(f"{self.name} returned {output.dtype}, not logits: leave out what picks the class")
        output = before(output)
        if count == 1 and output.ndim < 2:  # a head that squeezes, squeezes a batch of one away
            output = output.reshape(1, -1)
        if output.shape == (count,) or (output.ndim > 2 and output.shape[0] == count and output.shape[2:].numel() == 1):
            output = output.reshape(count, -1)
        if output.ndim != 2 or output.shape[0] != count:
            raise ModelError(f"{self.name} gave {tuple(output.shape)} for {count} images, not logits (b, classes)")
        binary = output.shape[1] == 1
        if binary:
            output = torch.cat([-output / 2, output / 2], dim=1)
        if self.classes is None:
            self.classes = numbered(output.shape[1])
        if len(self.classes) != output.shape[1]:
            outputs = "1 output, which tells 2 classes apart," if binary else f"{output.shape[1]} outputs"
            raise UsageError(f"{self.name} has {outputs} but {len(self.classes)} class names were given")
        return output

    def _among(self, outputs: Sequence[Any]) -> Any:
        """The first of several outputs, or the first that has a number for each class name."""
        fitting = (out for out in outputs if self.classes and getattr(out, "shape", ())[1:] == (len(self.classes),))
        return next(fitting, outputs[0])


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside of torch.compile's or a parallel wrapper, which hide its layers or put a prefix to them."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(module.module)
    inner = getattr(module, "_orig_mod", None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


def probabilities(logits: Logits) -> Logits:
    """Softmax in float32 or better; outputs that already are probabilities (a network that ends in softmax) stay."""
    # As near to 1 as a softmax's sum is, no further: logits of two classes may well add up to nearly 1.
    eps = torch.finfo(logits.dtype).eps
    tolerance = 2 * eps if eps > 1e-6 else 64 * eps
    logits = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    # One by one, so that an image's probabilities do not depend on what else is in the batch.
    settled = (logits >= 0).all(1) & ((logits.sum(1) - 1).abs() < tolerance)
    return torch.where(settled[:, None], logits, logits.softmax(1))


def _channels(network: nn.Module, values: int) -> int:
    """Of grey or colour images what the first convolution takes; else as many as values of mean or std were given."""
    first = next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)), 0)
    if first in (1, 3):
        return first
    return values if values > 1 else first or 3


def _numbers(name: str, values: PerChannel | None, default: float) -> tuple[float, ...]:
    """A normalisation's numbers: one for all channels, or a list, array or tensor with one for each."""
    try:
        return tuple(np.asarray(default if values is None else values, dtype=np.float64).ravel().tolist())
    except (TypeError, ValueError):
        raise UsageError(f"{name} is a number, or one for each channel: got {values!r}") from None


def _per_channel(name: str, values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise UsageError(f"{name} has {len(values)} values, the model takes {channels} channels (or pass channels=)")
    return values * channels if len(values) == 1 else values
