"""Layers with weights in the order in which they run, and networks in which some of them are random."""

import numpy as np
import pytest
import torch
from torch import nn

from convscope.images.frame import Framing
from convscope.instrument.randomised import _noise, randomised, randomised_layers
from convscope.instrument.weighted import weighted_layers
from convscope.models.classifier import Classifier
from tests.nets import Skip, classifier_of, photos, seeded, vgg_like


class Backwards(nn.Module):
    """Defined in another order than it runs; one layer is never run, one runs twice, one holds a weight of its own."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.aside = nn.Linear(4, 3)  # an auxiliary head
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4, affine=False)  # has statistics and no weights
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 1))
        self.scale = nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x):
        x = self.norm(self.first(x)).relu()
        x = self.twice(x).relu() * self.scale
        x = self.middle(x).relu()
        return self.head(self.twice(x).mean((2, 3)))


def test_layers_come_in_the_order_in_which_they_run_with_what_belongs_to_them():
    classifier = Classifier(Backwards().double(), channels=3)
    found = weighted_layers(classifier, photos())
    # The scale "4 1 1" is a matrix by its shape, and the root holds it; the second use of `twice` counts.
    assert [(layer.path, layer.modules, layer.number) for layer in found] == [
        ("first", ("first", "norm"), 0),
        ("", ("",), 1),
        ("middle", ("middle",), 2),
        ("twice", ("twice",), 3),
        ("head", ("head",), 4),
    ]


def test_norms_go_with_the_convolution_before_them():
    classifier = classifier_of(vgg_like())
    found = weighted_layers(classifier, photos(height=22, width=27))
    assert [layer.modules for layer in found] == [("0", "1"), ("3", "4"), ("7", "8"), ("10", "11"), ("15",), ("18",)]


def test_a_norm_before_all_weights_goes_with_the_first():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert [layer.modules for layer in weighted_layers(classifier_of(net), photos())] == [("1", "0")]


def test_a_network_of_numbers_a_channel_alone_still_has_layers_and_one_without_weights_none():
    scaled = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert [layer.path for layer in weighted_layers(classifier_of(scaled), photos())] == ["0", "2"]
    bare = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert weighted_layers(Classifier(bare), photos()) == []


def test_random_layers_hold_their_own_numbers_in_another_order_and_all_others_stay():
    classifier = classifier_of(vgg_like())
    images = photos(height=22, width=27)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    layers = weighted_layers(classifier, images)
    found = randomised_layers(classifier, layers[2:4], seed=3, size=(22, 27))
    for name, value in classifier.state_dict().items():
        assert torch.equal(value, before[name]), name
    touched = {"7", "8", "10", "11"}
    for name, value in found.network.state_dict().items():
        old = classifier.network.state_dict()[name]
        module, kind = name.split(".")
        if module not in touched:
            assert torch.equal(value, old), name
        elif kind in ("weight", "bias"):
            assert torch.equal(value.flatten().sort().values, old.flatten().sort().values), name
            assert not torch.equal(value, old), name


def test_the_statistics_of_random_layers_alone_are_taken_anew():
    """By hand: the mean and variance of what the norm is given, on four images of noise, in one pass."""
    classifier = classifier_of(vgg_like())
    images = photos(height=22, width=27)
    layers = weighted_layers(classifier, images)
    found = randomised_layers(classifier, layers[1:2], seed=0, size=(22, 27))
    given = []
    hook = found.network[4].register_forward_hook(lambda module, inputs, output: given.append(inputs[0]))
    with torch.no_grad():
        found(_noise(classifier, torch.Generator().manual_seed(0), (22, 27)))
    hook.remove()
    norm = found.network[4]
    torch.testing.assert_close(norm.running_mean, given[0].mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, given[0].var((0, 2, 3)))
    for other in (1, 8, 11):
        assert torch.equal(found.network[other].running_mean, classifier.network[other].running_mean)


def test_a_layers_new_weights_depend_on_the_seed_and_on_no_other_layer():
    classifier = classifier_of(Skip())
    layers = weighted_layers(classifier, photos())
    for how in ("shuffle", "reset"):
        alone = randomised_layers(classifier, layers[-1:], 5, how).network.fc2
        among = randomised_layers(classifier, layers, 5, how).network.fc2
        other = randomised_layers(classifier, layers, 6, how).network.fc2
        assert torch.equal(alone.weight, among.weight)
        assert not torch.equal(alone.weight, other.weight)


class Fixed(nn.Conv2d):
    """Begins with ones."""

    def reset_parameters(self):
        nn.init.ones_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


def test_reset_begins_anew_where_a_module_can_and_shuffles_elsewhere():
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 2, 3))
    net = seeded(nn.Sequential(Fixed(3, 2, 3), nn.ReLU(), normed, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    classifier = Classifier(net)
    layers = weighted_layers(classifier, photos())
    assert [layer.path for layer in layers] == ["0", "2"]
    torch.manual_seed(11)
    state = torch.get_rng_state()
    found = randomised_layers(classifier, layers, 0, "reset").network
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(found[0].weight, torch.ones_like(found[0].weight))
    old, new = (n[2].parametrizations.weight.original1 for n in (net, found))
    assert not torch.equal(old, new)
    assert torch.equal(old.flatten().sort().values, new.flatten().sort().values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_whole_network_shuffled_keeps_its_numbers_and_dtype(dtype):
    classifier = Classifier(seeded(vgg_like(), dtype=dtype), framing=Framing((22, 27)))
    found = randomised(classifier, 1)
    for old, new in zip(classifier.network.parameters(), found.network.parameters(), strict=True):
        assert new.dtype == dtype
        assert np.array_equal(np.sort(old.detach().numpy().ravel()), np.sort(new.detach().numpy().ravel()))
    assert torch.isfinite(found(photos(height=22, width=27))).all()
