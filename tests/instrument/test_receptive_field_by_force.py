"""Receptive fields against brute force: where the gradient of the same network is not zero, with positive weights,
rectifiers made linear and max pools made average."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convscope.instrument.layers import layer_table
from convscope.instrument.receptive_field import receptive_field, unit_box
from convscope.instrument.trace import trace
from convscope.models.zoo import ARCHITECTURES

SIDES = (29, 34)


class Averaged(nn.Module):
    """A max pool's support without its holes: it sees the whole window."""

    def __init__(self, kernel, stride, padding, dilation, ceil_mode):
        super().__init__()
        self.settings = kernel, stride, padding, dilation, ceil_mode

    def forward(self, x):
        kernel, stride, padding, dilation, ceil_mode = self.settings
        ones = torch.ones(x.shape[1], 1, kernel, kernel, dtype=x.dtype)
        out = F.max_pool2d(x, kernel, stride, padding, dilation, ceil_mode)
        reach = dilation * (kernel - 1) + 1
        extra = [
            max(0, (n - 1) * stride + reach - s - padding) for n, s in zip(out.shape[2:], x.shape[2:], strict=True)
        ]
        x = F.pad(x, (padding, extra[1], padding, extra[0]))
        return F.conv2d(x, ones, stride=stride, dilation=dilation, groups=len(ones))[
            ..., : out.shape[2], : out.shape[3]
        ]


def convolution(kernel, stride, padding, dilation, mode):
    return nn.Conv2d(2, 2, kernel, stride, padding if mode == "zeros" else min(padding, 2), dilation, padding_mode=mode)


layers = st.one_of(
    st.builds(
        convolution, st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.integers(1, 2),
        st.sampled_from(["zeros", "reflect", "replicate"]),
    ),
    st.builds(lambda k, s: nn.MaxPool2d(k, s, k // 2, ceil_mode=True), st.integers(2, 3), st.integers(1, 2)),
    st.builds(lambda k, s: nn.MaxPool2d(k, s, k // 2), st.integers(2, 3), st.integers(1, 2)),
    st.builds(lambda k, s: nn.AvgPool2d(k, s), st.integers(2, 3), st.integers(1, 2)),
    st.builds(lambda k, s: nn.ConvTranspose2d(2, 2, k, s), st.integers(1, 4), st.integers(1, 3)),
    st.builds(lambda mode: nn.Upsample(scale_factor=2, mode=mode), st.sampled_from(["nearest", "bilinear"])),
    st.builds(lambda rows, cols: nn.AdaptiveAvgPool2d((rows, cols)), st.integers(3, 6), st.integers(3, 6)),
    st.just(nn.ReLU()),
)  # fmt: skip


def linear_twin(module):
    """The same network, made so that nothing in its support can vanish."""
    if isinstance(module, nn.ReLU):
        return nn.Identity()
    if isinstance(module, nn.MaxPool2d):
        return Averaged(module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
    return module


def support(network, image, row, col):
    """First and last row and column with any gradient."""
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(image)[0, :, row, col].sum(), image)
    seen = gradient[0].abs().amax(0) > 0
    rows, cols = seen.any(1).nonzero().flatten().tolist(), seen.any(0).nonzero().flatten().tolist()
    return ((rows[0], rows[-1]), (cols[0], cols[-1])) if rows else None


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.lists(layers, min_size=1, max_size=4), st.data())
def test_box_is_the_support_of_the_gradient(parts, data):
    network = nn.Sequential(*parts).double()
    image = torch.rand(1, 2, *SIDES, dtype=torch.float64)
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    try:
        out = network(image)
    except RuntimeError:
        return  # the map ran out of pixels
    if min(out.shape[2:]) < 2:
        return
    row = data.draw(st.integers(0, out.shape[2] - 1))
    col = data.draw(st.integers(0, out.shape[3] - 1))
    wanted = support(nn.Sequential(*map(linear_twin, network)), image, row, col)
    if wanted is None:
        return  # a unit that sees padding alone
    taken = trace(network, image)
    status, box = unit_box(taken, taken.output, row, col)
    assert status == "exact"
    assert box == wanted


class Branches(nn.Module):
    def __init__(self, join):
        super().__init__()
        self.a, self.b, self.join = nn.Conv2d(2, 2, 3, 2, 1), nn.Conv2d(2, 2, 5, 2, 2), join

    def forward(self, x):
        return self.join(F.relu(self.a(x)), self.b(x))


@pytest.mark.parametrize("join", [torch.add, lambda a, b: torch.cat([a, b], 1), lambda a, b: a[:, :1] * b])
def test_branches_are_united(join):
    network = Branches(join).double()
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    image = torch.rand(1, 2, *SIDES, dtype=torch.float64)
    taken = trace(network, image)
    for row, col in ((0, 0), (7, 8), (14, 16)):
        assert unit_box(taken, taken.output, row, col) == ("exact", support(network, image, row, col))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gate = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 1)

    def forward(self, x):
        x = self.a(x)
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


class Rolled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 2, 3)

    def forward(self, x):
        return torch.roll(self.a(x), 3, 2)


@pytest.mark.parametrize(("network", "status"), [(Gate(), "whole"), (Rolled(), "unknown")])
def test_status_says_what_is_not_local_or_not_understood(network, status):
    taken = trace(network, torch.rand(1, 2, *SIDES))
    found = receptive_field(taken, taken.output)
    assert (found.status, found.size) == (status, SIDES)


def test_zfnet_has_the_fields_and_strides_of_the_paper():
    network = ARCHITECTURES["zfnet"].build(num_classes=3, fc=8)
    rows = {row.address: row.field for row in layer_table(network, torch.rand(1, 3, 224, 224))}
    found = [(rows[f"features.conv{i}"].size[0], rows[f"features.conv{i}"].stride[0]) for i in range(1, 6)]
    assert found == [(7, 2), (27, 8), (75, 16), (107, 16), (139, 16)]
