"""The ends of a network: @first is the first filters' maps, @penultimate what the last weights are given."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.errors import UsageError
from convscope.instrument.layers import resolve, resolve_one
from convscope.instrument.record import record
from tests.instrument.test_layers import IMAGE, REAL, built, input_of
from tests.nets import seeded

FIRST = {  # the first filters' maps, normalised and activated
    "vgg16": "features.1",
    "resnet18": "relu",
    "densenet121": "features.relu0",
    "mobilenet_v3_small": "features.0",
    "efficientnet_b0": "bn1",
    "convnext": "stem.0",  # its norm works on maps that are turned
}


@pytest.mark.parametrize("name", FIRST)
def test_first(name):
    with torch.device("meta"):
        net = REAL[name][0]()
    assert resolve_one(net, "@first", torch.empty(1, 3, 64, 64, device="meta")).key == FIRST[name]


@pytest.mark.parametrize("name", REAL)
def test_penultimate_is_what_the_last_weights_are_given(name):
    factory, side, _ = REAL[name]
    net = built(factory)
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    weighted = [module for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    ran = []
    handles = [module.register_forward_hook(lambda module, *_: ran.append(module)) for module in weighted]
    with torch.no_grad():
        net(image)
    for handle in handles:
        handle.remove()
    wanted = input_of(ran[-1], net, image)
    with record(net, [layer := resolve_one(net, "@penultimate", image)]) as kept, torch.no_grad():
        net(image)
    assert torch.equal(kept[layer].flatten(1), wanted.flatten(1))


class Ends(nn.Module):
    """Two linear layers, and between them what ``how`` makes of the first one's numbers."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.one, self.same = nn.Conv2d(3, 4, 3), nn.Linear(4, 6), nn.Linear(6, 6)
        self.last, self.wide = nn.Linear(6, 5), nn.Linear(12, 5)
        self.drop, self.how = nn.Dropout(), how

    def forward(self, x):
        return self.how(self, self.one(F.relu(self.conv(x)).mean((2, 3))))


def functional(net, x):
    return net.last(F.relu(x))


def residual(net, x):
    return net.last(x + torch.tanh(net.same(x)))


def concatenated(net, x):
    return net.wide(torch.cat([net.same(x), x], 1))


def dropped(net, x):
    return net.last(net.drop(F.relu(x)))


def reshaped(net, x):
    return net.last(F.relu(x).view(-1, 2, 3).flatten(1))


def by_matrix(net, x):
    return torch.sigmoid(x) @ net.last.weight.T


@pytest.mark.parametrize(
    ("how", "name"),
    [
        (functional, "/relu#2"),
        (residual, "/add"),
        (concatenated, "/cat"),
        (dropped, "drop"),
        (reshaped, "/flatten"),
        (by_matrix, "/sigmoid"),
    ],
)
def test_penultimate_where_functions_make_it(how, name):
    net = seeded(Ends(how))
    layer = resolve_one(net, "@penultimate", IMAGE)
    assert layer.key == name
    given = []

    def look(module, args):
        given.append(args[0])

    net.last.register_forward_pre_hook(look)
    net.wide.register_forward_pre_hook(look)
    with record(net, [layer]) as kept, torch.no_grad():
        net(IMAGE)
    if given:
        assert torch.equal(kept[layer], given[0])


def twice(net, x):
    return net.last(F.relu(x)) + net.wide(torch.cat([x, x], 1))


def gate(net, x):
    return net.last(x) * torch.sigmoid(net.same(x)[:, :1])


def of_each_other(net, x):
    """Weights that were computed are none: those before them are two."""
    return torch.bmm(net.wide(torch.cat([x, x], 1))[:, :, None], net.same(x)[:, None])[:, :, 0]


def turned(net, x):
    return (net.last.weight @ F.relu(x.t())).t()


def doubled(net, x):
    return net.last(torch.cat([x, x.flip(1)])).view(2, -1, 5).mean(0)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (twice, "more than the last weights make the logits"),
        (gate, "more than the last weights make the logits"),
        (of_each_other, "more than the last weights make the logits"),
        (turned, "no module and no function call gives it"),
        (doubled, "no module and no function call gives it"),
    ],
)
def test_penultimate_is_refused_where_no_layer_is_that(how, said):
    with pytest.raises(UsageError, match=f"@penultimate: {said}"):
        resolve(seeded(Ends(how)), "@penultimate", IMAGE)


class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.last(F.relu(self.conv(x)).mean((2, 3)))


def test_penultimate_is_pooled_where_the_network_pools_by_itself():
    assert resolve_one(seeded(Pooled()), "@penultimate", IMAGE).key == "/mean"


def test_ends_that_no_layer_gives():
    class Through(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(768, 5)

        def forward(self, x):
            return self.last(x.flatten(1))

    with pytest.raises(UsageError, match="@first: the network has no convolution; name a layer"):
        resolve(seeded(Through()), "@first", IMAGE)
    assert resolve_one(seeded(Through()), "@penultimate", IMAGE).key == "/flatten"
    with pytest.raises(UsageError, match="@penultimate: no module and no function call gives it"):
        resolve(nn.Linear(16, 5).double(), "@penultimate", IMAGE)
