from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from convscope.data.listing import NONE, TEST, TRAIN
from convscope.errors import UsageError
from convscope.images.frame import Framing
from convscope.models.classes import numbered
from convscope.models.classifier import Classifier
from convscope.studies import configure
from convscope.studies.probes import LEARNED, SHUFFLED, probe
from convscope.studies.probes_features import Layer, features_of, grid, layers_to_probe
from convscope.studies.retraining.folds import keep_apart
from convscope.studies.retraining.repeats import derived
from tests.studies.sets import data_of, digits_in, pictures_in


class Either(nn.Sequential):
    """The first layer sees two pixels a and b, the second also whether exactly one of them is light.

    That is no linear function of a and b: relu(a - b) + relu(b - a) = |a - b| is one of two rectified differences.
    """

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 2, (1, 2)), nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2, 5))
        self[0].weight.data = torch.eye(2).view(2, 1, 1, 2)
        self[1].weight.data = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).view(2, 2, 1, 1)
        for layer in (self[0], self[1]):
            layer.bias.data.zero_()


def either(**more: object) -> Classifier:
    return Classifier(Either(), numbered(5), channels=1, framing=Framing((1, 2), 1), **more)


@pytest.fixture
def exclusive(tmp_path: Path) -> Path:
    """Two pixels that are alike, or not, at as many levels of each kind: no linear function of them tells which."""
    levels = range(0, 40, 2)
    dark, light = list(levels), [255 - n for n in levels]
    alike = [[(a, a)] for a in dark] + [[(b, b)] for b in light]
    unlike = [[(a, b)] for a, b in zip(dark, light, strict=True)] + [[(b, a)] for a, b in zip(dark, light, strict=True)]
    groups = {
        name: [np.array(pixels, np.uint8).reshape(1, 2) for pixels in several]
        for name, several in (("alike", alike), ("unlike", unlike))
    }
    return pictures_in(tmp_path / "photos", groups)


def test_a_layer_at_which_classes_part_tells_them_and_one_before_does_not(exclusive: Path, tmp_path: Path) -> None:
    study = configure("probes", {"layers": "0,2", "repeats": 4, "c": 100})
    found = study.run(data_of(exclusive, tmp_path / "out", either()))
    first, second = found.table().records()
    assert (first["layer"], second["layer"]) == ("0", "2")
    assert second["SVM"] == second["softmax"] == 1.0
    assert first["SVM"] < 0.7
    assert first["softmax"] < 0.7
    assert first["chance"] == 0.5
    assert found.table("probes").column("network").count(SHUFFLED) == 2 * 2 * 4
    assert "the SVM tells most by 2, 100.0%" in found.findings[0]


def test_what_was_learned_is_the_difference_to_shuffled_weights(exclusive: Path, tmp_path: Path) -> None:
    found = configure("probes", {"layers": "2", "repeats": 3, "c": 100}).run(data_of(exclusive, tmp_path, either()))
    rows = [row for row in found.table("probes").records() if row["probe"] == "SVM"]
    own = [row["accuracy"] for row in rows if row["network"] == LEARNED]
    random = [row["accuracy"] for row in rows if row["network"] == SHUFFLED]
    gains = np.subtract(own, random)
    [row] = found.table().records()
    assert row["random SVM"] == pytest.approx(np.mean(random))
    assert row["gain"] == pytest.approx(gains.mean())
    half = 4.302652729911275 * gains.std(ddof=1) / 3**0.5  # Student's, of two degrees of freedom
    assert 0 < row["gain low"] < gains.mean() - half  # there are the photos too
    without = configure("probes", {"layers": "2", "random": False, "repeats": 2})
    [row] = without.run(data_of(exclusive, tmp_path, either())).table().records()
    assert row["random SVM"] is row["gain"] is None


def test_the_span_of_the_photos_changes_nothing() -> None:
    """Against scikit-learn on all numbers, of which there are more than photos."""
    rng = np.random.default_rng(0)
    train, test, labels = rng.normal(size=(24, 60)), rng.normal(size=(50, 60)), np.arange(24) % 3
    train[:, 5] = 2.0  # does not vary, and is no number to learn from
    train += labels[:, None] * rng.normal(size=60) * 0.3
    scaler = StandardScaler().fit(train)
    x, seen = scaler.transform(train) / 60**0.5, scaler.transform(test) / 60**0.5
    svm = LinearSVC(C=3, tol=1e-8, max_iter=10**6).fit(x, labels).predict(seen)
    softmax = LogisticRegression(C=3, tol=1e-8, max_iter=10**4).fit(x, labels).predict(seen)
    assert (probe("svm", train, labels, test, 3)[0] == svm).mean() >= 0.98
    assert (probe("softmax", train, labels, test, 3)[0] == softmax).mean() >= 0.98


def test_maps_are_averaged_to_the_finest_grid_that_fits() -> None:
    assert grid((8, 6, 6), 8 * 36) == (6, 6)
    assert grid((8, 6, 6), 8 * 36 - 1) == (5, 5)
    assert grid((8, 4, 12), 8 * 12) == (2, 6)  # of the maps' proportions
    assert grid((100, 7, 7), 64) == (1, 1)


def test_features_are_those_of_each_layer_of_each_network(tmp_path: Path) -> None:
    from convscope.data.loading import Photos

    torch.manual_seed(0)
    nets = {
        name: Classifier(
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)),
            numbered(3),
            mean=0.3,
            framing=Framing((8, 8), 8),
        )
        for name in ("a", "b")
    }
    data = data_of(digits_in(tmp_path / "photos", 4), tmp_path)
    layers = layers_to_probe(nets["a"], ["3", "1"], 8)
    assert [(layer.key, layer.grid, layer.width) for layer in layers] == [("1", (2, 2), 8), ("3", None, 3)]
    photos = Photos(data.catalog, Framing((8, 8), 8), 1)
    rows = np.array([1, 5, 7, 8])
    values, read = features_of(nets, photos, rows, layers, 0)
    assert read.tolist() == rows.tolist()
    for i, row in enumerate(rows.tolist()):
        pixels = torch.from_numpy(np.array(data.catalog.store.photo(row).convert("L"))).float() / 255 - 0.3
        for name, net in nets.items():
            maps = nn.functional.relu(net.network[0](pixels[None])).detach()
            by_hand = [float(maps[c, r : r + 3, q : q + 3].mean()) for c in (0, 1) for r in (0, 3) for q in (0, 3)]
            assert values[name, "1"][i] == pytest.approx(by_hand, abs=1e-6)
            assert values[name, "3"][i] == pytest.approx(net.network[3](maps.flatten()).tolist(), abs=1e-5)
    with pytest.raises(UsageError, match="GiB"):
        features_of(nets, photos, rows, layers, 0, largest=4 * 4 * 2 * 11 - 1)


def test_splits_are_apart_alike_and_of_exact_counts(tmp_path: Path) -> None:
    folder = digits_in(tmp_path / "photos", 20)
    twin = (folder / "number 1" / "03.png").read_bytes()
    (folder / "number 1" / "twin.png").write_bytes(twin)
    found = data_of(folder, tmp_path).catalog
    for seed in range(5):
        apart = keep_apart(found, most=6, leaving=9, seed=seed)
        rows = apart.drawn(9, seed)
        assert np.bincount(found.labels[rows]).tolist() == [9, 9, 9]
        assert not np.intersect1d(rows, apart.test).size
        names = {kind: {found.store.names[i] for i in np.flatnonzero(apart.of == kind)} for kind in (TRAIN, TEST)}
        assert len({"number 1/03.png", "number 1/twin.png"} & names[TEST]) in (0, 2)
        assert all(5 <= count <= 7 for count in apart.counts(TEST))  # copies may shift one
        assert set(apart.drawn(3, seed)) <= set(rows)
        assert (apart.split(rows) == TRAIN).sum() == 27
        assert (apart.split(rows) == NONE).sum() == len(found) - 27 - len(apart.test)
    first, again, other = (keep_apart(found, most=6, leaving=9, seed=s).test.tolist() for s in (0, 0, 1))
    assert first == again != other
    with pytest.raises(UsageError, match=r"'number 0' has 19 of its 20 photos to learn from, and 20 are needed"):
        keep_apart(found, most=6, leaving=20)


def test_the_sources_own_split_is_kept(tmp_path: Path) -> None:
    digits_in(tmp_path / "photos" / "train", 12)
    digits_in(tmp_path / "photos" / "test", 20)
    data = data_of(tmp_path / "photos", tmp_path)
    apart = keep_apart(data.catalog, most=None)
    assert apart.own
    assert all(data.catalog.store.names[i].startswith("test") for i in apart.test)
    assert apart.counts(TRAIN).tolist() == [12] * 3
    assert "36 are also among its training photos" in apart.remark
    assert keep_apart(data.catalog, most=4).counts(TEST).tolist() == [4] * 3
    net = Classifier(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3)),
        numbered(3),
        framing=Framing((8, 8), 8),
    )
    found = configure("probes", {"layers": "1", "random": False}).run(data_of(tmp_path / "photos", tmp_path, net))
    assert len(found.table("probes")) == 2  # one split, two probes
    row = found.table().records()[0]
    p, n, z = row["SVM"], 60, 1.959963984540054  # Wilson 1927
    low = (p + z * z / (2 * n) - z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5) / (1 + z * z / n)
    assert row["SVM low"] == pytest.approx(low, abs=0.01)


def test_the_same_seed_gives_the_same(exclusive: Path, tmp_path: Path) -> None:
    study = configure("probes", {"layers": "0,2", "repeats": 2, "per_class": "6"})
    first, again, other = (study.run(data_of(exclusive, tmp_path, either()), seed).about() for seed in (0, 0, 1))
    classifier = either()
    classifier.network.train()
    before = {name: value.clone() for name, value in classifier.network.state_dict().items()}
    study.run(data_of(exclusive, tmp_path, classifier))
    assert first["tables"] == again["tables"] != other["tables"]
    assert classifier.network.training
    assert all(torch.equal(value, before[name]) for name, value in classifier.network.state_dict().items())
    assert len({derived(seed, repeat) for seed in range(10) for repeat in range(10)}) == 100


def test_what_cannot_be_is_said_before_the_photos_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from convscope.studies import subject

    def never(*_: object) -> None:
        raise AssertionError("the photos were looked at")

    (tmp_path / "loose").mkdir()
    digits_in(tmp_path / "photos", 3)
    for i, file in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
        (tmp_path / "loose" / f"{i}.png").write_bytes(file.read_bytes())
    with (tmp_path / "one.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((f"loose/{i}.png", "cat") for i in range(4))])
    monkeypatch.setattr(subject, "scan", never)
    net = either()
    with pytest.raises(UsageError, match="unknown layer '9'"):
        configure("probes", {"layers": "0,9"}).run(data_of(tmp_path / "photos", tmp_path, net))
    with pytest.raises(UsageError, match="lie in no class folder"):
        configure("probes", {"layers": "0"}).run(data_of(tmp_path / "loose", tmp_path, net))
    with pytest.raises(UsageError, match="are of one class, 'cat'"):
        configure("probes", {"layers": "0"}).run(data_of(tmp_path / "one.csv", tmp_path, net))
    with pytest.raises(UsageError, match="give --canvas"):
        configure("probes").run(data_of(tmp_path / "photos", tmp_path, Classifier(Either(), numbered(5), channels=1)))
    with pytest.raises(UsageError, match="at least 1"):
        configure("probes", {"repeats": 0}).run(data_of(tmp_path / "photos", tmp_path, net))


def test_a_layer_says_how_it_is_made_small() -> None:
    torch.manual_seed(0)
    net = Classifier(nn.Sequential(nn.Conv2d(1, 4, 1), nn.Flatten(), nn.Linear(256, 3)), framing=Framing((8, 8), 8))
    maps, flat = layers_to_probe(net, ["0", "1"], 16)
    assert isinstance(maps, Layer)
    assert (maps.width, flat.width, flat.grid) == (16, 256, None)
    values = torch.arange(256.0).view(1, 4, 8, 8)
    assert maps.reduce(values)[0, 0] == values[0, 0, :4, :4].mean()
