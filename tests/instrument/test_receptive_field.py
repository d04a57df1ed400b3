"""Receptive fields against brute force: where the gradient of a unit is not zero.

The plain gradient has holes, so the network is made linear: positive weights, no rectifiers, sums for maxima.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from convscope.instrument.receptive_field import unit_box
from convscope.instrument.trace import trace

# The shape checker looks at random items of tuples.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

WIDTH = 4  # channels of every map
ONES = torch.ones(WIDTH, WIDTH, 5, 5, dtype=torch.float64)
STEPS = {}


def step(*options):
    """Register a step of a random network; ``options`` are strategies for its arguments."""

    def register(function):
        STEPS[function.__name__] = st.tuples(st.just(function.__name__), *options)
        return function

    return register


sizes, strides, paddings, dilations = st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3)


@step(st.tuples(sizes, sizes), strides, paddings, dilations)
def convolution(x, linear, kernel, stride, padding, dilation):
    return F.conv2d(x, ONES[:, :, : kernel[0], : kernel[1]], None, stride, padding, dilation)


@step(sizes, strides, st.integers(0, 1), st.integers(0, 1), st.integers(1, 2))
def transposed(x, linear, kernel, stride, padding, extra, dilation):
    weight = ONES[:, :, :kernel, :kernel]
    return F.conv_transpose2d(x, weight, None, stride, padding, min(extra, max(stride, dilation) - 1), 1, dilation)


@step(st.integers(2, 4), strides, st.integers(0, 1), st.integers(1, 2), st.booleans())
def max_pool(x, linear, kernel, stride, padding, dilation, ceil_mode):
    y = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
    if not linear:
        return y
    reach = padding + stride + dilation * kernel  # no window hangs over further
    x = F.pad(x, (padding, reach, padding, reach))
    windows = F.conv2d(x, ONES[:, :1, :kernel, :kernel], None, stride, 0, dilation, WIDTH)
    return windows[:, :, : y.shape[2], : y.shape[3]]


@step(st.integers(2, 4), strides, st.integers(0, 1), st.booleans(), st.booleans())
def avg_pool(x, linear, kernel, stride, padding, ceil_mode, count_include_pad):
    return F.avg_pool2d(x, kernel, stride, padding, ceil_mode, count_include_pad)


@step(st.integers(2, 7), st.integers(1, 7))
def adaptive_avg(x, linear, rows, cols):
    return F.adaptive_avg_pool2d(x, (rows, cols))


@step(st.integers(2, 7))
def adaptive_max(x, linear, side):
    return F.adaptive_avg_pool2d(x, side) if linear else F.adaptive_max_pool2d(x, side)


@step(st.sampled_from(["constant", "reflect", "replicate"]), st.tuples(*[st.integers(0, 3)] * 4))
def padded(x, linear, mode, amounts):
    return F.pad(x, amounts, mode=mode)


@step(st.tuples(*[st.integers(-2, 0)] * 4))
def cropped(x, linear, amounts):
    return F.pad(x, amounts)


@step(st.sampled_from(["nearest", "bilinear"]), st.sampled_from([2, 3, 1.5, 0.5]))
def scaled(x, linear, mode, factor):
    return F.interpolate(x, scale_factor=factor, mode=mode)


@step(st.booleans(), st.integers(2, 20), st.integers(2, 20))
def resized(x, linear, corners, rows, cols):
    if corners:
        return F.interpolate(x, (rows, cols), mode="bilinear", align_corners=True)
    return F.interpolate(x, (rows, cols), mode="nearest")


@step(st.integers(-9, 3), st.integers(1, 3))
def sliced(x, linear, start, by):
    return x[:, :, start:, ::by]


@step()
def rectified(x, linear):
    return x if linear else F.relu(x)


@step()
def normed(x, linear):
    return F.batch_norm(x, torch.ones(WIDTH).double(), torch.ones(WIDTH).double()) if not linear else x


@step()
def shuffled(x, linear):
    b, c, h, w = x.shape
    return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


@step()
def permuted(x, linear):
    return x[:, torch.tensor([2, 0, 3, 1])]


@step(st.integers(2, 3), st.integers(1, 2))
def half_convolved(x, linear, kernel, dilation):
    """As in ShuffleNet: one half of the channels goes through a convolution, the other by it; then they are mixed."""
    left, right = x.chunk(2, 1)
    right = F.conv2d(right, ONES[:2, :2, :kernel, :kernel], None, 1, dilation * (kernel - 1), dilation)
    return F.conv2d(torch.cat([left, right[:, :, : x.shape[2], : x.shape[3]]], 1), ONES[:, :, :1, :1])


@step(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2))
def residual(x, linear, kernel, dilation, padding):
    padding = min(padding, dilation * (kernel - 1))
    y = F.conv2d(x, ONES[:, :, :kernel, :kernel], None, 1, padding, dilation)
    rows, cols = min(x.shape[2], y.shape[2]), min(x.shape[3], y.shape[3])
    return x[:, :, :rows, :cols] + y[:, :, :rows, :cols]


@step(st.integers(1, 4), st.integers(1, 3))
def side_by_side(x, linear, kernel, stride):
    """Maps of two convolutions joined along the channels and mixed, and again below each other."""
    y = F.conv2d(x, ONES[:, :, :kernel, :kernel], None, stride, kernel // 2)
    z = F.conv2d(x, ONES[:, :, :1, :1], None, stride)
    rows, cols = min(z.shape[2], y.shape[2]), min(z.shape[3], y.shape[3])
    joined = F.conv2d(torch.cat([y[:, :2, :rows, :cols], z[:, 2:, :rows, :cols]], 1), ONES[:, :, :1, :1])
    return torch.cat([joined, joined[:, :, :1]], 2)


@step()
def attended(x, linear):
    """Channels weighed against each other at each place, as in CBAM's spatial half."""
    if linear:
        return x + x.sum(1, keepdim=True)
    return x * torch.sigmoid(x.mean(1, keepdim=True) + x.amax(1, keepdim=True)) + x.softmax(1)


class Net(nn.Module):
    def __init__(self, steps, linear=False):
        super().__init__()
        self.steps, self.linear = steps, linear

    def forward(self, x):
        for name, *options in self.steps:
            x = globals()[name](x, self.linear, *options)
        return x


def image(rows, cols):
    return torch.rand(1, WIDTH, rows, cols, dtype=torch.float64) + 0.1


def brute_force(net, size, units):
    """The smallest boxes that hold all pixels which units (row, col) depend on; None for no pixel."""
    x = image(*size).repeat(len(units), 1, 1, 1).requires_grad_()
    y = net(x)
    score = sum(y[i, :, row, col].sum() for i, (row, col) in enumerate(units))
    (gradient,) = torch.autograd.grad(score, x) if score.requires_grad else (torch.zeros_like(x),)
    boxes = []
    for seen in gradient.abs().sum(1) > 0:
        rows, cols = seen.any(1).nonzero().flatten().tolist(), seen.any(0).nonzero().flatten().tolist()
        boxes.append(((rows[0], rows[-1]), (cols[0], cols[-1])) if rows else None)
    return boxes


def traced(net, size):
    """The trace, or no example where the sizes do not fit together or grow out of hand."""
    try:
        with torch.no_grad():
            shape = net(image(*size)).shape
    except RuntimeError:
        assume(False)
    assume(min(shape[2:]) >= 1 and max(shape[2:]) <= 60)
    taken = trace(net, image(*size))
    assume(taken.output.index != 0)
    return taken


steps = st.lists(st.one_of(*STEPS.values()), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(steps, st.tuples(st.integers(6, 19), st.integers(6, 19)))
@example([("convolution", (3, 3), 1, 1, 2)], (8, 8))  # the first tap inside is not the image's first row
@example([("convolution", (2, 2), 1, 3, 1)], (6, 6))  # a corner that sees padding alone
@example([("transposed", 1, 3, 0, 1, 1), ("convolution", (2, 2), 1, 0, 2)], (6, 6))  # units that nothing reaches
@example([("padded", "reflect", (3, 0, 0, 2)), ("convolution", (3, 3), 2, 1, 2)], (7, 9))
def test_units_at_borders_and_within(steps, size):
    taken = traced(Net(steps), size)
    rows, cols = taken.output.shape[2:]
    units = [(r, c) for r in {0, 1 % rows, rows // 2, rows - 1} for c in {0, 1 % cols, cols // 2, cols - 1}]
    for unit, wanted in zip(units, brute_force(Net(steps, linear=True), size, units), strict=True):
        status, box = unit_box(taken, taken.output, *unit)
        assert status == "exact"
        assert box == (wanted or ((0, -1), (0, -1))), f"unit {unit}"
