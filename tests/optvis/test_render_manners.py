"""What gradient ascent leaves behind, which is nothing, and what it says where it cannot go on."""

import pytest
import torch
from torch import nn

from convscope.errors import Cancelled, ConvscopeError, ModelError
from convscope.models.classifier import Classifier
from convscope.optvis.objectives import (
    channel,
    logit,
    total_variation,
)
from convscope.optvis.recipes import RECIPES
from convscope.optvis.render import render
from convscope.progress import reporting
from tests.nets import Skip, classifier_of, photos, seeded, vgg_like
from tests.test_contracts import Boom, Fuse, disturbed, state, the_same

every_recipe = pytest.mark.parametrize("recipe", RECIPES)
SHAPE = (3, 22, 27)


def how_of(recipe, steps=12):
    return RECIPES[recipe].with_steps(steps).how


# --- no trace is left


def without_images(classifier):
    return state(classifier, photos())


@every_recipe
def test_nothing_is_left_after_success(recipe):
    classifier = disturbed()
    before = without_images(classifier)
    found = render(classifier, channel("relu3", [0, 5]) + 0.1 * logit(2), how_of(recipe, 3), SHAPE, [1, 2])
    assert bool(found.moved.all())
    the_same(before, without_images(classifier))


@every_recipe
@pytest.mark.parametrize("error", [Boom(), RuntimeError("boom"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("backward", [False, True])
def test_nothing_is_left_after_an_exception_at_step_3(recipe, error, backward):
    fuse = Fuse(5, error, backward)  # the start, and steps 0 to 3
    classifier = disturbed(fuse)
    before = without_images(classifier)
    with pytest.raises(type(error)):
        render(classifier, channel("relu3", [0, 5]), how_of(recipe), SHAPE, [1, 2])
    assert fuse.count[0] == 5
    the_same(before, without_images(classifier))


@every_recipe
def test_nothing_is_left_after_a_cancel(recipe):
    class Listener:
        told = ()

        def begin(self, label, total):
            self.told += ((label, total),)

        def advance(self, done):
            self.told += (done,)

        def end(self):
            self.told += ("end",)

    classifier, listener = disturbed(), Listener()
    before, looks = without_images(classifier), iter([False] * 3)
    with reporting(listener, cancel=lambda: next(looks, True)), pytest.raises(Cancelled, match="units was cancelled"):
        render(classifier, channel("relu3", [0, 5]), how_of(recipe), SHAPE, [1, 2], label="units")
    assert listener.told == (("units", 12), 1, 1, 1, "end")
    the_same(before, without_images(classifier))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_a_callers_no_grad(mode):
    classifier = classifier_of(vgg_like(), seed=3)
    wanted = render(classifier, channel("5", 3), how_of("fourier"), SHAPE, [1])
    with mode():
        found = render(classifier, channel("5", 3), how_of("fourier"), SHAPE, [1])
        assert not torch.is_grad_enabled()
    assert torch.equal(found.images, wanted.images)


def test_evaluation_mode_is_forced():
    classifier = classifier_of(Skip(), seed=3)
    wanted = render(classifier, logit([1, 2]), how_of("fourier"), SHAPE, [1, 2])
    statistics = classifier.network.norm1.running_mean.clone()
    classifier.train()
    assert torch.equal(render(classifier, logit([1, 2]), how_of("fourier"), SHAPE, [1, 2]).images, wanted.images)
    assert torch.equal(classifier.network.norm1.running_mean, statistics)
    assert classifier.network.drop.training


# --- what goes wrong is said


def refusal(error, *args, **more):
    with pytest.raises(error) as refused:
        render(*args, **more)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@every_recipe
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_told_at_the_start(recipe, value):
    classifier = classifier_of(vgg_like(), seed=3)
    classifier.network[3].weight.data[2] = value
    told = refusal(ConvscopeError, classifier, channel("3", [0, 2]), how_of(recipe), SHAPE, [1, 2])
    assert told == "3:2 is not finite at step 0: check the model's weights, mean and std"


class Spoiled(nn.Module):
    """From a call on, what it hands on is not a number for one picture."""

    def __init__(self, call, picture):
        super().__init__()
        self.call, self.picture, self.count = call, picture, 0

    def forward(self, x):
        self.count += 1
        rows = torch.arange(len(x)).view(-1, 1, 1, 1)
        return torch.where(rows == self.picture, torch.nan, x) if self.count > self.call else x


@pytest.mark.parametrize(("call", "step"), [(1, 0), (4, 3), (12, 11), (13, 12)])
def test_activations_that_are_not_finite_are_told_with_the_step_and_the_unit(call, step):
    """The first call is a look at the start, the last one at the end."""
    net = nn.Sequential(seeded(nn.Conv2d(3, 5, 3)), Spoiled(call, picture=1))
    objective, rows = channel("1", [0, 1, 2, 3, 4]), [4, 3, 0]
    told = refusal(ConvscopeError, Classifier(net), objective, how_of("classic"), SHAPE, [1, 2, 3], rows=rows)
    assert told == f"1:3 is not finite at step {step}: check the model's weights, mean and std"


class Off(nn.Module):
    """Switches gradients off around its layers."""

    def __init__(self, *layers, mode=torch.no_grad):
        super().__init__()
        self.layers, self.mode = nn.Sequential(*layers), mode

    def forward(self, x):
        with self.mode():
            x = self.layers(x)
        return x.clone()


OFF = {
    "channel inside": channel("0.layers.1", 0),
    "channel after": channel("1", 0),
    "logit": logit(1),
    "channel and smoothness": channel("1", 0) + total_variation(),
    "logit and smoothness": logit(1) + total_variation(),
    "two layers": channel("0.layers.0", 0) + channel("1", 1),
}
SWITCHED_OFF = "no gradient flows back to the pixels: the network switches gradients off on the way"


def without_gradients(mode):
    net = nn.Sequential(Off(nn.Conv2d(3, 4, 3), nn.Tanh(), mode=mode), nn.Conv2d(4, 2, 3))
    return classifier_of(net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten()]))


@pytest.mark.parametrize("objective", OFF.values(), ids=OFF.keys())
def test_a_network_that_switches_gradients_off_is_refused(objective):
    assert (
        refusal(ModelError, without_gradients(torch.no_grad), objective, how_of("fourier"), SHAPE, [1]) == SWITCHED_OFF
    )


@pytest.mark.parametrize("objective", [OFF[name] for name in OFF if "after" in name or "and" in name])
def test_a_network_in_inference_mode_is_refused(objective):
    told = refusal(ModelError, without_gradients(torch.inference_mode), objective, how_of("classic"), SHAPE, [1])
    assert told == SWITCHED_OFF
