"""The pass: every figure equals brute force on all outputs at once, ties included, however the images come.

Pixels and weights are sixteenths, so that sums are exact, and nothing depends on how a batch is rounded.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from convscope.atlas import topk
from convscope.atlas.sample import PLACED, sampled
from convscope.atlas.statistics import Labels, Seen, Statistics
from convscope.atlas.streaming import Figures, Pass
from convscope.errors import ConvscopeError
from convscope.instrument.state import undisturbed
from convscope.models.classifier import Classifier
from tests.nets import seeded

COUNT, CLASSES = 41, 3
LAYERS = ["0", "1", "3", "4", "7"]


class Steps(nn.Module):
    """Few different values, so that many are equal."""

    def forward(self, x):
        return (x * 2).round() / 2


def network(dtype=torch.float64):
    layers = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 5, 3), Steps()
    return seeded(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 4)), dtype=dtype)


@pytest.fixture(scope="module")
def case():
    net = network()
    for weight in net.parameters():
        weight.data = (weight.data * 16).round() / 16
    net[0].bias.data[2], net[0].weight.data[2] = -1, 0  # dead
    images = torch.rand(COUNT, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    images = (images * 16).round() / 16
    images[7] = images[3]
    images[20] = images[3]
    labels = np.arange(COUNT) % (CLASSES + 1) - 1
    x, outputs = images, {}
    with torch.no_grad():
        for i, layer in enumerate(net):
            x = layer(x.clone())
            outputs[str(i)] = x.clone()
    return Classifier(net), images, labels, outputs


def passed(case, batches, k=4, layers=LAYERS, **options):
    classifier, images, labels, _ = case
    found = Pass(classifier, layers, COUNT, top=k, classes=CLASSES, **options)
    with undisturbed(classifier, grad=False):
        for rows in batches:
            found.see(images[rows], np.asarray(rows), labels[rows])
    return found


def in_batches(size, rows=range(COUNT)):
    rows = list(rows)
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def brute_top(outputs, k):
    """Sorted one by one: by value, then by image; the place is the first in reading order."""
    flat = outputs.flatten(2) if outputs.ndim > 2 else outputs[:, :, None]
    found = []
    for unit in range(flat.shape[1]):
        best = [(-float(flat[i, unit].max()), i, int(flat[i, unit].argmax())) for i in range(len(flat))]
        first = [(v, i, flat[i, unit].tolist().index(-v) if outputs.ndim > 2 else -1) for v, i, _ in sorted(best)[:k]]
        found.append([(-v, i, p) for v, i, p in first])
    return found


def listed(top):
    rows = zip(top.value.tolist(), top.image.tolist(), top.place.tolist(), strict=True)
    return [list(zip(*row, strict=True)) for row in rows]


@pytest.mark.parametrize("size", [1, 4, 13, COUNT])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_figure_is_that_of_brute_force(case, layer, size):
    _, _, labels, outputs = case
    own, wanted = passed(case, in_batches(size)).figures[layer], outputs[layer]
    assert listed(own.top) == brute_top(wanted, 4)
    by_unit = wanted.transpose(0, 1).flatten(1)
    statistics = own.statistics
    assert statistics.count == by_unit.shape[1]
    assert torch.allclose(statistics.mean, by_unit.mean(1), rtol=1e-12, atol=1e-14)
    assert torch.allclose(statistics.std, by_unit.std(1, correction=0), rtol=1e-9, atol=1e-9)
    assert torch.equal(statistics.fraction_active, (by_unit > 0).double().mean(1))
    means = torch.stack([wanted[labels == c].transpose(0, 1).flatten(1).mean(1) for c in range(CLASSES)])
    assert torch.allclose(statistics.class_means, means, rtol=1e-12, atol=1e-14)
    assert own.maps == tuple(wanted.shape[2:])
    maxima = wanted.flatten(2).amax(2) if wanted.ndim > 2 else wanted
    assert torch.equal(own.sample.maxima, maxima[own.sample.numbers])
    if wanted.ndim > 2:
        at = own.sample.places.long()
        found = wanted.flatten(2)[own.sample.numbers].gather(2, at[:, :, None])[:, :, 0]
        assert torch.equal(found, own.sample.maxima)


def test_class_selectivity_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 3, 1))
    net[0].weight.data = torch.tensor([1.0, -1.0, 0.0]).view(3, 1, 1, 1)
    net[0].bias.data.zero_()
    images = torch.tensor([0.9, 0.7, 0.2, 0.0, 0.1]).view(5, 1, 1, 1).expand(-1, -1, 4, 4)
    found = Pass(Classifier(net), ["0"], 5, classes=4)
    with torch.no_grad():
        found.see(images, np.arange(5), np.array([3, 3, 0, 0, 1]))
    selectivity, best = found.figures["0"].statistics.selectivity()
    assert float(selectivity[0]) == pytest.approx((0.8 - 0.1) / (0.8 + 0.1), rel=1e-6)  # means .1, .1, none, .8
    assert selectivity[1:].isnan().all()  # below zero throughout, and nothing at all
    assert int(best[0]) == 3
    alone = Pass(Classifier(net), ["0"], 5, classes=1)
    with torch.no_grad():
        alone.see(images, np.arange(5), np.zeros(5))
    assert alone.figures["0"].statistics.selectivity()[0].isnan().all()


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_shards_batches_and_k_make_no_difference(case, data):
    k = data.draw(st.integers(1, COUNT + 3))
    owner = data.draw(st.lists(st.integers(0, 3), min_size=COUNT, max_size=COUNT))
    shards = [[i for i in range(COUNT) if owner[i] == shard] for shard in range(4)]
    sizes = data.draw(st.lists(st.integers(1, COUNT), min_size=4, max_size=4))
    parts = [passed(case, in_batches(n, rows), k) for n, rows in zip(sizes, shards, strict=True) if rows]
    parts = data.draw(st.permutations(parts))
    whole = parts[0]
    for part in parts[1:]:
        whole.merge(part.figures)
    wanted = passed(case, in_batches(COUNT), k)
    for layer in LAYERS:
        one, other = whole.figures[layer], wanted.figures[layer]
        assert listed(one.top)[0] == listed(other.top)[0]
        assert all(
            torch.equal(getattr(one.top, name), getattr(other.top, name)) for name in ("value", "image", "place")
        )
        assert torch.equal(one.sample.maxima, other.sample.maxima)
        assert torch.equal(one.sample.places, other.sample.places)
        assert torch.equal(one.statistics.active, other.statistics.active)
        for name in ("mean", "std", "class_means"):
            pair = (getattr(held.statistics, name) for held in (one, other))
            assert torch.allclose(*pair, rtol=1e-9, atol=1e-9)


def test_a_device_that_would_be_waited_for_gives_the_same(case, monkeypatch):
    """As an accelerator takes it in: no unit is told apart."""
    rng = np.random.default_rng(3)
    batches = [np.sort(part) for part in np.array_split(rng.permutation(COUNT), 6)]
    known = passed(case, batches)
    monkeypatch.setattr(topk, "AT_ONCE_KNOWN", set())
    unknown = passed(case, batches)
    for layer in LAYERS:
        for name in ("value", "image", "place"):
            one, other = (getattr(found.figures[layer].top, name) for found in (known, unknown))
            assert torch.equal(one, other), (layer, name)


def test_what_is_put_away_comes_back(case):
    half, whole = passed(case, in_batches(5, range(20))), passed(case, in_batches(5))
    half.figures = {
        layer: Figures.of_tensors(own.tensors(), torch.device("cpu")) for layer, own in half.figures.items()
    }
    classifier, images, labels, _ = case
    with undisturbed(classifier, grad=False):
        for rows in in_batches(5, range(20, COUNT)):
            half.see(images[rows], np.asarray(rows), labels[rows])
    for layer in LAYERS:
        one, other = half.figures[layer].tensors(), whole.figures[layer].tensors()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), layer


def test_without_statistics_there_is_top_k_alone(case):
    found = passed(case, in_batches(8), statistics=False)
    assert found.figures["0"].statistics is found.figures["0"].sample is None
    assert listed(found.figures["3"].top) == brute_top(case[3]["3"], 4)
    assert set(found.figures["3"].tensors()) == {"maps", "top.value", "top.image", "top.place"}


def test_the_sample_is_large_random_and_always_the_same():
    assert sorted(sampled(50).tolist()) == list(range(50))
    many = sampled(100_000)
    assert len(many) == len(set(many.tolist())) == 1024
    assert abs(many.mean() - 50_000) < 4_000
    assert np.array_equal(many, sampled(100_000))
    assert len(many) > PLACED


@pytest.mark.parametrize(
    ("layer", "words"), [("unflat", "neither maps nor numbers"), ("whole", "int64"), ("nan", "NaN or infinity")]
)
def test_layers_without_activations_are_refused(layer, words):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.unflat, self.whole, self.nan, self.head = nn.Identity(), nn.Identity(), nn.Identity(), nn.Linear(3, 2)

        def forward(self, x):
            self.unflat(x.flatten(2))
            self.whole(x.argmax(1, keepdim=True))
            self.nan(x / 0 * 0)
            return self.head(x.mean((2, 3)))

    found = Pass(Classifier(seeded(Odd())), [layer], 2)
    with pytest.raises(ConvscopeError, match=words), torch.no_grad():
        found.see(torch.rand(2, 3, 4, 4), np.arange(2), np.full(2, -1))


def test_half_precision_is_counted_in_single():
    net = network(torch.bfloat16)
    found = Pass(Classifier(net), ["1"], 4)
    with torch.no_grad():
        found.see(torch.rand(4, 3, 12, 12), np.arange(4), np.full(4, -1))
    assert found.figures["1"].top.value.dtype == torch.float32


@pytest.mark.parametrize(
    ("mean", "std", "side"), [(0.37, 0, 56), (123.4, 0, 112), (0.1, 0, 7), (1.0, 1e-4, 56), (100.0, 0.01, 60)]
)
def test_a_small_deviation_from_a_large_mean_is_not_lost(mean, std, side):
    noise = torch.randn(6, 2, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    maps = (mean + std * noise).float()
    running = Statistics.empty(2, 0, maps)
    for part in maps.split(4):
        running.update(Seen.of(part), Labels.of(np.full(len(part), -1), 0, part.device))
    exact = maps.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(running.mean, exact.mean(1), rtol=1e-9, atol=0)
    torch.testing.assert_close(running.std, exact.std(1, correction=0), rtol=1e-4, atol=1e-7 * mean)
    assert bool((running.std <= 1e-6 * running.mean.abs()).all()) == (std == 0), "dead"


def test_more_places_than_a_batch_has_images(case, monkeypatch):
    batches = [np.arange(start, min(start + 5, COUNT)) for start in range(0, COUNT, 5)]
    known = passed(case, batches, k=12)
    monkeypatch.setattr(topk, "AT_ONCE_KNOWN", set())
    unknown = passed(case, batches, k=12)
    for layer in LAYERS:
        for name in ("value", "image", "place"):
            one, other = (getattr(found.figures[layer].top, name) for found in (known, unknown))
            assert torch.equal(one, other), (layer, name)
