"""Gradient ascent: the classic recipe step by step beside it, and what holds for every recipe."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from convscope.models.classes import numbered
from convscope.models.classifier import Classifier
from convscope.optvis import render as module
from convscope.optvis.draws import Draws, seed_of
from convscope.optvis.objectives import (
    channel,
    diversity,
    l2,
    logit,
    neuron,
    total_variation,
)
from convscope.optvis.parameterizations import Pixel
from convscope.optvis.recipes import RECIPES
from convscope.optvis.render import Ascent, How, render
from convscope.optvis.transforms import Transform, noise, transformed
from tests.nets import MEAN, STD, classifier_of, photos, seeded, vgg_like, with_relu6
from tests.oracles import near

every_recipe = pytest.mark.parametrize("recipe", RECIPES)
SHAPE = (3, 22, 27)


def how_of(recipe, steps=12):
    return RECIPES[recipe].with_steps(steps).how


def pooled():
    """Convolutions with BatchNorm and ReLU6, a global pool, and a head that is a convolution."""
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6()),
        *(nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU6()),
        *(nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 9, 1), nn.Flatten()),
    )


# --- the classic recipe from its words


def classic_by_hand(layers, start, unit):
    """Of one picture: its pixels at the end, on a scale of 0 to 255; and what is shown, in [0, 1]."""
    mean, std = (np.array(values)[:, None, None] for values in (MEAN, STD))
    pixels = start.copy()
    for _ in range(40):
        leaf = torch.tensor(pixels, requires_grad=True)
        x = ((leaf / 255 - torch.from_numpy(mean)) / torch.from_numpy(std))[None]
        for layer in layers:
            x = layer(x)
        (gradient,) = torch.autograd.grad(x[0, unit].mean(), leaf)
        gradient = gradient.numpy()
        pixels = pixels + 1.0 * gradient / (np.sqrt(np.mean(gradient**2)) + 1e-5)
    shown = (pixels - pixels.mean()) / (pixels.std() + 1e-5) * 0.1 + 0.5
    return pixels, np.clip(shown, 0, 1)


@pytest.mark.parametrize(("layer", "units"), [("5", [3, 0, 1]), ("11", [5, 1])])
def test_the_classic_recipe_does_what_its_words_say(layer, units):
    net, seeds = seeded(vgg_like(), seed=3), [7, 8, 9][: len(units)]
    start = Pixel().start(SHAPE, Draws(seeds, 0)).numpy()
    assert start.min() >= 128
    assert start.max() <= 148
    found = render(classifier_of(vgg_like(), seed=3), channel(layer, units), RECIPES["classic"].how, SHAPE, seeds)
    for i, unit in enumerate(units):
        pixels, shown = classic_by_hand(list(net)[: int(layer) + 1], start[i], unit)
        assert np.abs(pixels - start[i]).max() > 5
        assert np.abs(found.images[i].numpy() * 255 - pixels).max() <= 1e-9
        picture = np.asarray(RECIPES["classic"].show(found.images[i]))
        assert np.array_equal(picture, np.rint(shown * 255).astype(np.uint8).transpose(1, 2, 0))


def test_ascent_goes_along_the_gradient_of_each_picture_over_its_own_size():
    parameters = photos(2).requires_grad_()
    before, gradient = parameters.detach().clone(), photos(2, seed=4) * torch.tensor([1.0, 1e-4]).view(2, 1, 1, 1)
    parameters.grad = -gradient
    Ascent([parameters], lr=3.0).step()
    for i in range(2):
        g = gradient[i].numpy()
        near(parameters[i] - before[i], torch.from_numpy(3 * g / (np.sqrt((g**2).mean()) + 1e-5)))


# --- what comes of it


def drawn_of(how, seeds, step, view=0):
    return Draws([seed_of(seed, view) for seed in seeds], step + 1)


def test_a_step_goes_up_the_mean_of_all_views():
    """One step of pixels, seen through noise three times, by a forward pass for each view."""
    net, seeds, unit = seeded(vgg_like(), seed=3), [5, 6], 2
    how = How(Pixel(), Ascent, 1, (noise(0.3),), views=3)
    found = render(classifier_of(vgg_like(), seed=3), channel("3", unit), how, SHAPE, seeds)
    leaf = Pixel().start(SHAPE, Draws(seeds, 0)).requires_grad_()
    scores = []
    for view in range(3):
        images = transformed(leaf / 255, [noise(0.3)], drawn_of(how, seeds, 0, view))
        x = (images - images.new_tensor(MEAN).view(3, 1, 1)) / images.new_tensor(STD).view(3, 1, 1)
        scores.append(net[:4](x)[:, unit].mean((1, 2)))
    mean = torch.stack(scores).mean(0)
    near(found.curve[0], mean)
    assert not torch.equal(scores[0], scores[1])
    gradient = torch.autograd.grad(mean.sum(), leaf)[0]
    size = gradient.pow(2).mean((1, 2, 3), keepdim=True).sqrt() + 1e-5
    near(found.images * 255, leaf + gradient / size)


def test_transforms_are_told_which_share_of_the_steps_is_over():
    told = []
    watching = Transform("watching", paint=lambda images, draws, done: told.append(done) or images)
    how = How(Pixel(), Ascent, 5, (watching,))
    render(classifier_of(vgg_like(), seed=3), channel("3", 2), how, SHAPE, [1])
    assert told == [0, 0.25, 0.5, 0.75, 1]
    told.clear()
    render(classifier_of(vgg_like(), seed=3), channel("3", 2), replace(how, steps=1), SHAPE, [1])
    assert told == [0]


@every_recipe
def test_scores_of_the_start_and_the_end_are_of_pictures_as_they_are(recipe):
    net, how, seeds = seeded(vgg_like(), seed=3), how_of(recipe), [3, 4, 5]
    found = render(classifier_of(vgg_like(), seed=3), logit([1, 0, 3]), how, SHAPE, seeds)
    start = how.parameterization.image(how.parameterization.start(SHAPE, Draws(seeds, 0)), SHAPE)
    for images, scores in ((start, found.before), (found.images, found.after)):
        x = (images - images.new_tensor(MEAN).view(3, 1, 1)) / images.new_tensor(STD).view(3, 1, 1)
        near(scores, net(x)[range(3), [1, 0, 3]])
    near(found.images, how.parameterization.image(found.parameters, SHAPE))
    assert found.curve.shape == (12, 3)
    assert not any(t.requires_grad for t in (found.images, found.parameters, found.before, found.after, found.curve))
    if not how.transforms:
        near(found.curve[0], found.before)


def test_it_goes_on_from_parameters():
    classifier, seeds = classifier_of(vgg_like(), seed=3), [1, 2]
    how = RECIPES["classic"].how
    whole = render(classifier, channel("5", [0, 3]), how, SHAPE, seeds)
    half = render(classifier, channel("5", [0, 3]), replace(how, steps=15), SHAPE, seeds)
    kept = half.parameters.clone()
    rest = render(classifier, channel("5", [0, 3]), replace(how, steps=25), SHAPE, seeds, start=half.parameters)
    assert torch.equal(rest.images, whole.images)
    assert torch.equal(torch.cat([half.curve, rest.curve]), whole.curve)
    assert torch.equal(half.parameters, kept), "what it starts with is the caller's"


@every_recipe
def test_the_same_seed_gives_the_same_picture_and_another_another(recipe):
    classifier = classifier_of(vgg_like(), seed=3)
    found = []
    for seed, world in ((5, 1), (5, 2), (6, 1)):
        torch.manual_seed(world)
        found.append(render(classifier, channel("5", 3), how_of(recipe), SHAPE, [seed]).images)
    assert torch.equal(found[0], found[1])
    assert float((found[0] - found[2]).abs().max()) > 0.01


# --- a batch is its pictures

UNITS, SEEDS = [3, 0, 2, 1], [11, 22, 33, 44]
KINDS = {
    "channel": lambda: channel("5", UNITS),
    "neuron": lambda: neuron("5", UNITS),
    "logit": lambda: logit(UNITS),
    "sum": lambda: channel("5", UNITS) - 0.3 * channel("2", 1) + 0.1 * total_variation() + l2(),
}


def one_by_one(classifier, objective, how, shape, size=1):
    """Groups of so many pictures, each group in a call of its own."""
    for first in range(0, 4, size):
        rows = list(range(first, first + size))
        yield rows, render(classifier, objective, how, shape, [SEEDS[row] for row in rows], rows=rows)


def convolved():
    """BatchNorm and ReLU6, without anything global, as far as layer 5."""
    return with_relu6(vgg_like())[:9]


@every_recipe
@pytest.mark.parametrize(
    ("net", "kind"),
    [(convolved, "channel"), (convolved, "neuron"), (convolved, "sum"), *((pooled, kind) for kind in KINDS)],
)
def test_a_batch_is_bit_for_bit_its_pictures_one_by_one(recipe, net, kind):
    """Where torch itself is: of sizes that fill a processor's vectors, and without matrix products over the batch."""
    classifier, shape = classifier_of(net(), seed=3), (3, 32, 32)
    together = render(classifier, KINDS[kind](), how_of(recipe), shape, SEEDS)
    assert bool(together.moved.any())
    for rows, alone in one_by_one(classifier, KINDS[kind](), how_of(recipe), shape):
        for name in ("images", "parameters", "before", "after", "moved"):
            assert torch.equal(getattr(alone, name), getattr(together, name)[rows]), name
        assert torch.equal(alone.curve, together.curve[:, rows])


@every_recipe
@pytest.mark.parametrize("net", [vgg_like, lambda: with_relu6(vgg_like())], ids=["ReLU", "ReLU6"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_pictures_one_by_one_to_rounding_in_any_case(recipe, net, kind):
    """An odd size leaves pixels that a vector does not hold, a linear layer multiplies all rows at once."""
    classifier = classifier_of(net(), seed=3)
    together = render(classifier, KINDS[kind](), how_of(recipe), SHAPE, SEEDS)
    for rows, alone in one_by_one(classifier, KINDS[kind](), how_of(recipe), SHAPE):
        near(alone.images, together.images[rows], 1e-11)


@every_recipe
def test_pictures_do_not_depend_on_their_order(recipe):
    classifier, shape = classifier_of(pooled(), seed=3), (3, 32, 32)
    together = render(classifier, KINDS["channel"](), how_of(recipe), shape, SEEDS)
    order = [2, 0, 3]
    other = render(classifier, KINDS["channel"](), how_of(recipe), shape, [SEEDS[row] for row in order], rows=order)
    assert torch.equal(other.images, together.images[order])


@every_recipe
def test_a_group_is_the_same_in_any_company(recipe):
    """Pictures that are to differ from each other see each other, and no others."""
    classifier, shape = classifier_of(pooled(), seed=3), (3, 32, 32)
    own = channel("5", [3, 0]).repeated(2)
    objective = own + own.strength * diversity("5", 2)
    together = render(classifier, objective, how_of(recipe), shape, SEEDS)
    for rows, alone in one_by_one(classifier, objective, how_of(recipe), shape, size=2):
        near(alone.images, together.images[rows], 1e-11)
        near(alone.curve, together.curve[:, rows], 1e-11)
    without = render(classifier, own, how_of(recipe), shape, SEEDS)
    assert float((without.images - together.images).abs().max()) > 1e-4


# --- no more runs than has to


class Wall(nn.Module):
    def forward(self, x):
        raise AssertionError("this layer is not needed")


class Counted(nn.Conv2d):
    """A convolution that notes each call: how many pictures, and whether its weights are frozen."""

    def forward(self, x):
        self.calls = [*getattr(self, "calls", []), (len(x), self.weight.requires_grad)]
        return super().forward(x)


def watched(*after):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), Counted(4, 5, 3), nn.Tanh(), *after)
    return Classifier(seeded(net), numbered(5))


@every_recipe
@pytest.mark.parametrize(
    "objective", [channel("2", [0, 1]), neuron("3", [0, 1]), channel("0", 1) - channel("3", [2, 3])]
)
def test_the_network_runs_once_a_step_and_only_as_far_as_the_layers(recipe, objective):
    classifier = watched(Wall())
    how = how_of(recipe, 5)
    render(classifier, objective, how, SHAPE, [1, 2])
    conv = classifier.network[2]
    assert [count for count, _ in conv.calls] == [2, *[2 * how.views] * 5, 2], "the start, five steps, the end"
    assert not any(trainable for _, trainable in conv.calls)
    assert all(p.grad is None and p.requires_grad for p in classifier.parameters())


def test_logits_run_the_network_once_a_step_too():
    classifier = watched(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    render(classifier, logit(3) + channel("3", 0), how_of("classic", 5), SHAPE, [1])
    assert len(classifier.network[2].calls) == 7
    with pytest.raises(AssertionError, match="not needed"):
        render(watched(Wall()), logit(3), how_of("classic", 5), SHAPE, [1])


def test_what_is_read_off_the_picture_alone_needs_no_network():
    found = render(watched(Wall()), total_variation() + l2(), how_of("classic", 5), SHAPE, [1])
    assert found.after > found.before


# --- units that a ReLU blocks


BLOCKED, SOUND, ZERO = 0, 1, 2


def stuck():
    """Of three rectified units: one whose bias lets nothing through that is not bright, a sound one, one of zeros."""
    net = seeded(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()))
    net[0].weight.data[BLOCKED] = 100 / 27
    net[0].bias.data[:] = torch.tensor([-58, 0.1 - 0.5 * float(net[0].weight.data[SOUND].sum()), 0])
    net[0].weight.data[ZERO] = 0
    return Classifier(net, numbered(3))


RESCUED = pytest.mark.parametrize("recipe", ["fourier", "classic"])  # maco's start is not grey


@RESCUED
def test_a_unit_that_is_blocked_is_rescued_and_not_without(recipe, monkeypatch):
    how, objective, seeds = how_of(recipe, 30), channel("1", [BLOCKED, SOUND, ZERO]), [1, 2, 3]
    start = how.parameterization.start(SHAPE, Draws(seeds, 0))
    helped = render(stuck(), objective, how, SHAPE, seeds)
    assert helped.before.gt(0).tolist() == [False, True, False]
    assert helped.moved.tolist() == [True, True, False]
    assert helped.after[BLOCKED] > 1
    assert torch.equal(helped.parameters[ZERO], start[ZERO])
    monkeypatch.setattr(module, "RESCUE", 0)
    plain = render(stuck(), objective, how, SHAPE, seeds)
    assert plain.moved.tolist() == [False, True, False]
    assert plain.after[BLOCKED] == 0
    assert torch.equal(plain.parameters[[BLOCKED, ZERO]], start[[BLOCKED, ZERO]])
    for name in ("images", "after", "parameters"):
        assert torch.equal(getattr(plain, name)[SOUND], getattr(helped, name)[SOUND]), name
    assert torch.equal(plain.curve[:, SOUND], helped.curve[:, SOUND])


@RESCUED
def test_the_rescue_is_over_after_the_first_steps(recipe):
    """A unit out of its reach is where those steps brought it, by another pass in each of them."""
    classifier, how = stuck(), how_of(recipe, module.RESCUE + 9)
    classifier.network[0].bias.data[BLOCKED] = -500
    passes = []
    classifier.network[0].register_forward_hook(lambda *_: passes.append(1))
    found = render(classifier, channel("1", BLOCKED), how, SHAPE, [4])
    assert bool(found.moved.all())
    assert not found.curve.any()
    assert len(passes) == 2 + how.steps + module.RESCUE
    if recipe == "classic":
        short = render(classifier, channel("1", BLOCKED), how_of(recipe, module.RESCUE), SHAPE, [4])
        assert torch.equal(short.images, found.images)


def test_the_way_out_is_that_of_the_unit_before_its_relu():
    """What redirected steps do to a blocked unit is what plain steps do where the ReLU is not there."""
    blocked, bare = stuck(), stuck()
    blocked.network[0].bias.data[BLOCKED] = -500
    found = render(blocked, channel("1", BLOCKED), how_of("classic", 10), SHAPE, [4])
    wanted = render(bare, channel("0", BLOCKED), how_of("classic", 10), SHAPE, [4])
    near(found.images, wanted.images, 1e-12)
