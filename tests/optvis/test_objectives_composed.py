"""Objectives that are added and multiplied: scores, names, units; and what is refused."""

import re

import pytest
import torch

from convscope.errors import ConvscopeError, UsageError
from convscope.models.classifier import Classifier
from convscope.optvis.objectives import (
    LOGITS,
    Objective,
    Seen,
    channel,
    cosine,
    direction,
    diversity,
    energy,
    l2,
    logit,
    neuron,
    total_variation,
)
from convscope.optvis.plan import check
from tests.nets import MEAN, STD, photos, seeded, vgg_like
from tests.optvis.answers import CLASSES, MAPS, POOLED, SIZE, SMALL, VECTOR, drawn, near, scores, three

A, B = channel(MAPS, [3, 0, 2]), channel(SMALL, [1, 4, 5])
ONE = logit(2)


def test_sums_differences_products_and_numbers():
    a, b, one = scores(A), scores(B), scores(ONE)
    for objective, wanted in [
        (A + B, a + b),
        (A - B, a - b),
        (A * B, a * b),
        (-A, -a),
        (0.5 * A, a / 2),
        (A * 2, a * 2),
        (A - 0.5 * B, a - b / 2),
        (A + ONE, a + one),
        (ONE - A, one - a),
        (A * ONE * 3, a * one * 3),
        (sum([A, B, ONE]), a + b + one),
        (-(A + B) * (A - ONE), -(a + b) * (a - one)),
        (2 * (A + B), 2 * (a + b)),
        (A - (B - ONE), a - (b - one)),
    ]:
        near(scores(objective), wanted)
        assert objective.count == 3


def test_one_unit_is_weighed_against_many():
    both = channel(MAPS, 1) - A
    assert both.count == 3
    near(scores(both), scores(channel(MAPS, [1, 1, 1])) - scores(A))
    near(
        scores(both, three()[:1], rows=[2]),
        scores(channel(MAPS, 1), three()[:1]) - scores(channel(MAPS, 2), three()[:1]),
    )


def test_groups_of_two_and_three_are_whole_in_groups_of_six():
    both = diversity(SMALL, 2) + diversity(SMALL, 3)
    assert both.group == (ONE + both).group == (A.repeated(2) + both).group == 6
    images = photos(6, height=SIZE[0], width=SIZE[1])
    near(scores(both, images), scores(diversity(SMALL, 2), images) + scores(diversity(SMALL, 3), images))


def test_what_is_read_is_named_once():
    both = A + 2 * A - B
    assert [need.layer for need in both.needs] == [MAPS, SMALL]


def test_strength_is_the_size_as_a_constant():
    images = three().requires_grad_()
    weights = torch.tensor([-1.0, 2.0, -3.0], dtype=torch.float64)
    own = Objective(lambda found: found.canvas.flatten(1).sum(1) * weights, names=("a", "b", "c"))
    sized = own.strength.score(Seen({}, images, range(3)))
    near(sized, [abs(float(w * one.sum())) for w, one in zip(weights, images.detach(), strict=True)])
    assert not sized.requires_grad
    assert own.score(Seen({}, images, range(3))).requires_grad


def test_an_objective_that_is_repeated_has_each_picture_so_often():
    twice = A.repeated(2)
    assert twice.names == (f"{MAPS}:3",) * 2 + (f"{MAPS}:0",) * 2 + (f"{MAPS}:2",) * 2
    images = photos(6, height=SIZE[0], width=SIZE[1])
    near(scores(twice, images), scores(channel(MAPS, [3, 3, 0, 0, 2, 2]), images))
    near(scores(twice, images[:2], rows=[5, 2]), scores(channel(MAPS, [2, 0]), images[:2]))
    assert A.repeated(1).names == A.names


def test_an_objective_that_is_repeated_adds_to_others():
    images = photos(6, height=SIZE[0], width=SIZE[1])
    for many in (channel(SMALL, [0, 1, 2, 3, 4, 5]), ONE):
        near(scores(A.repeated(2) + many, images), scores(A.repeated(2), images) + scores(many, images))


def units_of(objective):
    return [objective.unit(row, CLASSES) for row in range(objective.count)]


@pytest.mark.parametrize(
    ("objective", "layer", "wanted"),
    [
        (A, MAPS, [3, 0, 2]),
        (-2 * A, MAPS, [3, 0, 2]),
        (A.strength, MAPS, [3, 0, 2]),
        (A.repeated(2), MAPS, [3, 3, 0, 0, 2, 2]),
        (A.repeated(2).repeated(2), MAPS, [3] * 4 + [0] * 4 + [2] * 4),
        (A.repeated(2) + diversity(SMALL, 2), MAPS, [3, 3, 0, 0, 2, 2]),
        (0.1 * l2() + A, MAPS, [3, 0, 2]),
        (ONE + A, LOGITS, [2, 2, 2]),
        (A.repeated(2) - channel(SMALL, range(6)), MAPS, [3, 3, 0, 0, 2, 2]),
        (channel(SMALL, range(6)) - A.repeated(2), SMALL, [0, 1, 2, 3, 4, 5]),
        (direction(POOLED, drawn(6, 6)) + A.repeated(2), MAPS, [3, 3, 0, 0, 2, 2]),
        (logit(["tiger cat", 1]), LOGITS, [3, 1]),
    ],
)
def test_the_unit_of_each_picture_is_the_first_that_is_read(objective, layer, wanted):
    assert [(need.layer, unit) for need, unit in units_of(objective)] == [(layer, unit) for unit in wanted]


@pytest.mark.parametrize("objective", [energy(MAPS), direction(POOLED, drawn(2, 6)), l2(), diversity(SMALL, 3)])
def test_an_objective_of_no_unit_says_so(objective):
    assert set(units_of(objective)) == {None}


NAMES = [
    (channel("features.3", [3, 0]), ["features.3:3", "features.3:0"]),
    (channel("relu#2", 3), ["relu#2:3"]),
    (neuron("features.3", 7), ["features.3:7"]),
    (neuron("features.3", 7, 4, 2), ["features.3:7@4,2"]),
    (logit(["tench", 1]), ["@logits:tench", "@logits:1"]),
    (direction("a", drawn(1, 6)), ["direction of a"]),
    (direction("a", drawn(2, 6)), ["direction 0 of a", "direction 1 of a"]),
    (cosine("a", drawn(6)), ["cosine of a"]),
    (energy("a"), ["energy of a"]),
    (-channel("a", 1), ["-a:1"]),
    (channel("a", 1) - 0.5 * channel("b", [2, 3]), ["a:1 - 0.5 b:2", "a:1 - 0.5 b:3"]),
    (channel("a", 1) + l2(), ["a:1 + paleness"]),
    (channel("a", 1) * channel("b", 2) + total_variation(), ["a:1 * b:2 + smoothness"]),
]


@pytest.mark.parametrize(("objective", "names"), NAMES)
def test_names_say_what_a_picture_is_of(objective, names):
    assert list(objective.names) == names
    assert [objective.name(row) for row in range(len(names))] == names


a, b, c = (channel(layer, 0) for layer in "abc")


@pytest.mark.parametrize(
    ("objective", "value"),
    [
        (2 * (a + b), 2 * (3 + 5)),
        (-(a + b), -(3 + 5)),
        (a - (b + c), 3 - (5 + 7)),
        (a - (b - c), 3 - (5 - 7)),
        ((a + b) * c, (3 + 5) * 7),
        (a * (b - c), 3 * (5 - 7)),
        (2 * -a, 2 * -3),
        (a - -b, 3 + 5),
        (-(a * b) - 2 * (c - 3 * a), -(3 * 5) - 2 * (7 - 3 * 3)),
        (-(-2 * a), 6),
    ],
)
def test_a_name_means_what_the_objective_does(objective, value):
    """Read as arithmetic it comes to the score: two objectives that differ are not called the same."""
    name = re.sub(r"([abc]):0", lambda m: {"a": "3", "b": "5", "c": "7"}[m[1]], objective.name(0))
    name = re.sub(r"(?<=[0-9]) (?=[0-9(])", " * ", name)
    assert eval(name) == value, objective.name(0)
    given = {layer: torch.full((1, 1, 2, 2), number) for layer, number in (("a", 3.0), ("b", 5.0), ("c", 7.0))}
    assert float(objective.score(Seen(given, three()[:1], [0]))) == value


# --- refusals


REFUSED = {
    "no unit": (lambda: channel(MAPS, []), "at least one unit"),
    "a unit below 0": (lambda: channel(MAPS, -1), "counted from 0, got -1"),
    "units below 0": (lambda: neuron(MAPS, [0, -2]), "counted from 0, got [0, -2]"),
    "a unit that is a truth": (lambda: channel(MAPS, True), "units are numbers, got True"),
    "a mask": (lambda: channel(MAPS, torch.tensor([True, False])), "units are numbers"),
    "a unit that is a fraction": (lambda: channel(MAPS, 1.5), "units are numbers"),
    "units that are fractions": (lambda: channel(MAPS, [0, 1.5]), "units are numbers"),
    "units that are fractions of torch": (lambda: channel(MAPS, torch.rand(3)), "units are numbers"),
    "no units": (lambda: channel(MAPS, None), "units are numbers"),
    "a class below 0": (lambda: logit(-1), "counted from 0"),
    "a unit by name": (lambda: channel(MAPS, "goldfish"), "'goldfish'"),
    "units by name": (lambda: neuron(MAPS, [0, "goldfish"]), "'goldfish'"),
    "half a place": (lambda: neuron(MAPS, 0, row=3), "give both"),
    "an address with units": (lambda: channel("features.3:7", 0), "as in channel('features.3', ...)"),
    "an address of nothing": (lambda: channel("", 0), "is not a layer"),
    "a list for a vector": (lambda: direction(MAPS, [1.0, 2.0]), "a direction is a tensor"),
    "a number for a vector": (lambda: direction(MAPS, torch.tensor(1.0)), "a direction is a tensor"),
    "five dimensions": (lambda: cosine(MAPS, drawn(1, 1, 1, 1, 1)), "a direction is a tensor"),
    "an empty vector": (lambda: cosine(MAPS, torch.zeros(0, 4)), "a direction is a tensor"),
    "a vector of zeros": (lambda: direction(MAPS, torch.zeros(4)), "not zero everywhere"),
    "a vector that is not finite": (lambda: cosine(MAPS, torch.tensor([1.0, torch.nan])), "finite"),
    "diversity of one": (lambda: diversity(MAPS, 1), "among several pictures, got 1"),
    "three and two": (lambda: A + channel(MAPS, [0, 1]), "3 and 2 pictures"),
    "two and three": (lambda: channel(MAPS, [0, 1]) * A, "2 and 3 pictures"),
    "three in groups of two": (lambda: A + diversity(MAPS, 2), "3 pictures"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_meant_is_refused_in_a_line(make, words):
    with pytest.raises(UsageError, match=re.escape(words)) as refused:
        make()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 160


@pytest.mark.parametrize("make", [lambda: A + 1, lambda: 1 - A, lambda: A * "2", lambda: 1 + A])
def test_only_objectives_are_added_and_only_numbers_scale(make):
    with pytest.raises(TypeError, match=r"unsupported operand|can't multiply"):
        make()


UNFITTING = {
    "unit": (channel(MAPS, [0, 4]), "unit 4 is out of range: 5 has 4 units, 0 to 3"),
    "unit of numbers": (channel(VECTOR, 8), "15 has 8 units, 0 to 7"),
    "class": (logit(4), "class index 4 is out of range"),
    "class by name": (logit("goldfsh"), "unknown class 'goldfsh'; nearest: goldfish"),
    "layer": (channel("55", 0), "unknown layer '55'"),
    "place": (neuron(SMALL, 0, 11, 0), "position 11,0 is out of range: the maps of 12 are 11x13"),
    "place below 0": (neuron(SMALL, 0, 0, -1), "position 0,-1 is out of range"),
    "neuron of numbers": (neuron(VECTOR, 0), "15 has no rows and columns"),
    "width": (direction(MAPS, drawn(5)), "the direction has 5 numbers, 5 has 4 units"),
    "places of numbers": (direction(VECTOR, drawn(8, 2, 2)), "15 has no rows and columns"),
    "diversity of numbers": (diversity(VECTOR, 2), "15 has no rows and columns"),
}


@pytest.mark.parametrize(("objective", "words"), UNFITTING.values(), ids=UNFITTING.keys())
def test_what_the_network_does_not_have_is_refused_in_a_line(objective, words):
    classifier = Classifier(seeded(vgg_like(), seed=3), CLASSES, mean=MEAN, std=STD)
    with pytest.raises(ConvscopeError, match=re.escape(words)) as refused:
        check(classifier, objective, SIZE)
    assert "\n" not in str(refused.value)
