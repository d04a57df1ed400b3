"""Which maps stand for a network's convolutions, and a photo's projections from them merged into one picture."""

import numpy as np
import pytest
import torch
from timm import create_model
from torch import nn

from convscope.errors import UsageError
from convscope.images.sheet import MARK
from convscope.instrument.record import record
from convscope.models.classifier import Classifier
from convscope.models.zoo.book_mnist import book_mnist
from convscope.models.zoo.mnist_convnet import mnist_convnet
from convscope.scope import Scope
from convscope.training.merged import Merged, convolution_maps, default_units, merged_projections, merged_sheet
from tests.nets import PreActivation, SideBySide, Skip, alexnet_like, classifier_of, photos, seeded, vgg_like


def layers_of(classifier, image):
    return [event.address.key for event in convolution_maps(classifier, image)]


# --- the map that a convolution leads to


@pytest.mark.parametrize(
    ("net", "size", "layers"),
    [
        pytest.param(alexnet_like, (69, 77), "1 4 7 9", id="ReLU after each"),
        pytest.param(vgg_like, (22, 27), "2 5 9 12", id="BatchNorm between"),
        pytest.param(Skip, (24, 30), "relu1 relu2 relu3 relu4", id="a residual sum between"),
        pytest.param(lambda: Skip("reused"), (24, 30), "relu1 relu1#2 relu1#3 relu1#4", id="one ReLU for all"),
        pytest.param(lambda: Skip("functional"), (24, 30), "/relu /relu#2 /relu#3 /relu#4", id="functions"),
        pytest.param(lambda: Skip("method in place"), (24, 30), "/relu /relu#2 /relu#3 /relu#4", id="in place"),
        pytest.param(PreActivation, (24, 30), "conv1 relu#2", id="used twice before its activation"),
        pytest.param(SideBySide, (24, 30), "relu relu#2 /add", id="two that meet"),
    ],
)
def test_it_is_after_norm_sum_and_activation(net, size, layers):
    classifier = classifier_of(net())
    assert layers_of(classifier, photos(1, 3, *size)) == layers.split()


def test_it_is_after_a_pool_where_the_activation_is():
    classifier = Classifier(book_mnist())
    assert layers_of(classifier, torch.rand(1, 1, 28, 28)) == ["features.relu1", "features.relu2"]
    plain = Classifier(nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.Conv2d(2, 3, 3), nn.Flatten()))
    assert layers_of(plain, torch.rand(1, 1, 9, 9)) == ["0", "2"]


def test_shortcuts_linear_ends_and_gates():
    resnet = Classifier(create_model("resnet18", num_classes=4))
    found = layers_of(resnet, torch.rand(1, 3, 64, 64))
    # Of 20 convolutions three are shortcuts, which lead where their block's second one does.
    assert found == ["act1", *(f"layer{i}.{j}.act{k}" for i in range(1, 5) for j in (0, 1) for k in (1, 2))]
    mobile = Classifier(create_model("mobilenetv3_small_050", num_classes=4))
    found = layers_of(mobile, torch.rand(1, 3, 64, 64))
    assert not any(".se" in layer for layer in found)
    assert found[-1] == "act2", "of one pixel, but no gate"
    assert "blocks.0.0.bn2" in found, "without an activation, and without the drop that hands it on"


def test_a_network_without_convolutions_says_so():
    with pytest.raises(UsageError, match="Sequential has no convolution"):
        convolution_maps(Classifier(nn.Sequential(nn.Flatten(), nn.Linear(12, 2))), torch.rand(1, 3, 2, 2))


# --- units where none are named


def test_default_units_are_drawn_once_from_each_convolution():
    classifier, image = classifier_of(vgg_like()), photos(1, 3, 22, 27)
    units = default_units(classifier, image, per_layer=3)
    assert [unit.split(":")[0] for unit in units] == ["2", "5", "9", "12"]
    for unit, count in zip(units, (4, 4, 6, 6), strict=True):
        numbers = [int(number) for number in unit.split(":")[1].split(",")]
        assert len(numbers) == 3
        assert numbers == sorted(set(numbers))
        assert max(numbers) < count
    assert units == default_units(classifier, image, per_layer=3)
    assert units != default_units(classifier, image, per_layer=3, seed=1)
    assert default_units(classifier, image, per_layer=99)[0] == "2:0,1,2,3"


def test_default_units_of_a_deep_network_are_of_its_stages():
    classifier, image = Classifier(create_model("resnet18", num_classes=4)), torch.rand(1, 3, 64, 64)
    state = torch.random.get_rng_state()
    units = default_units(classifier, image)
    layers = ["act1", *(f"layer{i}.1.act2" for i in range(1, 5))]
    assert [unit.split(":")[0] for unit in units] == layers
    assert [unit.split(":")[0] for unit in default_units(classifier, image, layers=2)] == layers[-2:]
    assert torch.equal(state, torch.random.get_rng_state())
    with pytest.raises(UsageError, match="at least 1"):
        default_units(classifier, image, per_layer=0)


# --- the merged pictures


def by_hand(net, image, layer, strongest, method):
    """One projection at a time from Scope.explain, stretched and summed in numpy."""
    with record(net.classifier.network, [layer]) as kept, torch.no_grad():
        net.classifier(image)
    peaks = kept[layer][0].amax((1, 2))
    units = sorted(range(len(peaks)), key=lambda unit: -float(peaks[unit]))[:strongest]
    total = 0.0
    for unit in (unit for unit in units if kept[layer][0, unit].any()):
        raw = net.explain(image, method, target=f"{layer}:{unit}").raw[0].numpy()
        total = total + (raw - raw.min()) / (raw.max() - raw.min())
    total = 255 * (total - total.min()) / (total.max() - total.min())
    return total.transpose(1, 2, 0)


@pytest.mark.parametrize("method", ["deconvnet", "guided"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_sum_of_the_stretched_projections_stretched_again(method, channels):
    net = Scope(classifier_of(Skip("functional", channels), mean=0.5, std=0.25, channels=channels))
    image = photos(1, channels, 24, 30)
    merged = merged_projections(net.classifier, image, strongest=3, method=method)
    assert [one.layer for one in merged] == ["/relu", "/relu#2", "/relu#3", "/relu#4"]
    for one in merged:
        right = by_hand(net, image, one.layer, 3, method)
        assert one.picture.dtype == np.uint8
        assert one.picture.shape == ((24, 30) if channels == 1 else (24, 30, 3))
        assert np.abs(one.picture.reshape(right.shape) - right).max() <= 0.5 + 1e-3
        assert not one.dead


def test_more_units_than_one_pass_takes_and_layers_that_are_named():
    classifier = classifier_of(mnist_convnet(size=20), mean=0.5, std=0.25)
    net, image = Scope(classifier), photos(1, 1, 20, 20)
    (one,) = merged_projections(classifier, image, ["features.conv2"], strongest=20)
    assert np.abs(one.picture - by_hand(net, image, "features.conv2", 20, "deconvnet")[..., 0]).max() <= 0.5 + 1e-3
    assert [one.layer for one in merged_projections(classifier, image, ["features.relu*"], 1)] == [
        "features.relu1",
        "features.relu2",
        "features.relu3",
    ]


def test_dead_layers_are_marked():
    classifier, image = classifier_of(vgg_like()), photos(1, 3, 22, 27)
    classifier.network[8].bias.data.fill_(-1e6)  # BatchNorm before the third ReLU
    classifier.network[8].weight.data.fill_(0)
    merged = merged_projections(classifier, image)
    assert [one.dead for one in merged[:3]] == [False, False, True]
    assert not merged[2].picture.any()
    plain = np.array(merged_sheet([one._replace(dead=False) for one in merged], image))
    sheet = np.array(merged_sheet(merged, image, title="epoch 1"))
    assert (sheet == MARK).all(2).any()
    assert not (plain == MARK).all(2).any()


def test_a_sheet_has_the_photo_and_a_picture_a_layer():
    merged = [Merged(f"layer{i}", np.full((20, 30, 3), 40 * i + 40, np.uint8), False) for i in range(3)]
    image = torch.zeros(1, 3, 20, 30)
    image[:, 0] = 1
    sheet = np.array(merged_sheet(merged, image, columns=2))
    colours = {tuple(colour) for colour in sheet.reshape(-1, 3)}
    assert {(255, 0, 0), (40, 40, 40), (80, 80, 80), (120, 120, 120)} <= colours
    assert sheet.shape[0] > np.array(merged_sheet(merged, image, columns=4)).shape[0]


def test_a_map_of_which_nothing_arrives_is_told_from_a_dead_one():
    """Guided backpropagation stops at a ReLU6 that is full."""
    net = seeded(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    net[0].bias.data.fill_(100)
    (one,) = merged_projections(Classifier(net), photos(), method="guided")
    assert not one.picture.any()
    assert not one.dead
    told, untold = (np.array(merged_sheet([one._replace(picture=one.picture + level)])) for level in (0, 1))
    assert (told[-20:] != untold[-20:]).any(), "the label says it"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"method": "grad-cam"}, "grad-cam does not project units to pixels; these do: .*guided", id="map"),
        pytest.param({"method": "filters"}, "does not project", id="weights"),
        pytest.param({"method": "deconvent"}, "unknown method 'deconvent'; nearest: deconvnet", id="unknown"),
        pytest.param({"method": 3}, "a method is a name", id="no method"),
        pytest.param({"strongest": 0}, "at least 1", id="none"),
        pytest.param({"layers": ["conv9"]}, "unknown layer 'conv9'; nearest: conv", id="unknown layer"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        merged_projections(classifier_of(Skip()), photos(), **options)
    with pytest.raises(UsageError, match="of one image, got 2"):
        merged_projections(classifier_of(Skip()), photos(2))
