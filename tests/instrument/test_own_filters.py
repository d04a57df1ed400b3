"""Own filters: what a whole convolution gives a unit, and where they must not be had."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from convscope.instrument.own_filters import own_filters, takes
from convscope.instrument.record import record
from convscope.models.classifier import Classifier
from convscope.optvis.objectives import channel, diversity, neuron
from convscope.optvis.recipes import FOURIER
from convscope.optvis.render import render
from tests.nets import seeded

FORMS = {
    "plain": {"kernel_size": 3},
    "padded": {"kernel_size": 3, "padding": 1},
    "even": {"kernel_size": (2, 4), "padding": (1, 2)},
    "steps": {"kernel_size": 3, "stride": 2, "padding": 1},
    "uneven steps": {"kernel_size": (3, 2), "stride": (1, 3), "padding": (0, 1)},
    "wide": {"kernel_size": 3, "dilation": (2, 3), "padding": 2},
    "wide steps": {"kernel_size": 3, "dilation": 2, "stride": 2, "padding": 3},
    "point": {"kernel_size": 1},
    "groups": {"kernel_size": 3, "groups": 3, "padding": 1},
    "depthwise": {"kernel_size": 3, "groups": 6, "padding": 1},
    "no bias": {"kernel_size": 3, "bias": False},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
}
UNITS = [71, 0, 5, 5, 40]


def convolution_of(form):
    return seeded(nn.Conv2d(6, 72, **FORMS[form]), dtype=torch.float64)


def both(convolution, images, units):
    """Maps and gradients to the images: of the whole layer, and with own filters."""
    found = []
    for own in (None, own_filters(convolution, units)):
        leaf = images.clone(memory_format=torch.preserve_format).requires_grad_()
        if own is None:
            maps = convolution(leaf)[torch.arange(len(units)), units]
        else:
            with own:
                maps = convolution(leaf)[:, 0]
            assert own.done
        weights = torch.linspace(-1, 2, maps[0].numel(), dtype=maps.dtype).view_as(maps[0])
        found += [maps.detach(), *torch.autograd.grad((maps * weights).sum(), leaf)]
    return found


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("form", FORMS)
def test_maps_and_gradients_are_those_of_the_whole_layer(form, layout):
    convolution = convolution_of(form)
    assert takes(convolution)
    images = torch.randn(5, 6, 11, 9, dtype=torch.float64).contiguous(memory_format=layout)
    whole, down, maps, own_down = both(convolution, images, UNITS)
    assert maps.shape == whole.shape
    assert torch.allclose(maps, whole, rtol=1e-12, atol=1e-12)
    assert torch.allclose(own_down, down, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_batch_gives_what_its_samples_give_alone_to_the_bit(form, layout, dtype):
    convolution = convolution_of(form).to(dtype)
    images = torch.randn(5, 6, 32, 32, dtype=dtype).contiguous(memory_format=layout)
    *_, maps, down = both(convolution, images, UNITS)
    for i, unit in enumerate(UNITS):
        *_, map_, own_down = both(convolution, images[i : i + 1], [unit])
        assert torch.equal(map_[0], maps[i])
        assert torch.equal(own_down[0], down[i])


class Standardised(nn.Conv2d):
    def forward(self, x):
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) * 3
        return self._conv_forward(x, weight, self.bias)


def test_what_is_not_plain_is_not_taken():
    hooked = nn.Conv2d(3, 16, 3)
    hooked.register_forward_hook(lambda *_: None)
    for module in (
        Standardised(3, 16, 3),
        parametrizations.weight_norm(nn.Conv2d(3, 16, 3)),
        hooked,
        nn.Conv2d(3, 16, 3, padding="same"),
        nn.Conv2d(3, 16, 3, dtype=torch.bfloat16),
        nn.Conv2d(3, 64, 11, stride=4),  # as many products as taps: more than there are maps
        nn.ConvTranspose2d(3, 16, 3),
        nn.ReLU(),
    ):
        assert not takes(module), module


class Twice(nn.Module):
    """One convolution that runs twice, and another with its weights."""

    def __init__(self):
        super().__init__()
        self.stem, self.tied, self.conv = (nn.Conv2d(c, 12, 3, padding=1) for c in (3, 12, 12))
        self.tied.weight = self.conv.weight
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        x = self.conv(self.tied(self.stem(x).relu()).relu())
        return self.head(self.conv(x.relu()).mean((2, 3)))


@pytest.mark.parametrize("layer", ["stem", "tied", "conv", "conv#2"])
def test_patterns_of_units_are_of_the_layer_that_was_named(layer):
    net = seeded(Twice(), dtype=torch.float64)
    units = [3, 7, 11]
    found = render(Classifier(net), channel(layer, units), FOURIER.with_steps(1).how, (3, 20, 20), range(3))
    with record(net, [layer]) as kept:
        net(found.images)
    wanted = kept[layer].mean((2, 3))[torch.arange(3), units]
    assert torch.allclose(found.after, wanted, rtol=1e-12)
    assert not net.conv._forward_pre_hooks


def test_objectives_that_read_more_of_the_layer_have_all_of_it():
    net = seeded(Twice(), dtype=torch.float64)
    how = FOURIER.with_steps(4).how
    shape, one = (3, 20, 20), neuron("conv", [3, 7, 11], 2, 3)
    for first, second in itertools.pairwise(
        [one, one + 0 * channel("conv", 0), one + 0 * diversity("conv", 3), one.repeated(1)]
    ):
        kinds = [render(Classifier(net), objective, how, shape, range(3)) for objective in (first, second)]
        assert torch.allclose(kinds[0].images, kinds[1].images, rtol=1e-9, atol=1e-9)
    twice = render(Classifier(net), one.repeated(2), how, shape, range(6))
    assert torch.allclose(twice.before[::2], render(Classifier(net), one, how, shape, range(0, 6, 2)).before)


def test_nothing_is_left_behind_by_an_error():
    convolution = convolution_of("padded")
    with pytest.raises(RuntimeError), own_filters(convolution, [1]):
        convolution(torch.rand(1, 5, 8, 8, dtype=torch.float64))
    assert not convolution._forward_pre_hooks
    assert convolution(torch.rand(1, 6, 8, 8, dtype=torch.float64)).shape[1] == 72
