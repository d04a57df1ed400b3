"""Deconvnet against an explicit walk: unpool with switches, rectify, flipped filters; and against Captum."""

import pytest
import torch
from captum.attr import Deconvolution
from torch import nn

from convscope.errors import RuleError
from convscope.instrument.address import Address
from convscope.instrument.target import Target
from convscope.methods.deconvnet import Deconvnet
from tests.nets import BOOK, FORMS, MEAN, PreActivation, SideBySide, Skip, classifier_of, photos, vgg_like, with_relu6
from tests.oracles import Walk, differs, near, normalised, project, project_branches

RULE = "deconvnet"
LAYERS = {"alexnet-like": (4, 6, 10), "vgg-like": (2, 6, 12), "zfnet-like": (5, 7, 9)}  # a ReLU, a layer beside it, deep
EACH_LAYER = [(name, layer) for name, layers in LAYERS.items() for layer in layers]


def deconvnet(classifier, images, target, **settings):
    return Deconvnet(**settings).run(classifier, images, target)


def book(name, seed=0):
    make, size = BOOK[name]
    return classifier_of(make(), seed), photos(1, 3, *size)


def unit_target(layer, unit, place=None):
    return Target(Address(str(layer)), (unit,), position=place)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("name", BOOK)
def test_a_class_walked_down_by_hand(name, index):
    classifier, image = book(name)
    found = deconvnet(classifier, image, Target(index=(index,)))
    near(found.raw[0], project(classifier, image[0], RULE, index))


@pytest.mark.parametrize(("name", "layer"), EACH_LAYER)
def test_a_units_strongest_neuron_walked_down_by_hand(name, layer):
    classifier, image = book(name)
    found = deconvnet(classifier, image, unit_target(layer, 2))
    near(found.raw[0], project(classifier, image[0], RULE, 2, layer=layer))


@pytest.mark.parametrize(("name", "layer", "place"), [("alexnet-like", 3, (2, 5)), ("vgg-like", 8, (10, 0))])
def test_a_neuron_walked_down_by_hand(name, layer, place):
    classifier, image = book(name)
    found = deconvnet(classifier, image, unit_target(layer, 1, place))
    near(found.raw[0], project(classifier, image[0], RULE, 1, layer=layer, place=place))


@pytest.mark.parametrize(("name", "layer"), EACH_LAYER)
def test_the_activation_as_the_seed(name, layer):
    classifier, image = book(name)
    found = deconvnet(classifier, image, unit_target(layer, 2), seed="activation")
    near(found.raw[0], project(classifier, image[0], RULE, 2, layer=layer, seed="activation"))


def test_a_class_with_its_logit_as_the_seed():
    classifier, image = book("alexnet-like")
    found = deconvnet(classifier, image, Target(index=(2,)), seed="activation")
    assert float(found.scores[0]) < 0  # a negative seed: nothing positive comes to the first ReLU but what it flips
    near(found.raw[0], project(classifier, image[0], RULE, 2, seed="activation"))


@pytest.mark.parametrize("contrast_norm", ["pass", "backward"])
def test_contrast_normalisation_passed_or_by_its_jacobian(contrast_norm):
    classifier, image = book("zfnet-like")
    found = deconvnet(classifier, image, Target(index=(1,)), contrast_norm=contrast_norm)
    wanted = project(classifier, image[0], RULE, 1, contrast_norm=contrast_norm)
    other = project(classifier, image[0], RULE, 1, contrast_norm={"pass": "backward", "backward": "pass"}[contrast_norm])
    near(found.raw[0], wanted)
    differs(other, wanted)


def test_overlapping_pools_add_up_where_they_chose_the_same_place():
    classifier, image = book("alexnet-like")
    walk = Walk(classifier.network, normalised(image[0], classifier.mean, classifier.std))
    switches = walk.extra[2]
    assert len(set(switches.values())) < len(switches)


def test_the_pixels_are_not_rectified():
    classifier, image = book("vgg-like")
    raw = deconvnet(classifier, image, Target(index=(0,))).raw
    assert bool((raw < 0).any())
    assert bool((raw > 0).any())


@pytest.mark.parametrize("form", ["modules", "modules in place", "reused", *FORMS])
def test_every_form_of_relu_around_a_skip_connection(form):
    classifier, image = classifier_of(Skip(form)), photos()
    near(deconvnet(classifier, image, Target(index=(0,))).raw[0], project_branches(classifier, image[0], RULE, 0))


@pytest.mark.parametrize("make", [PreActivation, SideBySide])
def test_branches_that_share_a_relu(make):
    classifier, image = classifier_of(make()), photos()
    near(deconvnet(classifier, image, Target(index=(0,))).raw[0], project_branches(classifier, image[0], RULE, 0))


def test_relu6():
    classifier, image = classifier_of(with_relu6(vgg_like())), photos(1, 3, 22, 27)
    near(deconvnet(classifier, image, Target(index=(0,))).raw[0], project(classifier, image[0], RULE, 0))


@pytest.mark.parametrize("name", BOOK)
def test_equal_to_captum_on_relu_modules(name):
    classifier, image = book(name)
    near(captum(classifier, image, 0), project(classifier, image[0], RULE, 0))
    near(deconvnet(classifier, image, Target(index=(0,))).raw, captum(classifier, image, 0))


@pytest.mark.parametrize("net", [Skip("functional"), Skip("method in place"), PreActivation(), SideBySide()])
def test_right_where_captum_is_wrong(net):
    classifier, image = classifier_of(net), photos()
    wanted = project_branches(classifier, image[0], RULE, 0)
    differs(captum(classifier, image, 0)[0], wanted)
    near(deconvnet(classifier, image, Target(index=(0,))).raw[0], wanted)


def test_right_on_relu6_where_captum_is_wrong():
    classifier, image = classifier_of(with_relu6(vgg_like())), photos(1, 3, 22, 27)
    wanted = project(classifier, image[0], RULE, 0)
    differs(captum(classifier, image, 0)[0], wanted)
    near(deconvnet(classifier, image, Target(index=(0,))).raw[0], wanted)


@pytest.mark.filterwarnings("ignore:Setting backward hooks")
def captum(classifier, image, index):
    return Deconvolution(classifier).attribute(image.clone(), target=index).detach()
