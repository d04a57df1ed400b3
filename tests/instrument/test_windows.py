"""On its window every unit answers and is explained as on the whole canvas, in float64, at every place of its map."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.images.frame import Framing
from convscope.instrument.address import parse_address
from convscope.instrument.target import Target
from convscope.instrument.trace import trace
from convscope.instrument.windows import windows
from convscope.methods import METHODS
from convscope.models.classifier import Classifier
from tests.nets import MEAN, STD, alexnet_like, photos, seeded, vgg_like, zfnet_like

LOCAL = [name for name, method in METHODS.items() if method.traits.local]


class Same(nn.Module):
    """Padded by the input's own size, as TensorFlow does: unevenly, and by what the stride leaves over."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 5, 5, stride=2)

    def forward(self, x):
        for layer in (self.a, self.b):
            pads = []
            for side, kernel, stride in zip(x.shape[:1:-1], layer.kernel_size, layer.stride, strict=True):
                over = max((-(-side // stride) - 1) * stride + kernel - side, 0)
                pads += [over // 2, over - over // 2]
            x = F.relu(layer(F.pad(x, pads)))
        return x.mean((2, 3))


class Branches(nn.Module):
    """Branches of unequal reach and a residual sum; dilation; a stride of 2 by 1; mirrored padding."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 5, stride=(2, 1), padding=2, padding_mode="reflect")
        self.wide, self.near = nn.Conv2d(4, 4, 3, padding=2, dilation=2), nn.Conv2d(4, 4, 1)
        self.down, self.skip = nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, 1, stride=2)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(torch.maximum(self.wide(x), self.near(x)) + x)
        return F.relu(self.down(x) + self.skip(x)).mean((2, 3))


NETS = {
    "alexnet-like": (alexnet_like(), (133, 141)),  # 11/4, overlapping pools: remainders everywhere
    "vgg-like": (vgg_like(), (46, 51)),
    "zfnet-like": (zfnet_like(), (120, 128)),  # pools that overhang
    "same padding": (Same(), (37, 50)),
    "branches": (Branches(), (41, 38)),
}


def classifier_of(net, canvas):
    """Without what only takes its own size; the maps are the same."""
    if isinstance(net, nn.Sequential):
        net = net[: next(i for i, module in enumerate(net) if isinstance(module, nn.Flatten))]
        net = nn.Sequential(net, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(seeded(net), mean=MEAN, std=STD, framing=Framing(canvas, min(canvas)))


@pytest.mark.parametrize("name", NETS)
def test_a_unit_on_its_window_is_that_of_the_canvas(name):
    net, canvas = NETS[name]
    classifier, image = classifier_of(net, canvas), photos(height=canvas[0], width=canvas[1])
    taken = trace(classifier.network, image, through=classifier)
    found = {}
    for event in taken.events:
        if event.value is None or not (windowed := windows(taken, event.value)):
            continue
        if event.kind == "pad":  # what is before a stride that it is made for; whoever projects compares scores too
            continue
        found[event.address.key] = windowed
        _, units, rows, cols = event.value.shape
        places = sorted({(r, c) for r in (*range(0, rows, 3), rows - 1) for c in (0, 1, cols // 2, cols - 2, cols - 1)})
        steps = windowed.rows.step, windowed.cols.step
        at = [windowed.at(*place) for place in places]
        assert all(one.top % steps[0] == one.left % steps[1] == 0 for one in at)
        cut = torch.cat([image[:, :, o.top : o.top + windowed.size[0], o.left : o.left + windowed.size[1]] for o in at])
        own = tuple(i % units for i in range(len(places)))
        layer = parse_address(event.address.key)
        for method in LOCAL if event is taken.events[-1] or "relu" in event.kind.lower() else ["guided"]:
            run = METHODS[method]().run
            small = run(classifier, cut, Target(layer, own, positions=tuple((o.row, o.col) for o in at)))
            whole = run(classifier, image.expand(len(places), -1, -1, -1), Target(layer, own, positions=tuple(places)))
            torch.testing.assert_close(small.scores, whole.scores, rtol=1e-12, atol=1e-12)
            assert small.labels == tuple(f"{layer}:{u}@{o.row},{o.col}" for u, o in zip(own, at, strict=True))
            for raw, part, one, place in zip(whole.raw, small.raw, at, places, strict=True):
                placed = torch.zeros_like(raw)
                placed[:, one.top : one.top + cut.shape[2], one.left : one.left + cut.shape[3]] = part
                torch.testing.assert_close(placed, raw, rtol=1e-12, atol=1e-12)
                top, left, bottom, right = windowed.field(*place)
                placed[:, max(top, 0) : bottom, max(left, 0) : right] = 0
                assert not placed.any(), "nothing outside of the field"
    assert found, "no layer has a window"


def test_what_has_no_window():
    class Upsampled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.gate = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            x = self.a(x)
            y = self.b(F.interpolate(x, scale_factor=2))
            return self.gate(y * y.mean((2, 3), keepdim=True)).mean((2, 3))

    classifier = Classifier(seeded(Upsampled()))
    image = photos(height=40, width=40)
    taken = trace(classifier.network, image, through=classifier)
    assert windows(taken, taken.event("a").value).size == (3, 3)
    assert windows(taken, taken.event("b").value) is None, "neighbours see fields of different sizes"
    assert windows(taken, taken.event("gate").value) is None, "the whole input"
    assert windows(taken, taken.output) is None, "numbers"
    small = trace(classifier.network, photos(height=6, width=6), through=classifier)
    assert windows(small, small.event("a").value).size == (3, 3)
