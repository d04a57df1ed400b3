"""Targets: what a word means, the score it stands for, and what is said where it means nothing."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.errors import UsageError
from convscope.instrument.address import Address, parse_address
from convscope.instrument.target import Target, first_argmax, joined, resolve_target, strongest_units
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier
from tests.instrument.nets import Loop, Student
from tests.nets import seeded

NAMES = ("tabby, tabby cat", "tiger cat", "crane", "crane", "7", "fc")
SYNSETS = tuple(f"n0{i}" for i in range(6))
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="module")
def student():
    return Classifier(seeded(Student()), Classes(NAMES, SYNSETS))


def maps(classifier, images=IMAGES):
    """conv2's maps."""
    net = classifier.network
    return net.conv2(F.max_pool2d(F.relu(net.conv1(images)), 2)).detach()


def find(classifier, spec, count=1, **options):
    return resolve_target(classifier, IMAGES[:count], spec, **options)


# --- words


@pytest.mark.parametrize(
    ("spec", "index"),
    [
        (1, 1),
        ("1", 1),
        ("tiger cat", 1),
        ("Tiger Cat", 1),
        ("tabby, tabby cat", 0),
        ("tabby cat", 0),
        ("n03", 3),
        ("7", 4),  # a name before a number
        ("fc", 5),  # a class before a layer
        (np.int64(1), 1),
        (np.array(2), 2),
        (torch.tensor(1), 1),
    ],
)
def test_classes(student, spec, index):
    assert find(student, spec) == (Target(index=(index,)), [0])
    assert find(student, spec, 3) == (Target(index=(index,) * 3), [0, 1, 2])


@pytest.mark.parametrize(
    ("spec", "index"),
    [
        ("@logits:tabby", (0,)),
        ("@logits:tabby,tiger cat", (0, 1)),
        ("@logits:tabby, tabby cat", (0,)),
        ("@logits:tabby, tiger cat,n03", (0, 1, 3)),
        ("@logits:2,3", (2, 3)),
    ],
)
def test_logits(student, spec, index):
    assert find(student, spec) == (Target(index=index), [0] * len(index))
    assert find(student, spec, 2) == (Target(index=index * 2), sorted([0, 1] * len(index)))


CONV2 = parse_address("conv2")


@pytest.mark.parametrize(
    ("spec", "target"),
    [
        ("conv2:3", Target(CONV2, (3,))),
        ("conv2:3@2,5", Target(CONV2, (3,), position=(2, 5))),
        ("conv2:1,3-4", Target(CONV2, (1, 3, 4))),
        ("@last_conv:2", Target(parse_address("/relu#2"), (2,))),
        ("/relu:1", Target(parse_address("/relu"), (1,))),
        ("fc:2", Target(parse_address("fc"), (2,))),
    ],
)
def test_units(student, spec, target):
    assert find(student, spec) == (target, [0] * len(target.index))


def test_a_range_of_units_for_each_image(student):
    target, rows = find(student, "conv2:0-2", 2)
    assert target == Target(CONV2, (0, 1, 2, 0, 1, 2))
    assert rows == [0, 0, 0, 1, 1, 1]


def test_a_layer_alone_means_each_images_strongest_units(student):
    target, rows = find(student, "conv2", 3, strongest=2)
    order = [sorted(range(5), key=lambda unit: -float(image[unit].max()))[:2] for image in maps(student)]
    assert target == Target(CONV2, tuple(order[0] + order[1] + order[2]))
    assert rows == [0, 0, 1, 1, 2, 2]
    assert len(find(student, "conv2", strongest=99)[1]) == 5, "more than there are"
    assert len(find(student, "fc#1", strongest=4)[1]) == 4, "numbers have no maps to take the maximum of"


def test_lists(student):
    assert find(student, ["tabby", 3, "n01"], 3) == (Target(index=(0, 3, 1)), [0, 1, 2])
    assert find(student, np.array([2, 0, 1]), 3) == (Target(index=(2, 0, 1)), [0, 1, 2])
    assert find(student, torch.tensor([2, 0, 1]), 3) == (Target(index=(2, 0, 1)), [0, 1, 2])
    assert find(student, ["tabby", 3]) == (Target(index=(0, 3)), [0, 0]), "several targets of one image"


def test_against(student):
    assert find(student, "tabby", 2, against="n03") == (Target(index=(0, 0), against=(3, 3)), [0, 1])
    assert find(student, None, against=1) == (Target(against=(1,)), [0])


def test_functions_and_none(student):
    assert find(student, None, 2) == (Target(), [0, 1])
    assert find(student, torch.Tensor.sum, 2) == (Target(function=torch.Tensor.sum), [0, 1])


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("tabbi", {}, "unknown target 'tabbi'; nearest: tabby.* \\(classes: .*; tiger cat; "),
        ("conf2", {}, "unknown target 'conf2'; nearest: conv2"),
        ("crane", {}, r"class 'crane' names 2 classes: give the index instead, 2 \(n02\) or 3 \(n03\)"),
        (6, {}, "class index 6 is out of range: the model has 6 classes"),
        (-1, {}, "class index -1 is out of range"),
        ("99", {}, "class index 99 is out of range"),
        ("conf2:3", {}, "unknown layer 'conf2'; nearest: conv2"),
        ("conv2:x", {}, "'conv2:x' is not a layer or unit"),
        ("conv2:3@4", {}, "'conv2:3@4' is not a layer or unit"),
        ("conv2:1,2@4,4", {}, "a position needs one unit"),
        ("conv*:1", {}, "selects 2 layers, one is needed"),
        ("@stages:1", {}, "selects 2 layers, one is needed"),
        ("@nowhere:1", {}, "unknown alias '@nowhere'"),
        ("/relu#3:1", {}, "unknown function call"),
        ("@logits", {}, "@logits needs classes"),
        ("@logits:", {}, "@logits needs classes"),
        ("@logitstabby", {}, "@logits needs classes"),
        ("@logits:tabby,lion", {}, "unknown class 'lion'"),
        ("@logits:crane", {}, "names 2 classes"),
        ([], {}, "an empty list"),
        (["tabby", "lion"], {}, "unknown class 'lion'"),
        ("tabby", {"against": "lion"}, "unknown class 'lion'"),
        ("conv2:1", {"against": "tabby"}, "against= compares classes, the target is a unit"),
        (torch.Tensor.sum, {"against": "tabby"}, "put the difference into the target function"),
        ("conv2", {"strongest": 0}, "strongest must be at least 1, got 0"),
    ],
)
def test_what_means_nothing(student, spec, options, message):
    with pytest.raises(UsageError, match=message):
        find(student, spec, **options)


def test_a_list_of_another_length(student):
    for spec in ([1, 2], torch.tensor([1])):
        with pytest.raises(UsageError, match=f"{len(spec)} targets for 3 images: give one, or one an image"):
            find(student, spec, 3)


def test_a_layer_named_as_a_number_needs_its_unit():
    classifier = Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 196, 5)).double())
    assert find(classifier, "0")[0] == Target(index=(0,))
    assert find(classifier, "0:2")[0] == Target(Address("0"), (2,))
    assert find(classifier, "class 3")[0] == Target(index=(3,))


# --- scores


def test_score_of_a_class(student):
    logits = student(IMAGES)
    scores, settled = Target(index=(4, 0, 1)).score(student, IMAGES)
    assert torch.equal(scores, logits[[0, 1, 2], [4, 0, 1]])
    assert settled == Target(index=(4, 0, 1))
    scores, _ = Target(index=(4, 0, 1), against=(0, 0, 5)).score(student, IMAGES)
    assert torch.equal(scores, logits[[0, 1, 2], [4, 0, 1]] - logits[[0, 1, 2], [0, 0, 5]])


def test_score_of_the_most_probable_class(student):
    logits = student(IMAGES)
    scores, settled = Target(against=(2, 2, 2)).score(student, IMAGES)
    assert settled.index == tuple(logits.argmax(1).tolist())
    assert torch.equal(scores, logits.amax(1) - logits[:, 2])


def test_score_of_a_unit_is_its_maximum_and_of_a_neuron_its_own(student):
    scores, settled = Target(CONV2, (3, 1, 0)).score(student, IMAGES)
    assert torch.equal(scores, maps(student)[[0, 1, 2], [3, 1, 0]].amax((1, 2)))
    assert settled.index == (3, 1, 0)
    scores, _ = Target(CONV2, (3, 1, 0), position=(6, 2)).score(student, IMAGES)
    assert torch.equal(scores, maps(student)[[0, 1, 2], [3, 1, 0], 6, 2])


def test_score_of_a_linear_layers_unit(student):
    scores, _ = Target(Address("fc"), (2, 0, 5)).score(student, IMAGES)
    assert torch.equal(scores, student(IMAGES)[[0, 1, 2], [2, 0, 5]])
    with pytest.raises(UsageError, match=r"fc has no rows and columns: its output is \(6,\)"):
        Target(Address("fc"), (2,), position=(0, 0)).score(student, IMAGES[:1])


def test_the_pass_ends_at_the_unit(student):
    ran = []
    handle = student.network.fc.register_forward_hook(lambda *_: ran.append(1))
    Target(CONV2, (3,)).score(student, IMAGES[:1])
    handle.remove()
    assert not ran


def test_score_of_a_function(student):
    def margin(logits):
        top = logits.topk(2).values
        return top[:, 0] - top[:, 1]

    scores, settled = Target(function=margin).score(student, IMAGES)
    assert torch.equal(scores, margin(student(IMAGES)))
    assert settled.index is None


@pytest.mark.parametrize(
    ("function", "got"), [(torch.Tensor.sum, r"\(\)"), (lambda x: x[:, :1], r"\(3, 1\)"), (lambda x: 1.0, "float")]
)
def test_a_function_must_give_one_score_an_image(student, function, got):
    with pytest.raises(UsageError, match=rf"one score an image, \(3,\), got {got}"):
        Target(function=function).score(student, IMAGES)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(CONV2, (5,)), "unit 5 is out of range: conv2 has 5 units"),
        (Target(CONV2, (1,), position=(8, 0)), "position 8,0 is out of range: the maps of conv2 are 8x8"),
        (Target(CONV2, (1,), position=(0, -1)), "position 0,-1 is out of range"),
        (Target(index=(6,)), "class index 6 is out of range: the model has 6 classes"),
        (Target(index=(1, 2)), "2 targets for 1 images"),
    ],
)
def test_out_of_range(student, target, message):
    with pytest.raises(UsageError, match=message):
        target.score(student, IMAGES[:1])


def test_a_unit_needs_a_layer_with_units():
    class Tokens(nn.Module):
        def forward(self, x):
            return x.flatten(2)

    classifier = Classifier(nn.Sequential(Tokens(), nn.Flatten(), nn.Linear(768, 5)).double())
    with pytest.raises(UsageError, match=r"layer 0 gives \(3, 256\) an image: neither maps nor numbers"):
        Target(Address("0"), (1,)).score(classifier, IMAGES[:1])
    with pytest.raises(UsageError, match="a target in 0 needs a unit"):
        Target(Address("0"))


# --- ties


def test_of_equal_values_the_first_counts():
    x = torch.zeros(2, 1, 3, 4)
    x[0, 0, 1, 2] = x[0, 0, 2, 0] = 5.0
    x.requires_grad_()
    scores = Target(CONV2, (0, 0)).pick(x)
    scores.sum().backward()
    assert x.grad[0].nonzero().tolist() == [[0, 1, 2]]
    assert x.grad[1].nonzero().tolist() == [[0, 0, 0]]
    assert Target().settle(torch.tensor([[1.0, 3, 3], [2, 2, 2]])).index == (1, 0)
    many = torch.zeros(2, 5000)
    many[0, 37] = many[0, 4000] = 1
    assert first_argmax(many).tolist() == [37, 0]


def test_equally_strong_units_come_in_their_order():
    net = nn.Sequential(nn.Conv2d(3, 6, 1), nn.Flatten(), nn.Linear(6 * 256, 5)).double()
    nn.init.zeros_(net[0].weight)
    net[0].bias.data = torch.tensor([0.0, 1, 1, 0, 1, 2]).double()
    assert strongest_units(Classifier(net), IMAGES[:2], Address("0"), 4) == [(5, 1, 2, 4)] * 2


# --- parts and names


def test_parts_of_a_batch():
    target = Target(index=(4, 0, 1), against=(1, 2, 3))
    assert target[1:] == Target(index=(0, 1), against=(2, 3))
    assert target[[2, 0]] == Target(index=(1, 4), against=(3, 1))
    assert target[1:2].repeat(3) == Target(index=(0, 0, 0), against=(2, 2, 2))
    assert joined([target[:1], target[1:]]) == target
    assert Target()[1:] == Target() == joined([Target(), Target()])
    unit = Target(CONV2, (1, 2), position=(0, 1))
    assert joined([unit[:1], unit[1:]]) == unit


def test_labels(student):
    classes = student.classes
    assert Target(index=(0, 1)).labels(classes, 2) == ("tabby", "tiger cat")
    assert Target(index=(0,), against=(1,)).labels(classes, 1) == ("tabby against tiger cat",)
    assert Target(index=(3,)).labels(None, 1) == ("class 3",)
    assert Target(CONV2, (3, 4), position=(1, 2)).labels(classes, 2) == ("conv2:3@1,2", "conv2:4@1,2")
    assert Target().labels(classes, 2) == ("most probable class",) * 2
    assert Target(function=torch.sum).labels(classes, 1) == ("sum",)


def test_a_class_and_a_layer_of_one_name():
    """``blocks`` alone would be a layer; a class of that name comes first."""
    classifier = Classifier(seeded(Loop()), Classes(("stem", "b", "c", "d", "e", "f")))
    assert find(classifier, "stem")[0] == Target(index=(0,))
    assert find(classifier, "stem:1")[0] == Target(Address("stem"), (1,))
