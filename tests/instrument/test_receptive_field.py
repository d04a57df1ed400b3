"""Receptive fields against brute force: where the gradient of a unit is not zero.

The plain gradient has holes, so the network is made linear: positive weights, no rectifiers, sums for maxima.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, assume, example, given, settings
from hypothesis import strategies as st
from torch import nn

from convscope.instrument.receptive_field import receptive_field, unit_box
from convscope.instrument.trace import trace
from convscope.models.zoo import ARCHITECTURES
from tests.instrument.nets import conv

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


@step(st.sampled_from([1, 2, 3]), st.integers(1, 3))
def residual(x, linear, kernel, dilation):
    """The convolution sees what goes by it, and more."""
    y = F.conv2d(x, ONES[:, :, :kernel, :kernel], None, 1, dilation if kernel == 3 else 0, dilation)
    return x[:, :, : y.shape[2], : y.shape[3]] + y


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


def traced(net, size, at_most=60):
    """The trace, or no example where the sizes do not fit together or grow out of hand."""
    try:
        with torch.no_grad():
            shape = net(image(*size)).shape
    except RuntimeError:
        assume(False)
    assume(min(shape[2:]) >= 1 and max(shape[2:]) <= at_most)
    taken = trace(net, image(*size))
    assume(taken.output.index != 0)
    return taken


steps = st.lists(st.one_of(*STEPS.values()), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None, phases=[Phase.explicit, Phase.generate])
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


@settings(max_examples=25, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(st.lists(st.one_of(STEPS["convolution"], STEPS["max_pool"], STEPS["residual"], STEPS["scaled"]), max_size=3))
def test_size_and_stride_far_from_the_border(steps):
    size = (150, 156)
    net = Net([*steps, ("convolution", (3, 2), 2, 1, 1)])
    taken = traced(net, size, at_most=400)
    assume(min(taken.output.shape[-2:]) > 2)
    field = receptive_field(taken, taken.output)
    row, col = (max(0, side // 2 - 1) for side in taken.output.shape[-2:])
    units = [(row + i, col + i) for i in range(3)]
    boxes = brute_force(Net(net.steps, linear=True), size, units)
    assume(all(box and min(box[0][0], box[1][0]) > 0 and box[0][1] < 149 and box[1][1] < 155 for box in boxes))
    assert field.status == "exact"
    for axis, side in enumerate(field.size):
        assert side == max(box[axis][1] - box[axis][0] + 1 for box in boxes)
        starts = [box[axis][0] for box in boxes]
        if field.stride is not None:
            assert starts == [starts[0] + i * field.stride[axis] for i in range(3)]
    if "scaled" not in {name for name, *_ in steps}:
        assert field.stride is not None


def test_sizes_ignore_the_border_also_of_small_images():
    """A field larger than the image keeps its size, whatever the padding."""
    for mode in ("zeros", "reflect", "replicate"):
        net = nn.Sequential(*[nn.Conv2d(WIDTH, WIDTH, 5, padding=2, padding_mode=mode) for _ in range(4)]).double()
        taken = trace(net, image(9, 11))
        assert receptive_field(taken, taken.output).size == (17, 17), mode


def test_zfnet_as_published():
    net = ARCHITECTURES["zfnet"].build().to("meta")
    taken = trace(net, torch.empty(1, 3, 224, 224, device="meta"))
    fields = [receptive_field(taken, taken.event(f"features.conv{i}").value) for i in range(1, 6)]
    assert [field.size[0] for field in fields] == [7, 27, 75, 107, 139]
    assert [field.stride for field in fields] == [(2, 2), (8, 8), (16, 16), (16, 16), (16, 16)]
    assert {(field.status, field.size[0] - field.size[1]) for field in fields} == {("exact", 0)}


# --- what is global, and what is not understood


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x) * 1


def squeeze_excite(x):
    return x * torch.sigmoid(F.conv2d(F.adaptive_avg_pool2d(x, 1), torch.ones(WIDTH, WIDTH, 1, 1).double()))


def gate_by_linear(x):
    gate = F.linear(x.mean((2, 3)), torch.ones(WIDTH, WIDTH).double())
    return x * gate.view(1, WIDTH, 1, 1).expand_as(x)


def gate_by_conv1d(x):
    """ECA: the gate is a convolution along the channels."""
    gate = F.adaptive_avg_pool2d(x, 1).squeeze(-1).transpose(1, 2)
    gate = F.conv1d(gate, torch.ones(1, 1, 3).double(), padding=1)
    return x * gate.transpose(1, 2).unsqueeze(-1)


def through_vector(x):
    return F.linear(x.flatten(1), torch.ones(WIDTH * 36, WIDTH * 144).double()).view(1, WIDTH, 6, 6)


def own_statistics(x):
    return F.batch_norm(x, None, None, training=True)


WHOLE = {
    "squeeze and excite": squeeze_excite,
    "a gate by a linear layer": gate_by_linear,
    "a gate along channels": gate_by_conv1d,
    "flattened": through_vector,
    "instance norm": F.instance_norm,
    "batch norm without statistics": own_statistics,
    "group norm": lambda x: F.group_norm(x, 2),
    "layer norm": lambda x: F.layer_norm(x, x.shape[1:]),
    "global mean": lambda x: x - x.mean((2, 3), keepdim=True),
    "global maximum": lambda x: x / x.amax((2, 3), keepdim=True),
    "standard deviation": lambda x: x / x.std((2, 3), keepdim=True),
    "one number": lambda x: x - x.mean(),
    "softmax over places": lambda x: x.softmax(3),
    "row means": lambda x: x * x.mean(3, keepdim=True),
    "adaptive maximum": lambda x: x * F.adaptive_max_pool2d(x, 1),
}


@pytest.mark.parametrize("name", WHOLE)
def test_what_is_global(name):
    taken = trace(Function(WHOLE[name]), image(12, 12))
    assert receptive_field(taken, taken.output).status == "whole"
    assert unit_box(taken, taken.output, 1, 1) == ("whole", ((0, 11), (0, 11)))


def shifted_in_place(x):
    x = x * 1
    x[:, :, 1:] += x[:, :, :-1].clone()
    return x


def base_written(x):
    x = x * 1
    view = x.view(1, WIDTH, 12, 12)
    x += x.flip(2)
    return view


def pasted(x):
    y = torch.zeros(1, WIDTH, 12, 12).double()
    y[:, :, 2:] = x[:, :, :-2]
    return y


UNKNOWN = {
    "roll": lambda x: x.roll(1, 2),
    "flip": lambda x: x.flip(3),
    "transposed": lambda x: x.transpose(2, 3),
    "channels last": lambda x: x.permute(0, 2, 3, 1),
    "linear over columns": lambda x: F.linear(x, torch.ones(12, 12).double()),
    "linear over channels last": lambda x: F.linear(x.permute(0, 2, 3, 1), torch.ones(WIDTH, WIDTH).double()),
    "unfold": lambda x: x.unfold(2, 3, 1),
    "unfold and fold": lambda x: F.fold(F.unfold(x, 3, padding=1), (12, 12), 3, padding=1),
    "circular padding": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "cumulated": lambda x: x.cumsum(2),
    "sorted": lambda x: x.sort(3).values,
    "rows by number": lambda x: x[:, :, torch.tensor([3, 1, 2])],
    "repeated": lambda x: x.repeat(1, 1, 2, 2),
    "sampled": lambda x: F.grid_sample(x, torch.zeros(1, 5, 5, 2).double(), align_corners=False),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "attention": lambda x: (x.flatten(2) @ x.flatten(2).transpose(1, 2) @ x.flatten(2)).view_as(x),
    "own filter": lambda x: F.conv2d(x, x[:, :, :3, :3].clone()),
    "shifted in place": shifted_in_place,
    "base written": base_written,
    "pasted": pasted,
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_is_not_understood(name):
    taken = trace(Function(UNKNOWN[name]), image(12, 12))
    assert receptive_field(taken, taken.output).status == "unknown"
    assert unit_box(taken, taken.output, 1, 1) == ("unknown", ((0, 11), (0, 11)))


def test_what_depends_on_no_pixel():
    taken = trace(Function(lambda x: torch.maximum(x, torch.zeros_like(x))), image(12, 12))
    assert receptive_field(taken, taken.output).size == (1, 1)
    constant = trace(Function(lambda x: torch.ones_like(x) * 2), image(12, 12))
    assert unit_box(constant, constant.output, 1, 1) == ("exact", ((0, -1), (0, -1)))


def test_the_input_itself():
    taken = trace(nn.Identity(), image(12, 12))
    assert unit_box(taken, taken.input, 3, 4) == ("exact", ((3, 3), (4, 4)))


def test_an_inner_layer_of_a_network_that_is_global_later():
    net = nn.Sequential(conv(WIDTH, WIDTH), nn.InstanceNorm2d(WIDTH)).double()
    taken = trace(net, image(12, 12))
    assert receptive_field(taken, taken.event("0").value).size == (3, 3)
    assert receptive_field(taken, taken.event("1").value).status == "whole"
