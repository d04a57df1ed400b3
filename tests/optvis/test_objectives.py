"""Objectives against their definitions, written out in loops over numbers in float64."""

import math
import re

import numpy as np
import pytest
import torch

from convscope.errors import ConvscopeError, UsageError
from convscope.models.classes import Classes
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
from tests import oracles
from tests.nets import MEAN, STD, photos, seeded, vgg_like

SIZE = (22, 27)
MAPS, SMALL, VECTOR = "5", "12", "15"  # 4 maps of 22x27, 6 of 11x13, 8 numbers
CLASSES = Classes(("tench, Tinca tinca", "goldfish", "great white shark", "tiger cat"))


def made(images):
    """Each layer's output, by the layers one after the other."""
    shape = (1, 3, 1, 1)
    x = (images - images.new_tensor(MEAN).view(shape)) / images.new_tensor(STD).view(shape)
    outputs = {}
    with torch.no_grad():
        for name, layer in seeded(vgg_like(), seed=3).named_children():
            outputs[name] = x = layer(x)
    return outputs | {LOGITS: x}


def seen(images, rows=None, views=1, canvas=None):
    """What the network makes of ``images``, as views of ``canvas``."""
    canvas = images if canvas is None else canvas
    return Seen(made(images), canvas, range(len(canvas)) if rows is None else rows, CLASSES, views)


def three():
    return photos(3, height=SIZE[0], width=SIZE[1])


def scores(objective, images=None, **more):
    return objective.score(seen(three() if images is None else images, **more))


def drawn(*shape, seed=5):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def near(found, wanted, tolerance=1e-10):
    """With numbers of Python as float64."""
    oracles.near(found, wanted if isinstance(wanted, torch.Tensor) else np.asarray(wanted), tolerance)


def output(layer, images=None):
    return made(three() if images is None else images)[layer].numpy()


def mean_over_places(values):
    """Of "h w"."""
    total = 0.0
    for row in range(values.shape[0]):
        for col in range(values.shape[1]):
            total += values[row, col]
    return total / (values.shape[0] * values.shape[1])


def dot(a, b):
    return sum(float(x) * float(y) for x, y in zip(a.ravel(), b.ravel(), strict=True))


# --- what units say


@pytest.mark.parametrize("layer", [MAPS, SMALL])
def test_a_channel_is_the_mean_over_all_places_of_its_own_picture(layer):
    units = [3, 0, 2]
    wanted = [mean_over_places(output(layer)[i, unit]) for i, unit in enumerate(units)]
    near(scores(channel(layer, units)), wanted)


def test_one_channel_goes_with_any_number_of_pictures():
    for count in (1, 3):
        images = three()[:count]
        wanted = [mean_over_places(output(MAPS)[i, 1]) for i in range(count)]
        near(scores(channel(MAPS, 1), images), wanted)


def test_a_channel_of_a_layer_without_rows_and_columns_is_the_unit_itself():
    near(scores(channel(VECTOR, [7, 0, 4])), [output(VECTOR)[i, unit] for i, unit in enumerate((7, 0, 4))])


def test_a_neuron_is_one_place():
    values = output(SMALL)
    near(scores(neuron(SMALL, [2, 5, 1], 4, 9)), [values[i, unit, 4, 9] for i, unit in enumerate((2, 5, 1))])


@pytest.mark.parametrize(("layer", "row", "col"), [(MAPS, 11, 13), (SMALL, 5, 6)])  # of 22x27 and of 11x13
def test_a_neuron_is_at_the_centre_by_default(layer, row, col):
    near(scores(neuron(layer, [3, 2, 1])), [output(layer)[i, unit, row, col] for i, unit in enumerate((3, 2, 1))])


@pytest.mark.parametrize("classes", [[3, 1, 0], ["tiger cat", "goldfish", "tench"], ["Tiger Cat", 1, "Tinca tinca"]])
def test_a_logit_is_a_class_by_index_or_name(classes):
    near(scores(logit(classes)), [output(LOGITS)[i, unit] for i, unit in enumerate((3, 1, 0))])


def test_a_picture_has_the_unit_of_its_row():
    rows = [2, 0]
    found = scores(channel(MAPS, [3, 0, 2]), three()[:2], rows=rows)
    near(found, [mean_over_places(output(MAPS)[i, (3, 0, 2)[row]]) for i, row in enumerate(rows)])


@pytest.mark.parametrize("make", [lambda units: channel(MAPS, units), lambda units: neuron(SMALL, units)])
@pytest.mark.parametrize("one", [2, np.int64(2), torch.tensor(2)])
def test_units_may_be_numbers_of_numpy_and_torch(make, one):
    near(scores(make(one)), scores(make(2)))
    near(scores(make([one, one, 1])), scores(make([2, 2, 1])))


def test_units_may_be_any_iterable():
    wanted = scores(channel(MAPS, [0, 1, 2]))
    for units in (range(3), (i for i in range(3)), np.arange(3), torch.arange(3)):
        near(scores(channel(MAPS, units)), wanted)


# --- directions


def product_by_hand(maps, vector):
    """Mean over places of the product, of maps "k h w" and a vector "k" or "k h w"."""
    found = np.zeros(maps.shape[1:])
    for row in range(maps.shape[1]):
        for col in range(maps.shape[2]):
            at = vector if vector.ndim == 1 else vector[:, row, col]
            found[row, col] = dot(maps[:, row, col], at)
    return mean_over_places(found)


FORMS = {"k": (6,), "n k": (3, 6), "k h w": (6, 5, 6), "n k h w": (3, 6, 5, 6)}  # for layer 13, 6 maps of 5x6
POOLED = "13"
each_form = pytest.mark.parametrize("shape", FORMS.values(), ids=FORMS.keys())


def own_vectors(vectors):
    return [vectors[i] if vectors.ndim in (2, 4) else vectors for i in range(3)]


@each_form
def test_a_direction_is_the_product_with_a_vector(shape):
    vectors, maps = drawn(*shape), output(POOLED)
    wanted = [product_by_hand(maps[i], v.numpy()) for i, v in enumerate(own_vectors(vectors))]
    near(scores(direction(POOLED, vectors)), wanted)


@each_form
def test_a_cosine_is_the_direction_alone(shape):
    vectors, maps = drawn(*shape), output(POOLED)
    wanted = []
    for i, vector in enumerate(v.numpy() for v in own_vectors(vectors)):
        if vector.ndim == 3:  # all places are one vector
            wanted.append(dot(maps[i], vector) / math.sqrt(dot(maps[i], maps[i]) * dot(vector, vector)))
            continue
        found = np.zeros(maps.shape[2:])
        for row, col in np.ndindex(found.shape):
            at = maps[i, :, row, col]
            length = math.sqrt(dot(at, at) * dot(vector, vector))
            found[row, col] = dot(at, vector) / length if length else 0.0
        wanted.append(mean_over_places(found))
    near(scores(cosine(POOLED, vectors)), wanted, 1e-8)
    near(scores(cosine(POOLED, vectors * 7)), wanted, 1e-8)


@each_form
@pytest.mark.parametrize("power", [1.0, 2.5])
def test_a_cosine_to_a_power_weighs_the_product(shape, power):
    vectors, maps = drawn(*shape).abs(), output(POOLED)
    wanted = []
    for i, vector in enumerate(v.numpy() for v in own_vectors(vectors)):
        if vector.ndim == 3:
            cos = dot(maps[i], vector) / math.sqrt(dot(maps[i], maps[i]) * dot(vector, vector))
            wanted.append(dot(maps[i], vector) / (5 * 6) * max(cos, 0.1) ** power)
            continue
        found = np.zeros(maps.shape[2:])
        for row, col in np.ndindex(found.shape):
            at = maps[i, :, row, col]
            length = math.sqrt(dot(at, at) * dot(vector, vector))
            cos = dot(at, vector) / length if length else 0.0
            found[row, col] = dot(at, vector) * max(cos, 0.1) ** power
        wanted.append(mean_over_places(found))
    near(scores(cosine(POOLED, vectors, power)), wanted, 1e-8)


def test_a_cosine_to_a_power_of_what_points_along_it_is_the_product():
    maps = torch.from_numpy(output(POOLED))
    found = scores(cosine(POOLED, maps, 4.0))
    near(found, [dot(one, one) / 30 for one in maps.numpy()], 1e-8)
    near(found, scores(direction(POOLED, maps)), 1e-8)


def test_a_cosine_looks_no_further_down_than_a_tenth():
    """So that what points the other way still has a way up."""
    vector = -torch.from_numpy(output(VECTOR))
    found = scores(cosine(VECTOR, vector, 2.0))
    near(found, [-dot(one, one) * 0.1**2 for one in vector.numpy()])


def test_directions_of_a_layer_without_rows_and_columns():
    vectors, values = drawn(3, 8), output(VECTOR)
    products = [dot(values[i], vectors[i].numpy()) for i in range(3)]
    lengths = [math.sqrt(dot(values[i], values[i]) * dot(vectors[i].numpy(), vectors[i].numpy())) for i in range(3)]
    near(scores(direction(VECTOR, vectors)), products)
    near(scores(cosine(VECTOR, vectors)), [p / n for p, n in zip(products, lengths, strict=True)])


def bilinear(values, height, width):
    """ "h w" at another size, each pixel at its middle, the border as far as it goes."""
    found = np.zeros((height, width))
    for row, col in np.ndindex(height, width):
        y = min(max((row + 0.5) * values.shape[0] / height - 0.5, 0), values.shape[0] - 1)
        x = min(max((col + 0.5) * values.shape[1] / width - 0.5, 0), values.shape[1] - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, values.shape[0] - 1), min(left + 1, values.shape[1] - 1)
        above = values[top, left] * (1 - x + left) + values[top, right] * (x - left)
        below = values[bottom, left] * (1 - x + left) + values[bottom, right] * (x - left)
        found[row, col] = above * (1 - y + top) + below * (y - top)
    return found


def test_a_vector_for_each_place_is_brought_to_the_size_of_the_maps():
    vectors, maps = drawn(6, 3, 4), output(POOLED)
    fitting = np.stack([bilinear(plane, 5, 6) for plane in vectors.numpy()])
    near(scores(direction(POOLED, vectors)), [product_by_hand(one, fitting) for one in maps])


def test_a_direction_along_one_unit_is_that_channel():
    vectors = torch.eye(6)[[4, 1, 2]]
    near(scores(direction(POOLED, vectors)), scores(channel(POOLED, [4, 1, 2])))


@pytest.mark.parametrize("layer", [MAPS, VECTOR])
def test_energy_is_the_mean_square_of_all(layer):
    near(scores(energy(layer)), [dot(one, one) / one.size for one in output(layer)])


# --- how pictures are among each other, and in themselves


def gram_by_hand(maps):
    flat = maps.reshape(len(maps), -1)
    return np.array([[dot(a, b) for b in flat] for a in flat])


def unlike_by_hand(grams):
    """Minus the mean cosine of each with the others."""
    found = []
    for i, own in enumerate(grams):
        others = [g for j, g in enumerate(grams) if j != i]
        found.append(-sum(dot(own, g) / math.sqrt(dot(own, own) * dot(g, g)) for g in others) / len(others))
    return found


def test_diversity_is_minus_the_mean_cosine_of_gram_matrices_within_a_group():
    images = photos(6, height=SIZE[0], width=SIZE[1])
    grams = [gram_by_hand(one) for one in output(SMALL, images)]
    near(scores(diversity(SMALL, 3), images), unlike_by_hand(grams[:3]) + unlike_by_hand(grams[3:]))
    near(scores(diversity(SMALL, 2), images), [x for i in (0, 2, 4) for x in unlike_by_hand(grams[i : i + 2])])


def test_diversity_of_equal_pictures_is_the_least_there_is():
    near(scores(diversity(SMALL, 3), three()[:1].repeat(3, 1, 1, 1)), [-1.0] * 3)


def test_total_variation_is_minus_the_mean_difference_of_neighbours():
    wanted = []
    for image in three().numpy():
        down = [abs(image[c, i + 1, j] - image[c, i, j]) for c, i, j in np.ndindex(3, SIZE[0] - 1, SIZE[1])]
        right = [abs(image[c, i, j + 1] - image[c, i, j]) for c, i, j in np.ndindex(3, SIZE[0], SIZE[1] - 1)]
        wanted.append(-sum(down) / len(down) - sum(right) / len(right))
    near(scores(total_variation()), wanted)


def test_l2_is_minus_the_mean_square_of_the_distance_from_grey():
    near(scores(l2()), [-sum((float(v) - 0.5) ** 2 for v in one.ravel()) / one.size for one in three().numpy()])


def test_larger_is_better_always():
    flat, noise, black = torch.full((1, 3, *SIZE), 0.5).double(), three()[:1], torch.zeros(1, 3, *SIZE).double()
    assert scores(total_variation(), flat) > scores(total_variation(), noise)
    assert scores(l2(), flat) > scores(l2(), black)
    assert scores(l2(), flat) == scores(total_variation(), black) == 0
    alike, unlike = three()[:1].repeat(2, 1, 1, 1), torch.cat([noise, black])
    assert bool((scores(diversity(SMALL, 2), unlike) > scores(diversity(SMALL, 2), alike)).all())


# --- several views of each picture


VIEWED = {
    "channel": channel(MAPS, [3, 0]),
    "channel of numbers": channel(VECTOR, [7, 2]),
    "one channel": channel(MAPS, 1),
    "neuron": neuron(SMALL, [2, 4], 3, 3),
    "logit": logit(["goldfish", 3]),
    "direction": direction(POOLED, drawn(2, 6)),
    "direction of places": direction(POOLED, drawn(2, 6, 5, 6)),
    "cosine": cosine(POOLED, drawn(2, 6), 1.5),
    "energy": energy(SMALL),
    "diversity": diversity(SMALL, 2),
    "total variation": total_variation(),
    "l2": l2(),
    "sum": channel(MAPS, [3, 0]) - 0.5 * channel(SMALL, 2) + 0.1 * total_variation() + diversity(SMALL, 2),
}


@pytest.mark.parametrize("objective", VIEWED.values(), ids=VIEWED.keys())
@pytest.mark.parametrize("rows", [[0, 1], [1, 0]])
def test_views_are_scored_as_if_each_were_the_picture(objective, rows):
    """Views of a picture follow each other; the third view of one picture is beside the third view of the other."""
    count = 3
    canvas, views = three()[:2], photos(2 * count, height=SIZE[0], width=SIZE[1], seed=9)
    found = scores(objective, views, rows=rows, views=count, canvas=canvas)
    assert found.shape == (2 * count,)
    for view in range(count):
        alone = objective.score(seen(views[view::count], rows=rows, canvas=canvas))
        near(found[view::count], alone)


# --- composition


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
    near(scores(both, three()[:1], rows=[2]), scores(channel(MAPS, 1), three()[:1]) - scores(channel(MAPS, 2), three()[:1]))


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
        (-(-a), 3),
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
    with pytest.raises(TypeError, match="unsupported operand|can't multiply"):
        make()


UNFITTING = {
    "unit": (channel(MAPS, [0, 4]), "unit 4 is out of range: 5 has 4 units, 0 to 3"),
    "unit of numbers": (channel(VECTOR, 8), "15 has 8 units, 0 to 7"),
    "class": (logit(4), "class index 4 is out of range"),
    "class by name": (logit("goldfsh"), "unknown class 'goldfsh'; nearest: goldfish"),
    "layer": (channel("55", 0), "unknown layer '55'"),
    "alias": (channel("@last_conv", 0), "unknown layer '@last_conv'"),
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

