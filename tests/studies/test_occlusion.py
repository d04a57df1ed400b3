"""Occlusion maps: every number against passes over photos with the square painted in, one by one, in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import UsageError
from convscope.instrument.address import parse_address
from convscope.instrument.record import record
from convscope.instrument.target import Target
from convscope.methods import configure as method
from convscope.models.classes import Classes
from convscope.studies import configure
from convscope.studies.subject import Album
from tests.nets import alexnet_like, classifier_of, photos, vgg_like


def album(net=vgg_like, count=2, size=(22, 27), **more):
    return Album.of(classifier_of(net(), classes=Classes(("a", "b", "c", "d"))), photos(count, 3, *size), **more)


def looked_at(own, image, layer):
    """The layer's maps and the class probabilities of one photo."""
    with torch.no_grad(), record(own.classifier.network, [layer]) as kept:
        logits = own.classifier(image[None])
    return kept[layer][0], logits.softmax(1)[0]


def test_every_square_by_brute_force():
    own = album(label="c")
    found = configure("occlusion", {"size": 6, "stride": 5, "layer": "12", "project": "guided"}).run(own)
    squares = iter(found.table("squares").rows)
    for i, image in enumerate(own.images):
        maps, _ = looked_at(own, image, "12")
        unit = int(maps.sum((1, 2)).argmax())
        lowest = (2.0, 0, 0)
        for top in (0, 5, 10, 15, 16):
            for left in (0, 5, 10, 15, 20, 21):
                other = image.clone()
                other[:, top : top + 6, left : left + 6] = 0.5
                maps, shares = looked_at(own, other, "12")
                name, row, col, activation, probability, best = next(squares)
                assert (name, row, col) == (f"image {i}", top, left)
                assert activation == pytest.approx(float(maps[unit].sum()), rel=1e-9)
                assert probability == pytest.approx(float(shares[2]), rel=1e-9)
                assert best == "abcd"[int(shares.argmax())]
                lowest = min(lowest, (float(shares[2]), top, left))
        row = found.table("photos").records()[i]
        assert row["unit"] == unit
        assert (row["lowest"], row["row"], row["col"]) == (pytest.approx(lowest[0]), *lowest[1:])
        assert row["probability"] == pytest.approx(float(looked_at(own, image, "12")[1][2]))
    assert next(squares, None) is None


def test_the_summary_says_what_the_squares_say():
    own = album(alexnet_like, 1, (69, 77))
    found = configure("occlusion", {"size": 16, "stride": 16}).run(own)
    rows, one = found.table("squares").records(), found.table("photos").records()[0]
    clean = own.classes[int(own.probabilities[0].argmax())]
    assert one["other class"] == pytest.approx(np.mean([row["best"] != clean for row in rows]))
    assert one["least"] == pytest.approx(min(row["activation"] for row in rows))
    order = [np.argsort(np.argsort([row[name] for row in rows])) for name in ("activation", "probability")]
    assert one["agreement"] == pytest.approx(np.corrcoef(*order)[0, 1], abs=1e-6)


def test_the_projection_is_of_the_strongest_map_and_of_the_photo_where_it_is_strongest(monkeypatch):
    own = album(count=3)
    study = configure("occlusion", {"size": 22, "stride": 22, "layer": "12", "project": "gradient"})
    seen = []
    monkeypatch.setattr("convscope.studies.occlusion._drawn", lambda album, photos, *rest: seen.extend(photos))
    found = study.run(own)
    found.figures[0].draw()
    sums = torch.stack([looked_at(own, image, "12")[0].sum((1, 2)) for image in own.images])
    for row, one in enumerate(seen):
        unit = int(sums[row].argmax())
        others = [i for i in range(3) if i != row]
        other = max(others, key=lambda i: float(sums[i, unit]))
        assert (one.unit, one.elsewhere) == (unit, other)
        target = Target(parse_address("12"), (unit,))
        for at, projection in ((row, one.projection), (other, one.projected)):
            wanted = method("gradient").run(own.classifier, own.images[at : at + 1], target).raw[0]
            torch.testing.assert_close(projection, wanted)


def test_a_unit_at_the_bound_of_a_relu6_is_projected_from_below_it(monkeypatch):
    """All of its places are at 6 or at 0, where ReLU6 lets no gradient through."""
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(2 * 64, 2))
    own = Album.of(classifier_of(net, mean=None, std=None), photos(1, 3, 10, 10))
    for parameter in net[0].parameters():
        parameter.data.fill_(9)
    seen = []
    monkeypatch.setattr("convscope.studies.occlusion._drawn", lambda album, photos, *rest: seen.extend(photos))
    found = configure("occlusion", {"size": 5, "layer": "1", "project": "gradient"}).run(own)
    found.figures[0].draw()
    assert seen[0].clean == 6 * 64
    wanted = method("gradient").run(own.classifier, own.images, Target(parse_address("0"), (0,))).raw[0]
    assert float(wanted.abs().max()) == 9
    torch.testing.assert_close(seen[0].projection, wanted)


def test_the_method_that_projects_is_chosen_by_the_pools():
    several = configure("occlusion", {"size": 22, "stride": 22}).run(album(count=1))
    assert several.settings["project"] == "deconvnet"
    none = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(4 * 64, 2)
    )
    own = Album.of(classifier_of(none), photos(1, 3, 10, 10))
    assert configure("occlusion", {"size": 5}).run(own).settings["project"] == "guided"


def test_one_photo_and_a_constant_network_are_drawn():
    constant = torch.nn.Sequential(
        torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(128, 2)
    )
    classifier = classifier_of(constant)
    for parameter in constant.parameters():
        parameter.data.zero_()
    found = configure("occlusion", {"size": 5}).run(Album.of(classifier, photos(1, 3, 10, 10)))
    assert found.table("photos").records()[0]["agreement"] is None
    assert found.picture().height > 200


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": "40"}, "a square of 40 does not fit into 22x27"),
        ({"size": "4", "stride": "5"}, "steps of 5 leave gaps"),
        ({"project": "grad-cam"}, "project is 'grad-cam', not one of .*guided"),
        ({"project": "x"}, "project is 'x', not one of"),
        ({"layer": "@stages"}, "@stages selects . layers, one is needed"),
        ({"layer": "nothing"}, "unknown layer 'nothing'"),
        ({"size": "big"}, "occlusion: size is 'big'"),
        ({"sizes": "4"}, "unknown setting of occlusion 'sizes'; nearest: size"),
    ],
)
def test_what_cannot_be_meant_is_one_line(settings, words):
    with pytest.raises(UsageError, match=words) as error:
        configure("occlusion", settings).run(album(count=1))
    assert "\n" not in str(error.value)
