"""Objectives against their definitions, written out in loops over numbers in float64."""

import math

import numpy as np
import pytest
import torch

from convscope.optvis.objectives import (
    LOGITS,
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
from tests.nets import photos
from tests.optvis.answers import (
    MAPS,
    POOLED,
    SIZE,
    SMALL,
    VECTOR,
    drawn,
    near,
    output,
    scores,
    seen,
    three,
)


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
