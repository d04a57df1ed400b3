"""Evaluation: photos matched by the names of their classes, ten crops as the paper makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage import data
from torch import nn

from convscope.data.catalog import Catalog
from convscope.data.names import Names
from convscope.data.store import Arrays
from convscope.errors import UsageError
from convscope.images.frame import Framing
from convscope.models.classes import Classes, numbered
from convscope.models.classifier import Classifier
from convscope.training.evaluate import evaluate
from convscope.training.health import LayerHealth, health, not_learned, said
from tests.training.small import classifier_of, digits, plain_net


def test_figures_are_those_of_a_loop_over_the_photos() -> None:
    classifier, found = classifier_of(plain_net()), digits(50)
    result = evaluate(classifier, found).metrics
    right, loss = 0, 0.0
    for row in range(50):
        pixels = torch.from_numpy(found.store.pixels[row])[None, None].double() / 255  # type: ignore[attr-defined]
        log = classifier.network.double().eval()((pixels - 0.3) / 0.4).log_softmax(1)[0].detach()
        right += int(log.argmax()) == found.labels[row]
        loss -= float(log[int(found.labels[row])])
    assert (result.count, result.accuracy) == (50, right / 50)
    assert result.loss == pytest.approx(loss / 50, rel=1e-5)


def test_classes_are_matched_by_name_never_by_place() -> None:
    found = digits(60)
    classifier = classifier_of(plain_net())
    expected = evaluate(classifier, found).metrics
    shuffled = np.random.default_rng(0).permutation(10)
    other = replace(
        found,
        classes=tuple(found.classes[i] for i in np.argsort(shuffled)),
        labels=shuffled[found.labels].astype(np.int32),
    )
    classifier.classes = Classes(tuple(map(str, range(10))))
    result = evaluate(classifier, other).metrics
    assert torch.equal(result.confusion, evaluate(classifier, found).metrics.confusion)
    assert result.accuracy == expected.accuracy


def test_some_classes_alone_keep_their_indices() -> None:
    found = digits(60)
    few = found.take(np.flatnonzero(found.labels >= 8))
    classifier = classifier_of(plain_net())
    classifier.classes = Classes(tuple(map(str, range(10))))
    result = evaluate(classifier, replace(few, classes=("8", "9"), labels=few.labels - 8)).metrics
    assert result.confusion[:8].sum() == 0
    assert result.confusion[8:].sum() == len(few)
    assert result.missing == tuple("01234567")


def test_an_unknown_class_is_refused_by_name() -> None:
    found = replace(digits(20), classes=(*map(str, range(9)), "lynx"))
    classifier = classifier_of(plain_net())
    classifier.classes = Classes(tuple(map(str, range(10))))
    with pytest.raises(UsageError, match="class 'lynx' is not among the 10"):
        evaluate(classifier, found)


def named(found: Catalog, kind: str, names: Sequence[str]) -> Catalog:
    """The digits 0, 1 and 2 by these names."""
    few = found.take(np.flatnonzero(found.labels < 3))
    return replace(few, kind=kind, classes=tuple(names))


@pytest.mark.parametrize(
    ("own", "photos", "kind", "expected"),
    [
        (("1", "2", "3"), ("1", "2", "3"), "list", [0, 1, 2]),
        (("1", "2", "3"), ("3", "2", "1"), "folder", [2, 1, 0]),
        (("1", "2", "3"), ("0", "1", "2"), "list", "class '0' is not among the 3"),  # not an index beside such names
        (("a", "b", "c"), ("0", "1", "2"), "list", [0, 1, 2]),  # but here
        (("a", "b", "c"), ("0", "1", "2"), "folder", "classes '0', '1', '2' are not among the 3"),
        (("A", "a", "b"), ("a", "A", "b"), "list", [1, 0, 2]),  # exactly so before regardless of case
        (("a", "b", "c"), ("a", "0", "b"), "list", "classes 'a', '0' are one class of Sequential, 'a'"),
        (("a, alpha", "b", "c"), ("a", "alpha", "b"), "list", "classes 'a', 'alpha' are one class of Sequential"),
    ],
)
def test_labels_become_classes_one_to_one_or_are_refused(
    own: tuple[str, ...], photos: tuple[str, ...], kind: str, expected: list[int] | str
) -> None:
    network = nn.Sequential(*plain_net()[:6], nn.Linear(54, 3))
    classifier = Classifier(network, Classes(own), mean=0.3, std=0.4, framing=Framing((8, 8), 8), channels=1)
    found = named(digits(60), kind, photos)
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            evaluate(classifier, found)
        return
    confusion = evaluate(classifier, found).metrics.confusion
    counts = np.bincount(found.labels, minlength=3)
    assert [int(confusion[place].sum()) for place in expected] == counts.tolist()
    assert sorted(expected) == [0, 1, 2]


def test_modes_are_left_as_they_were() -> None:
    classifier = classifier_of(plain_net(batch_norm=True, dropout=0.5))
    classifier.network[1].eval()
    before = [module.training for module in classifier.modules()]
    state = {name: value.clone() for name, value in classifier.state_dict().items()}
    evaluate(classifier, digits(20))
    assert [module.training for module in classifier.modules()] == before
    assert all(torch.equal(value, state[name]) for name, value in classifier.state_dict().items())


def test_ten_crops_are_corners_centre_and_mirrors() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 3)).eval()
    classifier = Classifier(network, numbered(3), framing=Framing((32, 32), 36))
    photo = data.chelsea()
    base = digits(1, colour=True)
    found = replace(base, store=Arrays(photo[None], Names.of(["cat"])), labels=np.array([1], np.int32))
    found = replace(found, classes=("class 0", "class 1", "class 2"))
    result = evaluate(classifier, found, ten_crop=True).metrics
    # By hand: short side to 36, its centre, corners and centre of 32, and each from the other side.
    image = Image.fromarray(photo)
    image = image.resize((int(36 * image.width / image.height), 36), Image.Resampling.BICUBIC)
    left = round((image.width - 36) / 2)
    square = np.asarray(image.crop((left, 0, left + 36, 36))).astype(np.float32) / 255
    total = np.zeros(3)
    for top, side in ((0, 0), (0, 4), (4, 0), (4, 4), (2, 2)):
        crop = square[top : top + 32, side : side + 32]
        for version in (crop, crop[:, ::-1].copy()):
            with torch.no_grad():
                total += F.softmax(network(torch.from_numpy(version).permute(2, 0, 1)[None]).double(), 1)[0].numpy()
    assert result.top_losses[0].probability == pytest.approx(total[1] / 10, rel=1e-4)


def pixels_of(count: int) -> torch.Tensor:
    store = digits(count).store
    assert isinstance(store, Arrays)
    return torch.from_numpy(store.pixels)[:, None].float() / 255


def test_dead_layers_are_named() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10), nn.ReLU()
    )
    with torch.no_grad():
        network[2].bias.fill_(-1e3)
        network[0].bias[1] = -1e3
    classifier = classifier_of(network)
    images = pixels_of(30)
    found = health(classifier, images)
    assert [(layer.layer, layer.dead, layer.units) for layer in found[:2]] == [("1", 1, 4), ("3", 6, 6)]
    assert "1 of 3 layers are dead, zero on every photo: 3." in said(found)[0]


class Beside(nn.Module):
    """Photos are compared with one another by a rectifier: its numbers are no units, and as many as photos."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 4, 3), nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3))
        alike = torch.relu(x @ x.t())
        return self.last(x + 0 * (alike @ x)) + 0 * torch.relu(x.t()).sum()


def test_units_are_only_what_each_photo_has() -> None:
    images = pixels_of(40)
    for count in (3, 40):
        assert [(layer.layer, layer.units) for layer in health(classifier_of(Beside()), images[:count])] == [
            ("/relu", 4)
        ]


def test_what_has_not_learned_is_told() -> None:
    alive, dead = LayerHealth("1", 0, 4), LayerHealth("3", 6, 6)
    assert not_learned([alive], 0.5, 0.2) == []
    assert "no layer is dead" in not_learned([alive], 0.21, 0.2)[0]
    assert "its dead layers tell why" in not_learned([alive, dead], 0.2, 0.2)[0]
