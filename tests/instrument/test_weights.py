"""The key of a network's weights: any change is another, and nothing else is."""

import copy

import pytest
import torch
from torch import nn

from convscope.instrument.weights import raw_bytes, weights_key
from tests.nets import seeded, vgg_like


def net():
    return seeded(vgg_like(), 2, torch.float32)


def test_the_same_weights_are_the_same_key():
    key = weights_key(net())
    assert len(key) == 32
    assert weights_key(net()) == key
    assert weights_key(copy.deepcopy(net())) == key
    assert weights_key(net().to(memory_format=torch.channels_last)) == key, "how they lie in memory is no part of it"
    frozen = net()
    frozen.requires_grad_(False)
    frozen.train()
    assert weights_key(frozen) == key


def test_any_change_is_another_key():
    keys = [weights_key(net())]
    for name, tensor in net().state_dict().items():
        changed = net()
        part = changed.state_dict()[name]
        part.view(-1)[-1] += 1 if not tensor.is_floating_point() else 1e-6
        keys.append(weights_key(changed))
    assert len(set(keys)) == len(keys)


def test_names_shapes_and_precision_are_in_it():
    weight = torch.arange(6.0)

    def key(name="weight", shape=(2, 3), dtype=torch.float32):
        module = nn.Module()
        module.register_buffer(name, weight.to(dtype).view(shape))
        return weights_key(module)

    keys = [key(), key("weights"), key(shape=(3, 2)), key(dtype=torch.float64), key(dtype=torch.bfloat16)]
    assert len(set(keys)) == 5


def test_signs_of_zero_and_nan_are_told_apart():
    keys = []
    for value in (0.0, -0.0, float("nan")):
        module = nn.Linear(1, 1)
        nn.init.constant_(module.weight, value)
        nn.init.zeros_(module.bias)
        keys.append(weights_key(module))
    assert len(set(keys)) == 3


def test_some_may_be_left_out():
    one, other = net(), net()
    with torch.no_grad():
        other[0].weight += 1
    assert weights_key(one) != weights_key(other)
    assert weights_key(one, [one[0].weight]) == weights_key(other, [other[0].weight])
    assert weights_key(one, [one[0].weight]) != weights_key(one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool])
def test_bytes_are_those_of_the_numbers_in_order(dtype):
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    assert len(raw_bytes(tensor)) == 6 * tensor.element_size()
    assert raw_bytes(tensor.T) == raw_bytes(tensor.T.contiguous()) != raw_bytes(tensor)
    assert raw_bytes(tensor[0, 0]) == bytes(tensor.element_size())
