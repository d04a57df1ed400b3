"""Deconvnet and guided backpropagation against an explicit walk down: unpool, rectify, flipped filters. And Captum."""

import numpy as np
import pytest
import torch
from captum.attr import Deconvolution, GuidedBackprop
from torch import nn

from convscope.errors import RuleError
from convscope.instrument.address import Address
from convscope.instrument.target import Target
from convscope.methods import METHODS
from tests.nets import BOOK, FORMS, PreActivation, SideBySide, Skip, classifier_of, photos, seeded, vgg_like, with_relu6
from tests.oracles import Walk, differs, near, normalised, project, project_branches

CAPTUM = {"deconvnet": Deconvolution, "guided": GuidedBackprop}
# Of each network a ReLU, a convolution or pool, and a deep one.
LAYERS = [
    *(("alexnet-like", 4), ("alexnet-like", 6), ("alexnet-like", 10)),
    *(("vgg-like", 2), ("vgg-like", 6), ("vgg-like", 12)),
    *(("zfnet-like", 5), ("zfnet-like", 7), ("zfnet-like", 9)),
]
rules = pytest.mark.parametrize("rule", CAPTUM)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")


def found(rule, classifier, image, target, **settings):
    return METHODS[rule](**settings).run(classifier, image, target)


def raw(rule, classifier, image, target, **settings):
    return found(rule, classifier, image, target, **settings).raw[0]


def book(name):
    make, size = BOOK[name]
    return classifier_of(make(), seed=3), photos(1, 3, *size)


def unit(layer, index, place=None):
    return Target(Address(str(layer)), (index,), position=place)


def captum(rule, classifier, image, index):
    return CAPTUM[rule](classifier).attribute(image.clone(), target=index)[0].detach()


# --- the walk


@rules
@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("name", BOOK)
def test_a_class(rule, name, index):
    classifier, image = book(name)
    near(raw(rule, classifier, image, Target(index=(index,))), project(classifier, image[0], rule, index))


@rules
@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_a_units_strongest_neuron(rule, name, layer):
    classifier, image = book(name)
    near(raw(rule, classifier, image, unit(layer, 2)), project(classifier, image[0], rule, 2, layer=layer))


@rules
@pytest.mark.parametrize(("name", "layer", "place"), [("alexnet-like", 3, (2, 5)), ("vgg-like", 8, (10, 0))])
def test_a_neuron(rule, name, layer, place):
    classifier, image = book(name)
    wanted = project(classifier, image[0], rule, 1, layer=layer, place=place)
    near(raw(rule, classifier, image, unit(layer, 1, place)), wanted)


@rules
@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_the_activation_as_the_seed(rule, name, layer):
    classifier, image = book(name)
    wanted = project(classifier, image[0], rule, 2, layer=layer, seed="activation")
    near(raw(rule, classifier, image, unit(layer, 2), seed="activation"), wanted)


@rules
def test_a_negative_logit_as_the_seed(rule):
    classifier, image = book("alexnet-like")
    explanation = found(rule, classifier, image, Target(index=(2,)), seed="activation")
    assert float(explanation.scores[0]) < 0
    near(explanation.raw[0], project(classifier, image[0], rule, 2, seed="activation"))


@rules
@pytest.mark.parametrize("way", ["pass", "backward"])
def test_contrast_normalisation_passed_or_by_its_jacobian(rule, way):
    classifier, image = book("zfnet-like")
    wanted = project(classifier, image[0], rule, 0, contrast_norm=way)
    differs(project(classifier, image[0], rule, 0, contrast_norm={"pass": "backward", "backward": "pass"}[way]), wanted)
    near(raw(rule, classifier, image, Target(index=(0,)), contrast_norm=way), wanted)


def test_overlapping_pools_did_choose_the_same_places():
    classifier, image = book("alexnet-like")
    switches = Walk(classifier.network, normalised(image[0], classifier.mean, classifier.std)).extra[2]
    assert len(set(switches.values())) < len(switches)


@rules
def test_the_pixels_are_not_rectified(rule):
    classifier, image = book("vgg-like")
    pixels = raw(rule, classifier, image, Target(index=(0,)))
    assert bool((pixels < 0).any())
    assert bool((pixels > 0).any())


@rules
@pytest.mark.parametrize("form", ["modules", "modules in place", "reused", *FORMS])
def test_every_form_of_relu_around_a_skip_connection(rule, form):
    classifier, image = classifier_of(Skip(form)), photos()
    near(raw(rule, classifier, image, Target(index=(0,))), project_branches(classifier, image[0], rule, 0))


@rules
@pytest.mark.parametrize("make", [PreActivation, SideBySide])
def test_branches_that_share_a_relu(rule, make):
    classifier, image = classifier_of(make()), photos()
    near(raw(rule, classifier, image, Target(index=(0,))), project_branches(classifier, image[0], rule, 0))


def relu6():
    """A network with ReLU6, some of whose inputs are beyond 6."""
    classifier, image = classifier_of(with_relu6(vgg_like())), photos(1, 3, 22, 27)
    classifier.network[1].weight.data *= 10
    walk = Walk(classifier.network, normalised(image[0], classifier.mean, classifier.std))
    assert 0.01 < np.mean(walk.inputs[2] > 6) < 0.5
    return classifier, image


@rules
def test_relu6(rule):
    classifier, image = relu6()
    near(raw(rule, classifier, image, Target(index=(0,))), project(classifier, image[0], rule, 0))


# --- Captum


@rules
@pytest.mark.parametrize("name", BOOK)
def test_equal_to_captum_on_relu_modules(rule, name):
    classifier, image = book(name)
    near(raw(rule, classifier, image, Target(index=(0,))), captum(rule, classifier, image, 0))


@pytest.mark.parametrize(
    ("rule", "net"),
    [
        ("deconvnet", Skip("functional")),
        ("guided", Skip("functional")),
        ("deconvnet", Skip("method in place")),
        ("guided", Skip("method in place")),
        ("deconvnet", PreActivation()),
        ("guided", PreActivation()),
        ("deconvnet", SideBySide()),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_right_where_captum_is_wrong(rule, net):
    classifier, image = classifier_of(net), photos()
    wanted = project_branches(classifier, image[0], rule, 0)
    differs(captum(rule, classifier, image, 0), wanted)
    near(raw(rule, classifier, image, Target(index=(0,))), wanted)


@rules
def test_right_on_relu6_where_captum_is_wrong(rule):
    classifier, image = relu6()
    wanted = project(classifier, image[0], rule, 0)
    differs(captum(rule, classifier, image, 0), wanted)
    near(raw(rule, classifier, image, Target(index=(0,))), wanted)


@rules
def test_captum_gives_the_plain_gradient_for_functional_relus(rule):
    classifier, image = classifier_of(Skip("functional")), photos()
    near(captum(rule, classifier, image, 0), raw("gradient", classifier, image, Target(index=(0,))))


# --- what the rule does not reach


class Hidden(nn.Module):
    """A network with one activation in the middle, which may be hidden from the rule."""

    def __init__(self, middle):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3), nn.Linear(4, 3)
        self.middle = middle

    def forward(self, x):
        return self.fc(torch.relu(self.conv2(self.middle(self.conv1(x)))).mean((2, 3)))


HIDDEN = {
    "scripted": lambda: torch.jit.script(nn.ReLU()),
    "scripted in place": lambda: torch.jit.script(nn.ReLU(inplace=True)),
    "scripted relu6": lambda: torch.jit.script(nn.ReLU6()),
    "traced": lambda: torch.jit.trace(nn.Sequential(nn.ReLU(), nn.Dropout()).eval(), torch.rand(1, 5, 8, 8)),
    "where": lambda: _Written(lambda x: torch.where(x > 0, x, 0.0)),
    "mask": lambda: _Written(lambda x: x * (x > 0)),
}


class _Written(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


@rules
@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning:torch")
@pytest.mark.parametrize("form", HIDDEN)
def test_a_rectifier_out_of_reach_is_an_error_not_a_gradient(rule, form):
    classifier = classifier_of(Hidden(HIDDEN[form]()))
    with pytest.raises(RuleError, match="did not reach every rectifier"):
        found(rule, classifier, photos(), Target(index=(0,)))


@pytest.mark.parametrize(
    ("rule", "backend", "whole"),
    [("guided", "eager", False), ("deconvnet", "aot_eager", True)],
)
def test_compiled_code_is_right_or_refused(rule, backend, whole):
    torch.compiler.reset()
    plain, image = classifier_of(Hidden(nn.ReLU())), photos()
    compiled = classifier_of(Hidden(torch.compile(nn.ReLU(), backend=backend)))
    if whole:
        compiled.network = torch.compile(plain.network, backend=backend)
    try:
        pixels = raw(rule, compiled, image, Target(index=(0,)))
    except RuleError:
        return
    near(pixels, raw(rule, plain, image, Target(index=(0,))))


@rules
def test_a_smooth_activation_keeps_its_derivative_and_is_noted(rule):
    layers = [nn.Conv2d(3, 5, 3), nn.SiLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    classifier, image = classifier_of(nn.Sequential(*layers, nn.Linear(4, 3))), photos()
    explanation = found(rule, classifier, image, Target(index=(0,)))
    near(explanation.raw[0], project(classifier, image[0], rule, 0))
    assert "SiLU kept its own derivative (1 times)" in explanation.notes


@pytest.mark.parametrize("activation", [nn.GELU(), nn.ELU(), nn.LeakyReLU(), nn.PReLU(), nn.Mish(), nn.Hardswish()])
def test_every_smooth_activation_is_noted(activation):
    classifier = classifier_of(Hidden(activation))
    notes = found("guided", classifier, photos(), Target(index=(0,))).notes
    assert f"{type(activation).__name__} kept its own derivative (1 times)" in notes


@pytest.mark.parametrize(
    ("name", "said"), [("alexnet-like", None), ("one pool", "this network has one max pool"), ("none", "no max pool")]
)
def test_deconvnet_says_when_there_are_few_switches(name, said):
    pools = {"one pool": [nn.MaxPool2d(2)], "none": []}
    if name in BOOK:
        classifier, image = book(name)
    else:
        layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), *pools[name], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)]
        classifier, image = classifier_of(nn.Sequential(*layers)), photos()
    notes = " ".join(found("deconvnet", classifier, image, Target(index=(0,))).notes)
    assert (said in notes) if said else ("switches" not in notes)


def test_rules_do_not_change_scores():
    net = seeded(Skip("method in place"))
    classifier, image = classifier_of(net), photos()
    wanted = classifier(image)[:, 1]
    for rule in CAPTUM:
        near(found(rule, classifier, image, Target(index=(1,))).scores, wanted)
