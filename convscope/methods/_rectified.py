"""What deconvnet and guided backpropagation share: advice on when which of them says more."""

from __future__ import annotations

from convscope.instrument.trace import trace
from convscope.models.classifier import Classifier
from convscope.types import Images

FEW_SWITCHES = 1


def switch_notes(classifier: Classifier, images: Images) -> tuple[str, ...]:
    """Deconvnet has its image detail from pool switches alone; say so where there are hardly any."""
    ops = trace(classifier.network, images, through=classifier).ops
    pools = sum(op.name in ("max_pool2d_with_indices", "adaptive_max_pool2d") for op in ops)
    if pools > FEW_SWITCHES:
        return ()
    count = "no max pool" if pools == 0 else "one max pool"
    return (f"deconvnet has its image detail from pool switches and this network has {count}: guided shows more",)
