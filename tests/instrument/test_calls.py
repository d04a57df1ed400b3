"""Function calls as layers: their names, and whose they are."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.instrument.calls import CallWatch, function_name
from tests.instrument.nets import Loop, conv


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (F.relu, "relu"),
        (torch.relu_, "relu"),
        (Tensor.relu, "relu"),
        (Tensor.relu_, "relu"),
        (torch.max_pool2d, "max_pool2d"),
        (Tensor.__add__, "add"),
        (Tensor.__iadd__, "add"),
        (Tensor.__radd__, "add"),
        (torch.add, "add"),
        (Tensor.add_, "add"),
        (Tensor.__imul__, "mul"),
        (Tensor.__rsub__, "sub"),
        (Tensor.index_add, "index_add"),
        (Tensor.shape.__get__, ""),
    ],
)
def test_one_name_for_all_forms(function, name):
    assert function_name(function) == name


def calls(net, callers, image):
    seen = []
    with CallWatch(net, callers, lambda path, name, count, _: seen.append((path, name, count))), torch.no_grad():
        net(image)
    return seen


def test_calls_of_modules_in_a_list_are_their_own():
    net = Loop()
    image = torch.rand(1, 3, 8, 8)
    assert calls(net, [("", net)], image) == [("", "relu", 1), ("", "relu", 2), ("", "mean", 1)]
    block = [("blocks.1", net.blocks[1])]
    assert calls(net, block, image) == [("blocks.1", "sub", 1), ("blocks.1", "relu", 1)]
    both = calls(net, [("", net), *block], image)
    assert both == [("blocks.1", "sub", 1), ("blocks.1", "relu", 1), ("", "relu", 1), ("", "relu", 2), ("", "mean", 1)]


class Lent(nn.Module):
    """The block calls a module that belongs to someone else."""

    def __init__(self):
        super().__init__()
        self.act, self.block = nn.ReLU(), Block()

    def forward(self, x):
        return self.block(x, self.act)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv(3, 3)

    def forward(self, x, act):
        return act(self.conv(x)) + torch.relu(x)


def test_a_module_called_from_elsewhere_keeps_its_calls():
    net = Lent()
    seen = calls(net, [("block", net.block)], torch.rand(1, 3, 8, 8))
    assert seen == [("block", "relu", 1), ("block", "add", 1)]


def test_maps_and_numbers_are_reported():
    class Mixed(nn.Module):
        def forward(self, x):
            x = torch.flatten(F.relu(x), 1)
            return F.relu(x).view(1, 3, 64).sum(), (x > 0).view(1, 3, 8, 8)

    net = Mixed()
    assert calls(net, [("", net)], torch.rand(1, 3, 8, 8)) == [("", "relu", 1), ("", "flatten", 1), ("", "relu", 2)]


def test_nothing_stays():
    net = Loop()
    with pytest.raises(RuntimeError), CallWatch(net, [("", net)], lambda *_: None):
        net(torch.rand(1, 5, 8, 8))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.overrides._get_current_function_mode_stack() == []


def test_what_the_report_returns_is_handed_on():
    class Root(nn.Module):
        def forward(self, x):
            return F.relu(x) * 1

    net = Root()
    with CallWatch(net, [("", net)], lambda path, name, count, out: out + 5 if name == "relu" else None):
        assert torch.equal(net(-torch.ones(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 5.0))
