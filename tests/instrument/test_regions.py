"""Incremental inference against full passes, one variant at a time, in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.instrument.address import parse_address
from convscope.instrument.boxes import Box
from convscope.instrument.perturb import Watched
from convscope.instrument.record import record
from convscope.instrument.regions import Regions, patched, patched_readings, patched_scores, regions_for
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target, outputs_of
from convscope.instrument.trace import trace
from convscope.models.classifier import Classifier


def conv(inputs, outputs, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **options})


def head(width):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 5))


class Residual(nn.Module):
    """Skip connections of unequal reach, so that the boxes of the summands differ; in-place sum and ReLU."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = conv(3, 6), conv(6, 6), conv(6, 6, 5)
        self.norm = nn.BatchNorm2d(6)
        self.down, self.skip, self.head = conv(6, 8, stride=2), conv(6, 8, 1, stride=2, padding=0), head(8)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)), inplace=True)
        y = self.b(F.relu(self.a(x)))
        y += x
        y = F.relu(y, inplace=True)
        return self.head(F.relu(self.down(y) + self.skip(y)))


class Concat(nn.Module):
    """Branches of several kernels side by side, as in an inception block, and a branch that is only pooled."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = conv(3, 4, 1), conv(3, 4), conv(3, 4, 3, dilation=2, padding=2), head(15)

    def forward(self, x):
        pooled = F.max_pool2d(x, 3, 1, 1)
        return self.head(F.max_pool2d(torch.cat([self.a(x), self.b(x), F.relu(self.c(x)), pooled], 1), 2))


class Gated(nn.Module):
    """Squeeze and excite: one global gate early on."""

    def __init__(self):
        super().__init__()
        self.a, self.gate, self.b, self.head = conv(3, 6), nn.Conv2d(6, 6, 1), conv(6, 6, groups=3), head(6)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.head(F.relu(self.b(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())))


class SamePad(nn.Module):
    """Asymmetric padding by a function, ReLU6, and a map that is scaled by a constant plane."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 6, stride=2, padding=0), conv(6, 6, padding=0), head(6)
        self.register_buffer("plane", torch.linspace(0, 1, 16).view(1, 1, 16, 1).repeat(1, 1, 1, 18))

    def forward(self, x):
        x = F.relu6(self.a(F.pad(x, (0, 1, 0, 1))) * 4)
        return self.head(F.relu6(self.b(F.pad(x * self.plane, (1, 1, 1, 1)))))


NETS = {
    "vgg": lambda: nn.Sequential(
        conv(3, 6), nn.ReLU(True), nn.MaxPool2d(2), conv(6, 8), nn.ReLU(True), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(8 * 8 * 9, 7), nn.ReLU(True), nn.Dropout(), nn.Linear(7, 5),
    ),
    "alexnet": lambda: nn.Sequential(
        conv(3, 6, 5, stride=2), nn.ReLU(), nn.LocalResponseNorm(5), nn.MaxPool2d(3, 2, ceil_mode=True), conv(6, 8),
        head(8),
    ),
    "average": lambda: nn.Sequential(
        conv(3, 6), nn.AvgPool2d(3, 2, 1), nn.ReLU(), conv(6, 6), nn.AvgPool2d(2, ceil_mode=True), conv(6, 8), head(8)
    ),
    "borders": lambda: nn.Sequential(
        conv(3, 6, padding_mode="reflect"), nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.Upsample(scale_factor=2),
        nn.ConvTranspose2d(6, 6, 2, stride=2), nn.SiLU(), conv(6, 6, 7, stride=3), head(6)
    ),
    "residual": Residual,
    "concat": Concat,
    "gated": Gated,
    "same-pad": SamePad,
}  # fmt: skip
SIZE = (32, 36)
PLACES = [(0, 0), (28, 32), (0, 32), (28, 0), (13, 7), (14, 8), (5, 19), (21, 1)]


def classifier(build):
    torch.manual_seed(0)
    network = build().double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.weight)
    return Classifier(network.eval(), mean=[0.4], std=[0.3])


def case(count=8):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 3, *SIZE, generator=generator, dtype=torch.float64)
    return image, torch.rand(count, 3, 4, 4, generator=generator, dtype=torch.float64)


CLASS = (Target(index=(0,)),)


def tried(net, image, patches, places=PLACES, targets=CLASS):
    """Incremental inference, if it proves itself on these patches."""
    start = trace(net.network, image, through=net).input

    def full(rows):
        with undisturbed(net, grad=False):
            return outputs_of(targets, net, patched(image, patches[rows], places[rows]))

    def change(rows):
        return Box(patches[rows], places[rows])

    return regions_for(net, image, targets, len(patches), start, change, full)


@pytest.mark.parametrize("name", NETS)
def test_equal_to_full_passes(name):
    net = classifier(NETS[name])
    image, patches = case()
    regions = tried(net, image, patches)
    assert regions is not None, "no incremental inference for a network that allows it"
    with undisturbed(net, grad=False):
        (found,) = regions.outputs(regions.taken.input, Box(patches, PLACES), len(PLACES))
        wanted = torch.cat([net(patched(image, p[None], [at])) for p, at in zip(patches, PLACES, strict=True)])
        clean = net(image)
    assert torch.allclose(found, wanted, rtol=1e-11, atol=1e-12)
    assert ((wanted - clean).abs().amax(1) > 1e-9).all(), "a patch that changes nothing tests nothing"


@pytest.mark.parametrize("name", ["vgg", "residual", "concat"])
def test_early_layers_are_computed_in_boxes(name):
    """The point of it: the first convolution's output must be a box, not a whole map."""
    net = classifier(NETS[name])
    image, patches = case(2)
    regions = tried(net, image, patches)
    boxes = []
    original = regions._local
    regions._local = lambda op, changed: boxes.append((op.name, original(op, changed))) or boxes[-1][1]
    with undisturbed(net, grad=False):
        regions.outputs(regions.taken.input, Box(patches, PLACES[:2]), 2)
    first = next(box for kind, box in boxes if kind == "convolution")
    assert isinstance(first, Box)
    assert first.size[0] <= 10


def test_units_and_neurons_of_a_layer():
    net = classifier(Residual)
    image, patches = case()
    for target in (Target(parse_address("down"), (3,)), Target(parse_address("/relu#2"), (5,), position=(14, 8))):
        scores = patched_scores(net, image, target, PLACES, patches.__getitem__, budget=64, label="test", chunk=3)
        with undisturbed(net, grad=False):
            whole = patched(image, patches, PLACES)
            wanted = target.repeat(len(PLACES)).score(net, whole)[0]
        assert torch.allclose(scores, wanted, rtol=1e-11, atol=1e-12)


def written_over():
    """The layer that is asked for is written into by the next one."""
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))


@pytest.mark.parametrize(
    ("build", "layers"), [(written_over, ["0", "3", "5"]), (Residual, ["down", "/relu#2"]), (written_over, ["7"])]
)
def test_several_readings_in_one_pass(build, layers):
    """Of layers on the way and of the logits: as each by itself, and as full passes."""
    net = classifier(build)
    image, patches = case()
    targets = [*(Target(parse_address(layer), (1,)) for layer in layers), Target(index=(2,))]
    assert tried(net, image, patches, targets=targets) is not None, "there is nothing to test"
    wanted = [Watched(target, lambda found, _: found.flatten(1)) for target in targets]
    found = patched_readings(net, image, wanted, PLACES, patches.__getitem__, budget=64, label="test", chunk=3)
    whole = patched(image, patches, PLACES)
    with undisturbed(net, grad=False):
        for one, target in zip(found, targets, strict=True):
            assert torch.allclose(one, target.outputs(net, whole).flatten(1), rtol=1e-11, atol=1e-12)
    passes = []
    with net.network.register_forward_hook(lambda *_: passes.append(1)):
        patched_readings(net, image, wanted, PLACES, patches.__getitem__, budget=64, label="test", chunk=2)
    assert len(passes) <= 2, "those that the incremental pass is tried against"
    alone = patched_scores(net, image, targets[0], PLACES, patches.__getitem__, budget=64, label="test")
    together = patched_readings(
        net, image, [Watched(one) for one in targets], PLACES, patches.__getitem__, budget=64, label="test"
    )
    assert torch.allclose(together[0], alone, rtol=1e-11, atol=1e-12)


def test_what_is_changed_may_itself_be_read():
    """As the maps are of which Ablation-CAM takes out some, where a unit of the same layer is explained."""
    net = classifier(written_over)
    image, _ = case()
    taken = trace(net.network, image, through=net)
    start = taken.event("0").value
    maps = torch.rand(3, *start.shape[1:], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    targets = [Target(parse_address("0"), (1,)), Target(index=(2,))]

    def full(rows):
        with undisturbed(net, grad=False), record(net.network, ["0"], replace=lambda _: maps[rows]):
            return outputs_of(targets, net, image.expand(rows.stop - rows.start, -1, -1, -1))

    regions = regions_for(net, image, targets, 3, start, maps.__getitem__, full)
    assert regions is not None
    with undisturbed(net, grad=False):
        found = regions.outputs(start, maps.clone(), 3)
    for one, other in zip(found, full(slice(0, 3)), strict=True):
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-12)


def test_each_reading_has_to_prove_itself(monkeypatch):
    """One that would be wrong is not hidden behind another that is much larger and right."""
    net = classifier(written_over)
    with torch.no_grad():
        net.network[0].weight.mul_(1e9)
        net.network[3].weight.mul_(1e-9)
    image, patches = case()
    targets = [Target(parse_address("0"), (1,)), Target(index=(2,))]
    assert tried(net, image, patches, targets=targets) is not None
    original = Regions.outputs

    def wrong(self, *args):
        maps, logits = original(self, *args)
        return [maps, logits + 0.1 * (logits - logits.mean())] if len(self.goals) == 2 else [maps]

    monkeypatch.setattr(Regions, "outputs", wrong)
    assert tried(net, image, patches, targets=targets) is None


class Branching(nn.Module):
    """Decides in Python by what it sees: a trace of one image is not its program."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = conv(3, 6), conv(3, 6), head(6)

    def forward(self, x):
        return self.head(self.a(x) if float(x[:, :, :4, :4].mean()) > 0 else self.b(x))


class Noisy(nn.Module):
    """Dropout left on by mistake."""

    def __init__(self):
        super().__init__()
        self.a, self.head = conv(3, 6), head(6)

    def forward(self, x):
        return self.head(F.dropout(self.a(x), 0.5, training=True))


class WritesIntoViews(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.head = conv(3, 6), head(6)

    def forward(self, x):
        x = self.a(x)
        x[:, :3].relu_()
        return self.head(x)


class InstanceNormed(nn.Module):
    """Statistics of each image, which PyTorch takes of all the batch's at once, in the trace's shape."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(3, 6), nn.InstanceNorm2d(6), conv(6, 6)
        self.head = nn.Sequential(nn.AdaptiveMaxPool2d(4), nn.Flatten(), nn.Linear(96, 5))

    def forward(self, x):
        return self.head(self.b(F.relu(self.norm(self.a(x)))))


class Unpooled(nn.Module):
    """Switches of a pool that are used again."""

    def __init__(self):
        super().__init__()
        self.a, self.pool, self.unpool = conv(3, 6), nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
        self.b, self.head = conv(6, 6), nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(6, 5))

    def forward(self, x):
        x, switches = self.pool(F.relu(self.a(x)))
        return self.head(F.relu(self.b(self.unpool(x, switches))))


@pytest.mark.parametrize("build", [InstanceNormed, Unpooled, Residual])
def test_variants_that_are_the_clean_image_prove_nothing(build):
    """Squares on a border of their own colour come first, as with a product photo on white."""
    net = classifier(build)
    image = torch.ones(1, 3, 32, 32, dtype=torch.float64)
    image[..., 10:22, 10:22] = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    places = [(row, col) for row in range(0, 29, 4) for col in range(0, 29, 4)]
    patches = torch.ones(len(places), 3, 4, 4, dtype=torch.float64)
    options = {"budget": 64, "label": "test"}
    scores = patched_scores(net, image, Target(index=(2,)), places, lambda rows: patches[rows], **options)
    with undisturbed(net, grad=False):
        wanted = torch.stack([net(patched(image, p[None], [at]))[0, 2] for p, at in zip(patches, places, strict=True)])
    assert torch.allclose(scores, wanted, rtol=1e-10, atol=1e-12)
    assert float(wanted.max() - wanted.min()) > 1e-3


def test_nothing_is_proven_where_nothing_changes():
    net = classifier(Residual)
    image = torch.ones(1, 3, *SIZE, dtype=torch.float64)
    assert tried(net, image, torch.ones(8, 3, 4, 4, dtype=torch.float64)) is None


@pytest.mark.parametrize("wrap", [nn.utils.parametrizations.weight_norm, lambda layer: layer])
def test_weights_that_change_between_two_explanations(wrap):
    """What a network computes of its weights stands in a trace as it was."""
    net = classifier(lambda: nn.Sequential(conv(3, 6), nn.ReLU(), wrap(conv(6, 6)), nn.ReLU(), head(6)))
    image, patches = case()
    for _ in range(3):
        scores = patched_scores(net, image, Target(index=(1,)), PLACES, patches.__getitem__, budget=64, label="test")
        with undisturbed(net, grad=False):
            wanted = net(patched(image, patches, PLACES))[:, 1]
        assert torch.allclose(scores, wanted, rtol=1e-11)
        step = torch.optim.SGD(net.parameters(), lr=1e-3)
        net(image).logsumexp(1).sum().backward()
        step.step()


@pytest.mark.parametrize("build", [Branching, Noisy, WritesIntoViews, InstanceNormed])
def test_refused_where_it_would_not_be_exact(build):
    net = classifier(build)
    image, patches = case()
    image = image * 0.2 + 0.7  # the clean image takes one branch
    patches = patches * 0  # the first patch makes it take the other
    assert tried(net, image, patches) is None


@pytest.mark.parametrize("build", [Branching, WritesIntoViews])
def test_scores_are_right_all_the_same(build):
    net = classifier(build)
    image, patches = case()
    image, patches = image * 0.2 + 0.7, patches * 0
    target = Target(index=(2,))
    scores = patched_scores(net, image, target, PLACES, lambda rows: patches[rows], budget=64, label="test", chunk=1)
    with undisturbed(net, grad=False):
        wanted = [net(patched(image, p[None], [at]))[0, 2] for p, at in zip(patches, PLACES, strict=True)]
    assert torch.allclose(scores, torch.stack(wanted), rtol=1e-11)


def test_the_clean_image_and_the_model_are_left_alone():
    net = classifier(Residual)
    image, patches = case()
    before = image.clone(), {key: value.clone() for key, value in net.state_dict().items()}
    patched_scores(net, image, Target(index=(0,)), PLACES, lambda rows: patches[rows], budget=64, label="test")
    assert torch.equal(image, before[0])
    assert all(torch.equal(value, before[1][key]) for key, value in net.state_dict().items())
