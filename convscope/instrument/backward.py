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
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.checkpoint import CheckpointError

from convscope.errors import RuleError, UsageError
from convscope.instrument.calls import CallWatch

Rule = Literal["gradient", "deconvnet", "guided"]
Norm = Literal["backward", "pass"]
RULES = ("gradient", "deconvnet", "guided")


class relu_rule(TorchFunctionMode):
    """Run a forward pass inside; its backward pass then follows the rule.

    ``contrast_norm="pass"`` lets local response normalisation pass the signal down unchanged, as the known deconvnet
    implementations do, instead of back-propagating it. Enter it before ``record``, so that recorded function calls are
    those of the network. Rules do not nest.
    """

    def __init__(self, rule: Rule, *, contrast_norm: Norm = "backward") -> None:
        if rule not in RULES:
            raise UsageError(f"backward rule {rule!r} is not one of {', '.join(RULES)}")
        if contrast_norm not in ("backward", "pass"):
            raise UsageError(f"contrast_norm {contrast_norm!r} is not 'backward' or 'pass'")
        super().__init__()
        self.rule = rule
        self.contrast_norm = contrast_norm

    def __enter__(self) -> relu_rule:
        if any(isinstance(mode, (relu_rule, CallWatch)) for mode in _get_current_function_mode_stack()):
            raise UsageError(
                "enter relu_rule before record, and only one at a time: inside, it would not see every call"
            )
        super().__enter__()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        super().__exit__(kind, error, traceback)
        if isinstance(error, CheckpointError):
            # A checkpointed segment runs again in the backward pass, where torch switches every mode off. It compares
            # what is kept for that pass with what was, so a rule that was lost on the way does not pass silently.
            raise RuleError(
                f"the {self.rule} rule does not reach into checkpointed segments: switch gradient checkpointing off"
            ) from error

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.rule != "gradient":
            call = rectifier(func, args, kwargs)
            if call is not None and call[0].requires_grad:
                x, top, in_place = call
                return _Rectify.apply(x, top, in_place, self.rule == "guided", func in _KEPT)
        if func is F.local_response_norm and self.contrast_norm == "pass":
            return _PassDown.apply(kwargs["input"] if "input" in kwargs else args[0], func(*args, **kwargs))
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
        own = Counter(name for name in map(_own_derivative, nodes) if name)
        return tuple(f"{name} kept its own derivative ({count} times)" for name, count in own.items())


def rectified(ctx: Any, x: Tensor, top: float, in_place: bool) -> Tensor:
    """The forward pass of a rectifier with a backward pass of its own: min(max(x, 0), top)."""
    if not in_place:
        return x.relu() if top == math.inf else x.clamp(0, top)
    ctx.mark_dirty(x)
    return x.relu_() if top == math.inf else x.clamp_(0, top)


class _Rectify(torch.autograd.Function):
    """min(max(x, 0), top), whose backward pass lets only positive signals down; ``guided``: also only where x > 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float, in_place: bool, guided: bool, kept: bool) -> Tensor:
        # PyTorch itself keeps the output of a plain ReLU, so the network does not write into it; of other forms it may.
        inside = None if kept or not guided else (x > 0) & (x < top)
        y = rectified(ctx, x, top, in_place)
        ctx.save_for_backward(y if guided and kept else inside)
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        g = g.relu()
        (kept,) = ctx.saved_tensors
        if kept is not None:
            g = g * kept if kept.dtype == torch.bool else torch.ops.aten.threshold_backward(g, kept, 0)
        return g, None, None, None, None


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


def rectifier(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
    """What a function call rectifies, if it does."""
    return _RECTIFIERS[func](*args, **kwargs) if func in _RECTIFIERS and "out" not in kwargs else None


def _relu(input: Tensor, inplace: bool = False) -> _Call:
    return input, math.inf, inplace


def _relu_(input: Tensor) -> _Call:
    return input, math.inf, True


def _relu6(input: Tensor, inplace: bool = False) -> _Call:
    return input, 6.0, inplace


def _is_zero(bound: Any) -> bool:
    if isinstance(bound, Tensor):
        return not bound.requires_grad and not bool(bound.any())
    return bound is not None and bound == 0


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> _Call:
    return (input, float(max_val), inplace) if min_val == 0 and max_val > 0 else None


def _hardtanh_(input: Tensor, min_val: float = -1.0, max_val: float = 1.0) -> _Call:
    return _hardtanh(input, min_val, max_val, True)


def _threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> _Call:
    return (input, math.inf, inplace) if threshold == 0 and value == 0 else None


def _threshold_(input: Tensor, threshold: float, value: float) -> _Call:
    return _threshold(input, threshold, value, True)


def _clamp(input: Tensor, min: Any = None, max: Any = None) -> _Call:
    if not _is_zero(min) or isinstance(max, Tensor) or (max is not None and max <= 0):
        return None
    return input, math.inf if max is None else float(max), False


def _clamp_(input: Tensor, min: Any = None, max: Any = None) -> _Call:
    call = _clamp(input, min, max)
    return call and (call[0], call[1], True)


def _maximum(input: Tensor, other: Tensor) -> _Call:
    for x, bound in ((input, other), (other, input)):
        if isinstance(bound, Tensor) and x.requires_grad and _is_zero(bound):
            shape = torch.broadcast_shapes(x.shape, bound.shape)
            return x.to(torch.result_type(x, bound)).expand(shape), math.inf, False
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

_KEPT = {F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_}

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
    "CeluBackward0": "CELU",
    "GluBackward0": "GLU",
    "TanhBackward0": "Tanh",
    "LogSigmoidBackward0": "LogSigmoid",
    "AbsBackward0": "abs",
}


def _own_derivative(node: Any) -> str:
    """The name of an activation that a rule leaves alone, or of the network's own kind of autograd function."""
    name = node.name()
    if issubclass(type(node), BackwardCFunction) and name not in _OURS:
        return f"the autograd function {name.removesuffix('Backward')}"
    return _SMOOTH.get(name, "")


_OURS = {"_RectifyBackward", "_PassDownBackward", "BackwardHookFunctionBackward"}
_OPAQUE = ("CompiledFunction", "DifferentiableGraph", "CheckpointFunction")
_MISSED = {
    "ReluBackward0": "ReLU",
    "ThresholdBackward0": "threshold",
    "MaskedScatterBackward0": "masked_scatter",
}
_MASKS = {  # what is a rectifier if one of these, saved for the backward pass, tells a value from its neighbours
    "WhereBackward0": ("torch.where", ("condition",)),
    "MaskedFillBackward0": ("masked_fill", ("mask",)),
    "MaskedFillBackward1": ("masked_fill", ("mask",)),
    "MulBackward0": ("multiplication by a comparison", ("self", "other")),
}
_BOUNDS = {  # what is a rectifier if one of these, saved for the backward pass, is zero
    "HardtanhBackward0": ("min_val",),
    "LeakyReluBackward0": ("negative_slope",),
    "EluBackward0": ("alpha",),
    "PreluKernelBackward0": ("weight",),
    "MaximumBackward0": ("self", "other"),
    "MinimumBackward0": ("self", "other"),
    "FmaxBackward0": ("self", "other"),
    "FminBackward0": ("self", "other"),
    **dict.fromkeys(("ClampBackward0", "ClampBackward1"), ("min", "max")),
    **dict.fromkeys(("ClampMinBackward0", "ClampMinBackward1"), ("min",)),
    **dict.fromkeys(("ClampMaxBackward0", "ClampMaxBackward1"), ("max",)),
}


def _missed(node: Any) -> str:
    """The name of a rectifier that escaped the rule, or of a piece of graph that cannot be looked into."""
    name = node.name()
    if name in _MISSED:
        return _MISSED[name]
    if name in _BOUNDS:
        bounded = any(_is_zero(getattr(node, f"_saved_{bound}")) for bound in _BOUNDS[name])
        return f"{name.split('Backward')[0].lower()} at 0" if bounded else ""
    if name in _MASKS:
        what, masks = _MASKS[name]
        shape = tuple(node._input_metadata[0].shape)
        return what if any(_is_mask(getattr(node, f"_saved_{mask}"), shape) for mask in masks) else ""
    if name == "IndexPutBackward0":
        shape = tuple(node._input_metadata[0].shape)
        return "assignment where a comparison holds" if any(_is_mask(i, shape) for i in node._saved_indices) else ""
    return name if any(part in name for part in _OPAQUE) else ""


def _is_mask(saved: Any, shape: tuple[int, ...]) -> bool:
    """Truth values, or zeros and ones that were made of them, one for each of the values of ``shape``.

    What is alike for all channels or all images is the network's own: a frame, a choice of channels. Dropout left on
    scales its ones.
    """
    if not isinstance(saved, Tensor) or saved.requires_grad or tuple(saved.shape) != shape:
        return False
    if saved.dtype == torch.bool:
        return True
    return bool(((saved == 0) | (saved == 1)).all()) and bool(saved.any()) and not bool(saved.all())


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
