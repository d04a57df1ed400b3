"""Filters."""

from __future__ import annotations

from torch import Tensor, nn

from convscope.errors import UsageError
from convscope.instrument.address import find_module, parse_address
from convscope.instrument.target import Target
from convscope.methods.explanation import Explanation, explain
from convscope.methods.registry import register, setting
from convscope.models.classifier import Classifier
from convscope.types import Images


@register("filters", "weights", "signed", targeted=False)
class Filters:
    """Filter weights: the first layer in colour, deeper layers as slices (Krizhevsky et al. 2012, figure 3).

    ``raw`` "n c kh kw": a copy of a convolution's weights, filter by filter; units named with the layer are cut out.
    """

    layer: str = setting(default="first", help="a convolution, or filters of it; first: the one that sees the pixels")

    def run(self, classifier: Classifier, images: Images | None = None, target: Target | None = None) -> Explanation:
        convolutions = {path: m for path, m in classifier.network.named_modules() if _has_filters(m)}
        if not convolutions:
            raise UsageError(f"{classifier.name} has no convolutions")
        address = parse_address(next(iter(convolutions)) if self.layer == "first" else self.layer)
        if address.position is not None:
            raise UsageError(f"layer {address}: filters are shown whole, leave out the position")
        module = find_module(classifier.network, address.path)
        if not _has_filters(module):
            some = ", ".join(list(convolutions)[:6])
            raise UsageError(
                f"layer {address.path} is a {type(module).__name__} and has no filters; convolutions: {some}"
            )
        weights: Tensor = module.weight.detach().clone()  # type: ignore[operator]
        if isinstance(module, nn.ConvTranspose2d):
            weights = weights.transpose(0, 1)
        if address.units is not None:
            if max(address.units) >= len(weights):
                raise UsageError(f"filter {max(address.units)} is out of range: {address.path} has {len(weights)}")
            weights = weights[list(address.units)]
        return explain(self, classifier, images, None, weights, None, layer=address.key, units=address.units)


def _has_filters(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) and isinstance(weight, Tensor) and weight.ndim == 4
