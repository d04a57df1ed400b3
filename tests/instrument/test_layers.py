"""Aliases name the right map on real networks and on hand-written ones; the layer table says what is there."""

from functools import partial

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from convscope.errors import UsageError
from convscope.instrument.layers import layer_table, resolve, resolve_one
from convscope.instrument.record import record
from convscope.instrument.trace import trace
from convscope.models.classifier import Classifier
from convscope.models.zoo import ARCHITECTURES
from tests.instrument import nets
from tests.instrument.nets import conv
from tests.nets import seeded

IMAGE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def built(factory):
    """A network with cheap weights: a signal where there are filters, nothing in the big linear layers."""
    with torch.device("meta"):
        net = factory()
    net = net.to_empty(device="cpu").eval()
    for name, tensor in net.state_dict().items():
        if tensor.ndim == 4:
            nn.init.kaiming_normal_(tensor, generator=torch.Generator().manual_seed(0))
        else:
            tensor.fill_(1 if "var" in name or (tensor.ndim == 1 and "weight" in name) else 0)
    return net


def input_of(module, net, image):
    """What a module is given."""
    seen = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    with torch.no_grad():
        net(image)
    handle.remove()
    return seen[-1]


# Network, side of the image, and its last maps: what is pooled to one value or by the last pool before flattening.
models = torchvision.models
REAL = {
    "vgg16": (models.vgg16, 64, lambda net: net.features[30]),
    "alexnet": (models.alexnet, 96, lambda net: net.features[12]),
    "resnet18": (models.resnet18, 64, lambda net: net.avgpool),
    "squeezenet": (models.squeezenet1_1, 64, lambda net: net.classifier[3]),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 64, lambda net: net.avgpool),
    "googlenet": (partial(models.googlenet, init_weights=False), 64, lambda net: net.avgpool),
    "inception_v3": (partial(models.inception_v3, init_weights=False), 128, lambda net: net.avgpool),
    "efficientnet_b0": (partial(timm.create_model, "efficientnet_b0"), 64, lambda net: net.global_pool),
    "efficientnet_lite0": (partial(timm.create_model, "tf_efficientnet_lite0"), 64, lambda net: net.global_pool),
    "convnext": (partial(timm.create_model, "convnext_atto"), 64, lambda net: net.head.global_pool),
    "shufflenet": (models.shufflenet_v2_x0_5, 64, None),
    "densenet121": (models.densenet121, 64, None),
}
BY_HAND = {
    "shufflenet": lambda net, x: net.conv5(net.stage4(net.stage3(net.stage2(net.maxpool(net.conv1(x)))))),
    "densenet121": lambda net, x: F.relu(net.features(x)),
}


@pytest.mark.parametrize("name", REAL)
def test_last_conv_is_what_is_pooled_and_gradients_pass_through_it(name):
    factory, side, pool = REAL[name]
    net = built(factory)
    image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = BY_HAND[name](net, image) if pool is None else input_of(pool(net), net, image)
    assert wanted.any()
    layer = resolve_one(net, "@last_conv", image)
    with record(net, [layer], grad=True) as kept:
        output = net(image)
    assert torch.equal(kept[layer], wanted)
    assert torch.autograd.grad(output.sum(), kept[layer], allow_unused=True)[0] is not None
    assert resolve_one(net, "@stage:-1", image) == layer == resolve(net, "@stages", image)[-1]


STAGES = {  # at the sizes they are made for
    "vgg16": (224, ["features.3", "features.8", "features.15", "features.22", "features.29"]),
    "resnet18": (224, ["relu", "layer1", "layer2", "layer3", "layer4"]),
    "densenet121": (
        224,
        ["features.relu0", *(f"features.transition{i}.conv" for i in (1, 2, 3)), "/relu"],
    ),
    "squeezenet": (224, ["features.1", "features.4", "features.7", "classifier.2"]),
    "alexnet": (224, ["features.1", "features.4", "features.11"]),
    "googlenet": (224, ["conv1", "conv3", "inception3b", "inception4e", "inception5b"]),
    "efficientnet_b0": (224, [*(f"blocks.{i}.0.bn1" for i in (1, 2, 3, 5)), "bn2"]),
    "convnext": (224, ["stages.0", "stages.1", "stages.2", "norm_pre"]),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages(name):
    side, wanted = STAGES[name]
    with torch.device("meta"):
        net = REAL[name][0]()
    image = torch.empty(1, 3, side, side, device="meta")
    assert [address.key for address in resolve(net, "@stages", image)] == wanted
    assert resolve_one(net, "@stage:0", image).key == wanted[0]
    sizes = [trace(net, image).event(key).value.shape[2] for key in wanted]
    assert sizes == sorted(set(sizes), reverse=True)


# --- hand-written networks: the map by hand, and its name


def joined(net, x):
    low = F.relu(net.low(x))
    high = F.interpolate(F.relu(net.high(low)), scale_factor=2)
    return F.relu(net.mix(torch.cat([low, high], 1)))


def looped(net, x):
    x = net.stem(x)
    for block in net.blocks:
        x = block(x)
    for layer in net.convs:
        x = F.relu(layer(x))
    return x


def gated(net, x):
    x = F.relu(net.conv(x))
    return x * torch.sigmoid(net.squeeze(F.adaptive_avg_pool2d(x, 1)))


def summed(net, x):
    x = F.relu(net.conv1(x))
    return x + net.conv2(x)


SMALL = {
    nets.Student: ("/relu#2", lambda net, x: F.relu(net.conv2(F.max_pool2d(F.relu(net.conv1(x)), 2)))),
    nets.RootSum: ("/add", summed),
    nets.NormThenMean: ("relu", lambda net, x: F.relu(net.norm(net.conv(x)))),
    nets.InPlaceEnd: ("/relu", lambda net, x: F.relu(net.norm(net.conv(x)))),
    nets.SideBranch: ("features", lambda net, x: net.features(x)),
    nets.UpAndJoin: ("/relu#3", joined),
    nets.OnePixel: ("conv2", lambda net, x: net.conv2(F.relu(net.conv1(x)))),
    nets.Loop: ("/relu#2", looped),
    nets.DeadCode: ("/mul", gated),
    nets.Reused: ("relu#3", lambda net, x: F.relu(net.conv(F.relu(net.conv(F.relu(net.stem(x))))))),
}


@pytest.mark.parametrize("build", SMALL)
def test_last_conv_of_hand_written_networks(build):
    net = seeded(build())
    name, by_hand = SMALL[build]
    layer = resolve_one(net, "@last_conv", IMAGE)
    assert layer.key == name
    with record(net, [layer], grad=True) as kept:
        score = net(IMAGE)[:, 0].sum()
    with torch.no_grad():
        assert torch.allclose(kept[layer], by_hand(net, IMAGE), rtol=1e-12)
    assert torch.autograd.grad(score, kept[layer])[0].any()


def test_maps_of_one_pixel_are_no_stage_beside_others():
    keys = [address.key for address in resolve(seeded(nets.DeadCode()), "@stages", IMAGE)]
    assert keys == ["/mul"]
    assert [address.key for address in resolve(seeded(nets.OnePixel()), "@stages", IMAGE)] == ["conv2"]


def test_a_branch_beside_the_logits_is_no_stage():
    """Its decoder works at the image's size, where the first convolution's map leads to the logits."""
    found = resolve(seeded(nets.SideBranch()), "@stages", IMAGE)
    assert [address.key for address in found] == [
        "features.1",
        "features",
    ]


def test_no_maps():
    net = nn.Sequential(nn.Flatten(), nn.Linear(768, 5)).double()
    with pytest.raises(UsageError, match="@last_conv: no spatial maps"):
        resolve(net, "@last_conv", IMAGE)


# --- what can be asked for


def test_units_stay_with_the_alias():
    net = seeded(nets.Student())
    assert str(resolve_one(net, "@last_conv:3@1,2", IMAGE)) == "/relu#2:3@1,2"
    assert [str(a) for a in resolve(net, "@stages:1", IMAGE)] == ["/relu:1", "/relu#2:1"]


def test_globs_select_maps():
    net = seeded(nets.Loop())
    assert [a.key for a in resolve(net, "blocks.*.conv", IMAGE)] == ["blocks.0.conv", "blocks.1.conv"]
    assert [a.key for a in resolve(net, "/*", IMAGE)] == ["/relu", "/relu#2"]
    assert "fc" not in [a.key for a in resolve(net, "*", IMAGE)]
    reused = seeded(nets.Reused())
    assert [a.key for a in resolve(reused, "*#2", IMAGE)] == ["relu#2", "conv#2"]
    assert [a.key for a in resolve(reused, "relu*", IMAGE)] == ["relu", "relu#2", "relu#3"]


def test_layers_named_outright():
    net = seeded(nets.Reused())
    for key in ("conv#2", "alias", "fc"):
        assert resolve_one(net, key, IMAGE).key == key
    assert str(resolve_one(seeded(nets.Student()), "/relu#2:4", IMAGE)) == "/relu#2:4"


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("blocks.*.conv", "selects 2 layers, one is needed: blocks.0.conv, blocks.1.conv"),
        ("@stages#2", "an alias has no calls"),
        ("@last_conv#2", "an alias has no calls"),
        ("@stage:7", "has 1 stages, 0 to 0"),
        ("@stage:-2", "has 1 stages, 0 to 0"),
        ("@lastconv", "unknown alias '@lastconv'; nearest: @last_conv"),
        ("@logits", "@logits is the output"),
        ("blocs.1.conv", r"unknown layer 'blocs\.1\.conv'; nearest: blocks\.1\.conv"),
        ("/relu#3", "unknown function call '/relu#3'; nearest: /relu"),
        ("blocks.0/silu", "unknown function call"),
        ("block/relu", "unknown layer 'block'; nearest: blocks"),
        ("nothing*", "no layer matches"),
    ],
)
def test_what_cannot_be_meant(layer, message):
    with pytest.raises(UsageError, match=message):
        resolve_one(seeded(nets.Loop()), layer, IMAGE)


def test_through_a_classifier_paths_have_no_prefix():
    net = seeded(nets.Student())
    classifier = Classifier(net, mean=[0.5], std=[0.25])
    assert resolve_one(net, "@last_conv", IMAGE, through=classifier).key == "/relu#2"
    table = layer_table(net, IMAGE, through=classifier, functions=True)
    assert [row.address for row in table] == [
        "conv1",
        "/relu",
        "/max_pool2d",
        "conv2",
        "/relu#2",
        "/max_pool2d#2",
        "/flatten",
        "fc",
    ]


# --- the table

VGG16 = {  # layer: channels, side, receptive field, stride (Simonyan & Zisserman's D, by the arithmetic of kernels)
    "features.0": (64, 224, 3, 1),
    "features.3": (64, 224, 5, 1),
    "features.4": (64, 112, 6, 2),
    "features.7": (128, 112, 14, 2),
    "features.9": (128, 56, 16, 4),
    "features.14": (256, 56, 40, 4),
    "features.16": (256, 28, 44, 8),
    "features.21": (512, 28, 92, 8),
    "features.23": (512, 14, 100, 16),
    "features.28": (512, 14, 196, 16),
    "features.30": (512, 7, 212, 32),
}


def test_table_of_vgg16():
    with torch.device("meta"):
        net = models.vgg16()
    rows = {row.address: row for row in layer_table(net, torch.empty(1, 3, 224, 224, device="meta"))}
    for name, (channels, side, field, stride) in VGG16.items():
        row = rows[name]
        assert row.shape == (channels, side, side)
        assert (row.field.status, row.field.size, row.field.stride) == ("exact", (field, field), (stride, stride)), name
    assert list(rows)[:3] == ["features.0", "features.1", "features.2"]
    assert [rows[name].kind for name in ("features.0", "features.1", "features.4")] == ["Conv2d", "ReLU", "MaxPool2d"]
    leaves = {name for name, module in net.named_modules() if not list(module.children())}
    assert sum(row.parameters for name, row in rows.items() if name in leaves) == 138_357_544
    assert rows["features"].parameters + rows["classifier"].parameters == 138_357_544
    assert (rows["classifier.6"].shape, rows["classifier.6"].field) == ((1000,), None)
    assert rows["classifier.6"].parameters == 4_097_000


def test_table_of_zfnet():
    net = ARCHITECTURES["zfnet"].build().to("meta")
    rows = {row.address: row for row in layer_table(net, torch.empty(1, 3, 224, 224, device="meta"))}
    found = [(rows[f"features.conv{i}"].field.size[0], rows[f"features.conv{i}"].field.stride[0]) for i in range(1, 6)]
    assert found == [(7, 2), (27, 8), (75, 16), (107, 16), (139, 16)]


def test_table_of_a_network_with_reuse():
    rows = layer_table(seeded(nets.Reused()), IMAGE)
    assert [(row.address, row.parameters) for row in rows] == [
        ("stem", 112),
        ("relu", 0),
        ("conv", 148),
        ("relu#2", 0),
        ("conv#2", 0),
        ("relu#3", 0),
        ("fc", 30),
    ]
    assert [row.field.size[0] for row in rows if row.field] == [3, 3, 5, 5, 7, 7]


def test_table_leaves_out_what_did_not_run():
    assert "spare" not in [row.address for row in layer_table(seeded(nets.DeadCode()), IMAGE)]


def test_a_table_of_a_layer_that_gives_two_tensors():
    class Two(nn.Module):
        def forward(self, x):
            return x, x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.two = conv(3, 4), Two()

        def forward(self, x):
            return self.two(self.conv(x))[0]

    rows = {row.address: row for row in layer_table(Net().double(), IMAGE)}
    assert (rows["two"].shape, rows["two"].field) == (None, None)
    assert rows["conv"].shape == (4, 16, 16)
