"""Every attribution method on a classifier whose right answer is known by construction: is the evidence found?"""

import pytest
import torch

from convscope.instrument.target import Target
from convscope.methods import METHODS, configure
from convscope.models.classifier import Classifier
from tests.nets import Planted, planted_photo

SIDE, BLOB = 48, 10
LAYOUTS = [((4, 6), (33, 30), (6, 34)), ((34, 3), (2, 3), (32, 35))]  # of the red, the green and the blue blob
SETTINGS = {"rise": {"masks": 600}, "occlusion": {"stride": 3}}

# The least share of a map's positive mass in the blob, which covers 4 % of the image. Occlusion's squares reach over
# its border; RISE's masks, of seven pixels a cell, reach further and leave the noise of their number.
LEAST = {"occlusion": 0.6, "rise": 0.3, "score-cam": 0.8}
OTHERWISE = 0.95
# The greatest share in the blobs of the two other classes together. Score-CAM's weights are never quite 0.
MOST_ELSEWHERE = 0.05

ATTRIBUTIONS = [n for n, c in METHODS.items() if c.traits.kind in ("map", "pixels") and c.traits.targeted]
on_each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def mass(raw, traits):
    """What a result says speaks for the target: "h w", at least 0."""
    if traits.kind == "pixels":
        return raw.abs().sum(0)
    return (raw - raw.median() if traits.sign == "relative" else raw).clamp(min=0)


def share(values, place):
    row, col = place
    return float(values[row : row + BLOB, col : col + BLOB].sum() / values.sum())


def points_into(values, place):
    row, col = divmod(int(values.argmax()), SIDE)
    return place[0] <= row < place[0] + BLOB and place[1] <= col < place[1] + BLOB


def explained(name, net, layout):
    """Each class's map of a photo with all three blobs."""
    image = planted_photo(layout, side=SIDE, blob=BLOB)
    method = configure(name, SETTINGS.get(name, {}))
    found = method.run(Classifier(net), image.repeat(3, 1, 1, 1), Target(index=(0, 1, 2)))
    return [mass(raw, found.traits) for raw in found.raw]


@on_each_layout
@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_the_evidence_of_each_class_is_found_and_no_other(name, layout):
    for index, values in enumerate(explained(name, Planted(), layout)):
        assert points_into(values, layout[index])
        assert share(values, layout[index]) >= LEAST.get(name, OTHERWISE)
        assert sum(share(values, place) for i, place in enumerate(layout) if i != index) <= MOST_ELSEWHERE


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_the_map_follows_the_weights(name):
    net, layout = Planted(), LAYOUTS[0]
    net[8].weight.data = net[8].weight.data[[1, 2, 0]]  # now class 0 is green, 1 blue and 2 red
    for values, colour in zip(explained(name, net, layout), (1, 2, 0), strict=True):
        assert points_into(values, layout[colour])


@pytest.mark.parametrize("name", [n for n in METHODS if METHODS[n].traits.kind == "map" and n not in ATTRIBUTIONS])
@pytest.mark.parametrize("colour", [0, 1, 2])
def test_a_map_that_knows_no_class_finds_the_one_blob_there_is(name, colour):
    place = LAYOUTS[1][colour]
    image = planted_photo([place if i == colour else None for i in range(3)], side=SIDE, blob=BLOB)
    found = configure(name).run(Classifier(Planted()), image[None], Target())
    assert points_into(found.raw[0], place)
    assert share(mass(found.raw[0], found.traits), place) >= OTHERWISE


# --- the test itself: the classifier is what it is said to be, and what knows nothing fails


@on_each_layout
def test_a_class_is_its_blob_alone(layout):
    net, image = Planted(), planted_photo(layout, side=SIDE, blob=BLOB)
    clean = net(image[None])[0]
    assert bool((clean > 5).all())
    for index, (row, col) in enumerate(layout):
        hidden = image.clone()
        hidden[:, row : row + BLOB, col : col + BLOB] = 0.5
        found = net(hidden[None])[0].detach()
        assert float(found[index]) == pytest.approx(0.5)  # the bias: the noise elsewhere gives exactly nothing
        assert torch.equal(found[[i for i in range(3) if i != index]], clean[[i for i in range(3) if i != index]])


def centre():
    rows = torch.arange(SIDE) - (SIDE - 1) / 2
    return torch.exp(-(rows[:, None] ** 2 + rows**2) / (2 * (SIDE / 4) ** 2))


def edges(layout):
    grey = planted_photo(layout, side=SIDE, blob=BLOB).mean(0)
    return torch.nn.functional.pad(grey.diff(dim=0).abs()[:, 1:] + grey.diff(dim=1).abs()[1:], (0, 1, 0, 1))


@on_each_layout
def test_what_knows_nothing_fails(layout):
    generator = torch.Generator().manual_seed(0)
    for values in (centre(), torch.rand(SIDE, SIDE, generator=generator), edges(layout)):
        assert max(share(values, place) for place in layout) < min(LEAST.values()) / 2
