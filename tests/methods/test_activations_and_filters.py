"""Feature maps against a forward pass by hand, filters against the weights."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.errors import UsageError
from convscope.methods.activations import Activations
from convscope.methods.filters import Filters
from convscope.scope import Scope
from tests.nets import Skip, classifier_of, photos, seeded
from tests.oracles import near


def by_hand(classifier, images):
    net, x = classifier.network, (images - images.new_tensor(classifier.mean).view(1, 3, 1, 1))
    kept = {"conv1": net.conv1(x / images.new_tensor(classifier.std).view(1, 3, 1, 1))}
    kept["relu1"] = F.relu(net.norm1(kept["conv1"]))
    pooled = F.max_pool2d(kept["relu1"], 3, 2, 1)
    kept["conv2"] = net.conv2(pooled)
    kept["relu2"] = F.relu(net.norm2(kept["conv2"]) + pooled)
    kept["conv3"] = net.conv3(kept["relu2"])
    kept["conv4"] = net.conv4(F.max_pool2d(F.relu(kept["conv3"]), 2))
    kept["fc1"] = net.fc1(F.adaptive_avg_pool2d(F.relu(kept["conv4"]), 3).flatten(1))[:, :, None, None]
    return kept


@pytest.mark.parametrize("form", ["modules", "modules in place", "method in place"])
@pytest.mark.parametrize("layer", ["conv1", "conv2", "conv3", "conv4", "fc1"])
def test_maps_as_the_layer_put_them_out(layer, form):
    classifier, images = classifier_of(Skip(form)), photos(2)
    found = Activations(layer=layer).run(classifier, images)
    near(found.raw, by_hand(classifier, images)[layer])
    assert found.layer == layer


def test_chosen_units():
    classifier, images = classifier_of(Skip()), photos(2)
    found = Activations(layer="conv3:4-6,1").run(classifier, images)
    near(found.raw, by_hand(classifier, images)["conv3"][:, [4, 5, 6, 1]])
    assert found.units == (4, 5, 6, 1)


def test_the_last_map_by_default():
    classifier, images = classifier_of(Skip()), photos(2)
    near(Activations().run(classifier, images).raw, F.relu(by_hand(classifier, images)["conv4"]))


def test_nothing_after_the_layer_runs():
    net = Skip()
    classifier, ran = classifier_of(net), []
    Activations(layer="conv3").run(classifier, photos())  # the trace, once
    net.conv4.register_forward_pre_hook(lambda *_: ran.append(1))
    Activations(layer="conv3").run(classifier, photos(seed=2))
    assert not ran


def test_a_unit_out_of_range():
    with pytest.raises(UsageError, match="unit 9 is out of range: conv3 has 8 units"):
        Activations(layer="conv3:9").run(classifier_of(Skip()), photos())


def test_filters_are_the_weights():
    classifier = classifier_of(Skip())
    assert torch.equal(Filters().run(classifier).raw, classifier.network.conv1.weight)
    assert torch.equal(Filters(layer="conv4").run(classifier).raw, classifier.network.conv4.weight)
    some = Filters(layer="conv4:3,0").run(classifier)
    assert torch.equal(some.raw, classifier.network.conv4.weight[[3, 0]])
    assert some.units == (3, 0)


def test_filters_are_a_copy():
    classifier = classifier_of(Skip())
    Filters().run(classifier).raw.zero_()
    assert bool(classifier.network.conv1.weight.any())


def test_a_transposed_convolution_has_one_filter_an_output():
    classifier = classifier_of(nn.Sequential(nn.ConvTranspose2d(3, 5, 2)))
    assert Filters().run(classifier).raw.shape == (5, 3, 2, 2)


@pytest.mark.parametrize(
    ("layer", "said"), [("fc1", "Linear and has no filters"), ("conv5", "unknown layer"), ("conv4:5", "out of range")]
)
def test_what_has_no_filters(layer, said):
    with pytest.raises(UsageError, match=said):
        Filters(layer=layer).run(classifier_of(Skip()))


def test_rows_of_filters_keep_their_numbers(tmp_path):
    scope = Scope(seeded(Skip()))
    found = scope.filters("conv1:3-5")
    assert found.units == (3, 4, 5)
    assert found[1].units == (4,)
    assert found[1:].units == (4, 5)
    assert [path.stem for path in found[np.int64(2)].save_each(tmp_path)] == ["filter-0005"]
    assert found[0].sheet().width > 0
    assert scope.activations(photos(2), "conv1:3-5")[1].units == (3, 4, 5)
