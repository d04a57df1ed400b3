"""Backward rules: what every ReLU passes down (Zeiler & Fergus 2013; Springenberg et al. 2014).

    gradient    g [x > 0]          the true derivative
    deconvnet   g [g > 0]
    guided      g [x > 0] [g > 0]

The *call* of the rectifier is intercepted, whatever its form: module, functional, method, in place, clamp, ReLU6. No
hook is set and the model is not touched. ``verify`` then walks the autograd graph for a rectifier that was missed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convscope.errors import RuleError, UsageError

Rule = Literal["gradient", "deconvnet", "guided"]
Norm = Literal["backward", "pass"]
RULES = ("gradient", "deconvnet", "guided")


class relu_rule(TorchFunctionMode):
    """Run a forward pass inside; its backward pass then follows the rule.

    ``contrast_norm="pass"`` lets local response normalisation pass the signal down unchanged, as the known deconvnet
    implementations do, instead of back-propagating it. Enter it before ``record``, so that recorded function calls are
    those of the network.
    """

    def __init__(self, rule: Rule, *, contrast_norm: Norm = "backward") -> None:
        if rule not in RULES:
            raise UsageError(f"backward rule {rule!r} is not one of {', '.join(RULES)}")
        if contrast_norm not in ("backward", "pass"):
            raise UsageError(f"contrast_norm {contrast_norm!r} is not 'backward' or 'pass'")
        super().__init__()
        self.rule = rule
        self.contrast_norm = contrast_norm

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _RECTIFIERS and self.rule != "gradient":
            call = _RECTIFIERS[func](*args, **kwargs)
            if call is not None and call[0].requires_grad:
                x, top, in_place = call
                return _Rectify.apply(x, top, in_place, self.rule == "guided")
        if func is F.local_response_norm and self.contrast_norm == "pass":
            return _PassDown.apply(args[0], func(*args, **kwargs))
        return func(*args, **kwargs)

    def verify(self, *outputs: Tensor) -> tuple[str, ...]:
        """Notes on smooth activations that kept their own derivative; a missed rectifier is a RuleError."""
        if self.rule == "gradient":
            return ()
        nodes = graph_nodes(*outputs)
        missed = Counter(name for name in map(_missed, nodes) if name)
        if missed:
            found = ", ".join(f"{name} ({count})" for name, count in missed.items())
            raise RuleError(
                f"the {self.rule} rule did not reach every rectifier: {found} came from scripted, traced or compiled "
                "code, or from a form of ReLU that is not known. Use the plain, uncompiled module"
            )
        smooth = Counter(_SMOOTH[node.name()] for node in nodes if node.name() in _SMOOTH)
        return tuple(f"{name} kept its own derivative ({count} times)" for name, count in smooth.items())


class _Rectify(torch.autograd.Function):
    """min(max(x, 0), top), whose backward pass lets only positive signals down; ``guided``: also only where x > 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float, in_place: bool, guided: bool) -> Tensor:
        ctx.top = top
        if in_place:
            y = x.clamp_(0, top) if top != math.inf else x.relu_()
            ctx.mark_dirty(x)
        else:
            y = x.clamp(0, top) if top != math.inf else x.relu()
        # The output tells where the input was inside (0, top), and the next layer keeps it anyway.
        ctx.save_for_backward(*[y] if guided else [])
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        g = g.relu()
        if ctx.saved_tensors:
            (y,) = ctx.saved_tensors
            if ctx.top == math.inf:
                g = torch.ops.aten.threshold_backward(g, y, 0)
            else:
                g = torch.ops.aten.hardtanh_backward(g, y, 0, ctx.top)
        return g, None, None, None


class _PassDown(torch.autograd.Function):
    """The output of a normalisation, whose signal goes down to the input unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return y.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g, None


# What a call means: (input, upper bound, in place), or None where it is no rectifier.
_Call = tuple[Tensor, float, bool] | None


def _relu(input: Tensor, inplace: bool = False) -> _Call:
    return input, math.inf, inplace


def _relu_(input: Tensor) -> _Call:
    return input, math.inf, True


def _relu6(input: Tensor, inplace: bool = False) -> _Call:
    return input, 6.0, inplace


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> _Call:
    return (input, float(max_val), inplace) if min_val == 0 and max_val > 0 else None


def _hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> _Call:
    return _hardtanh(input, min_val, max_val, True)


def _threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> _Call:
    return (input, math.inf, inplace) if threshold == 0 and value == 0 else None


def _threshold_(input: Tensor, threshold: float, value: float) -> _Call:
    return _threshold(input, threshold, value, True)


def _clamp(input: Tensor, min: Any = None, max: Any = None) -> _Call:
    if isinstance(min, Tensor) or isinstance(max, Tensor) or min is None or min != 0 or (max is not None and max <= 0):
        return None
    return input, math.inf if max is None else float(max), False


def _clamp_(input: Tensor, min: Any = None, max: Any = None) -> _Call:
    call = _clamp(input, min, max)
    return call and (call[0], call[1], True)


def _maximum(input: Tensor, other: Tensor) -> _Call:
    for x, bound in ((input, other), (other, input)):
        if isinstance(bound, Tensor) and not bound.requires_grad and x.requires_grad and not bool(bound.any()):
            return x, math.inf, False
    return None


def _max(input: Tensor, other: Any = None, *_: Any, **options: Any) -> _Call:
    return _maximum(input, other) if isinstance(other, Tensor) else None


_RECTIFIERS: dict[Callable[..., Any], Callable[..., _Call]] = {
    F.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
    torch.relu_: _relu_,
    Tensor.relu_: _relu_,
    F.relu6: _relu6,
    F.hardtanh: _hardtanh,
    F.hardtanh_: _hardtanh_,
    F.threshold: _threshold,
    F.threshold_: _threshold_,  # type: ignore[attr-defined]
    torch.threshold: _threshold,
    torch.clamp: _clamp,
    torch.clip: _clamp,
    torch.clamp_min: _clamp,
    Tensor.clamp: _clamp,
    Tensor.clip: _clamp,
    Tensor.clamp_min: _clamp,
    torch.clamp_: _clamp_,
    torch.clamp_min_: _clamp_,
    Tensor.clamp_: _clamp_,
    Tensor.clip_: _clamp_,
    Tensor.clamp_min_: _clamp_,
    torch.maximum: _maximum,
    Tensor.maximum: _maximum,
    torch.max: _max,
    Tensor.max: _max,
}

_SMOOTH = {
    "SiluBackward0": "SiLU",
    "GeluBackward0": "GELU",
    "EluBackward0": "ELU",
    "HardswishBackward0": "Hardswish",
    "MishBackward0": "Mish",
    "SoftplusBackward0": "Softplus",
    "LeakyReluBackward0": "LeakyReLU",
    "PreluKernelBackward0": "PReLU",
    "RreluWithNoiseBackward0": "RReLU",
}
_MISSED = {"ReluBackward0": "ReLU", "ThresholdBackward0": "threshold"}
_OPAQUE = ("CompiledFunction", "DifferentiableGraph", "CheckpointFunction")


def _missed(node: Any) -> str:
    """The name of a rectifier that escaped the rule, or of a piece of graph that cannot be looked into."""
    name = node.name()
    bound = {"HardtanhBackward0": "_saved_min_val", "ClampBackward1": "_saved_min", "ClampMinBackward0": "_saved_min"}
    if name in _MISSED:
        return _MISSED[name]
    if name in bound:
        return "clamp at 0" if getattr(node, bound[name]) == 0 else ""
    if name == "WhereBackward0":
        return "torch.where"
    if name == "MulBackward0" and any(_is_mask(node, side) for side in ("_saved_self", "_saved_other")):
        return "multiplication by a comparison"
    return name if any(part in name for part in _OPAQUE) else ""


def _is_mask(node: Any, side: str) -> bool:
    saved = getattr(node, side, None)
    return isinstance(saved, Tensor) and saved.dtype == torch.bool


def graph_nodes(*outputs: Tensor) -> list[Any]:
    """Every node of the autograd graph behind the outputs."""
    waiting = [output.grad_fn for output in outputs if output.grad_fn is not None]
    seen = set(waiting)
    nodes = []
    while waiting:
        node = waiting.pop()
        nodes.append(node)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                waiting.append(following)
    return nodes
