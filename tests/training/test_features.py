"""Features of a frozen base: the same as running it, computed once, kept for as long as nothing changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.data.loading import Photos
from convscope.errors import Cancelled, UsageError
from convscope.images.frame import Framing
from convscope.models.classes import numbered
from convscope.models.classifier import Classifier
from convscope.progress import reporting
from convscope.training import features as module
from convscope.training.features import Cut, cut_network, features
from convscope.training.freeze import set_modes
from convscope.training.start import start
from tests.training.small import classifier_of, digits, plain_net

HEAD = {"6.weight", "6.bias"}


def photos_of(classifier: Classifier, count: int = 40) -> Photos:
    return Photos(digits(count), classifier.framing, 1)


def cut_of(classifier: Classifier, chosen: set[str]) -> Cut:
    assert classifier.framing.size is not None
    found = cut_network(classifier, chosen, torch.full((1, classifier.channels, *classifier.framing.size), 0.5))
    assert found is not None
    return found


class Counted:
    """How often a network's first layer saw an image."""

    def __init__(self, network: nn.Module) -> None:
        self.images = 0
        first = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
        first.register_forward_hook(lambda m, args, output: setattr(self, "images", self.images + len(output)))


def test_they_are_what_the_base_gives_one_by_one(tmp_path: Path) -> None:
    classifier = classifier_of(plain_net(batch_norm=True).eval())
    found = features(cut_of(classifier, HEAD), photos_of(classifier), folder=tmp_path)
    catalog = digits(40)
    for row in range(40):
        pixels = torch.from_numpy(catalog.store.pixels[row])[None, None].float() / 255  # type: ignore[attr-defined]
        with torch.no_grad():
            expected = classifier.network[:6]((pixels - 0.3) / 0.4)[0]
        torch.testing.assert_close(found.values[row], expected, rtol=1e-5, atol=1e-6)
    batch = found[np.array([3, 1])]
    assert batch.labels.tolist() == [3, 1]
    assert torch.equal(batch.images, found.values[[3, 1]])


def test_another_run_finds_them_and_only_new_photos_are_computed(tmp_path: Path) -> None:
    network = plain_net().eval()
    seen = Counted(network)
    classifier = classifier_of(network)
    cut = cut_of(classifier, HEAD)
    first = features(cut, photos_of(classifier, 30), folder=tmp_path)
    seen.images = 0
    again = features(cut, photos_of(classifier, 40), folder=tmp_path)
    assert (first.computed, again.computed) == (30, 10)
    assert seen.images == 2 + 10  # two to see their shape, and whether the base is still the same
    assert torch.equal(again.values[:30], first.values)
    other = Counted(fresh := plain_net().eval())  # the same weights in another process's network
    third = features(cut_of(classifier_of(fresh), HEAD), photos_of(classifier, 40), folder=tmp_path)
    assert third.computed == 0
    assert other.images < 10


class Scaled(nn.Module):
    """Depends on what is in no state dict and in no printed line."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.factor = plain_net()[:6], 1.0
        self.head = nn.Linear(54, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) * self.factor)


def test_a_change_of_code_or_of_plain_numbers_makes_them_anew(tmp_path: Path) -> None:
    classifier = classifier_of(Scaled().eval())
    cut = cut_of(classifier, {"head.weight", "head.bias"})
    features(cut, photos_of(classifier), folder=tmp_path)
    assert features(cut, photos_of(classifier), folder=tmp_path).computed == 0
    classifier.network.factor = 1.0001  # type: ignore[assignment]
    again = features(cut, photos_of(classifier), folder=tmp_path)
    assert again.computed == 40


@pytest.mark.parametrize("change", ["weight", "statistics", "framing", "mean", "place"])
def test_any_change_makes_them_anew(tmp_path: Path, change: str) -> None:
    classifier = classifier_of(plain_net(batch_norm=True).eval())
    features(cut_of(classifier, HEAD), photos_of(classifier), folder=tmp_path)
    changed, chosen = classifier_of(plain_net(batch_norm=True).eval()), HEAD
    match change:
        case "weight":
            with torch.no_grad():
                changed.network[0].weight[0, 0, 0, 0] += 1e-7
        case "statistics":
            changed.network[1].running_mean[0] += 1e-6
        case "framing":
            changed.framing = Framing((8, 8), 9)
        case "mean":
            changed.mean = (0.31,)
        case "place":
            chosen = {"0.weight", *HEAD} - {"0.weight"} | {"1.weight"}
    assert features(cut_of(changed, chosen), photos_of(changed), folder=tmp_path).computed == 40


def test_a_change_of_the_head_is_none(tmp_path: Path) -> None:
    classifier = classifier_of(plain_net().eval())
    features(cut_of(classifier, HEAD), photos_of(classifier), folder=tmp_path)
    with torch.no_grad():
        classifier.network[6].weight.zero_()
    assert features(cut_of(classifier, HEAD), photos_of(classifier), folder=tmp_path).computed == 0


def test_interrupted_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD", 8)
    monkeypatch.setattr(module, "AT_ONCE", 8)
    classifier = classifier_of(plain_net().eval())
    calls = iter(range(100))
    with pytest.raises(Cancelled), reporting(cancel=lambda: next(calls) >= 3):
        features(cut_of(classifier, HEAD), photos_of(classifier), folder=tmp_path)
    assert features(cut_of(classifier, HEAD), photos_of(classifier), folder=tmp_path).computed == 40 - 24


def test_a_damaged_file_is_computed_again(tmp_path: Path) -> None:
    classifier = classifier_of(plain_net().eval())
    first = features(cut_of(classifier, HEAD), photos_of(classifier), folder=tmp_path)
    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:200])
    again = features(cut_of(classifier, HEAD), photos_of(classifier), folder=tmp_path)
    assert again.computed == 40
    assert torch.equal(again.values, first.values)


def test_absurd_sizes_are_refused_with_the_number(tmp_path: Path) -> None:
    classifier = classifier_of(plain_net().eval())
    with pytest.raises(UsageError, match=r"40 photos, 54 numbers each, take .* GiB"):
        features(cut_of(classifier, HEAD), photos_of(classifier), folder=tmp_path, largest=40 * 54 * 4 - 1)
    assert (
        features(cut_of(classifier, HEAD), photos_of(classifier), folder=tmp_path, largest=40 * 54 * 4).computed == 40
    )


def test_a_photo_that_is_gone_is_told_not_made_up(tmp_path: Path) -> None:
    classifier = classifier_of(plain_net().eval())
    photos = photos_of(classifier, 10)

    class Failing(type(photos.catalog.store)):  # type: ignore[misc]
        def photo(self, index: int, background: str = "white") -> object:
            if index == 4:
                raise OSError("gone")
            return super().photo(index, background)

    store = Failing(**vars(photos.catalog.store))
    photos = replace(photos, catalog=replace(photos.catalog, store=store))
    found = features(cut_of(classifier, HEAD), photos, folder=tmp_path, workers=0)
    batch = found[np.array([3, 4, 5])]
    assert batch.labels.tolist() == [3, 5]
    assert [lost.name for lost in batch.lost] == ["digit-0004"]


def test_where_networks_can_be_cut() -> None:
    lite = start("convscope:efficientnet_lite0", numbered(3))
    assert cut_of(lite.classifier, {"classifier.weight"}).path == "classifier"
    vgg = start("convscope:vgg16_base_head", numbered(2), size=(64, 64)).classifier
    assert cut_of(vgg, {"classifier.fc1.weight", "classifier.fc2.weight"}).path == "classifier.fc1"
    assert cut_of(vgg, {"features.28.weight", "classifier.fc2.weight"}).path == "features.28"
    resnet = start("torchvision:resnet18@random", numbered(3), size=(64, 64)).classifier
    assert cut_of(resnet, {"fc.weight", "fc.bias"}).path == "fc"
    whole = torch.full((1, 3, 64, 64), 0.5)
    assert cut_network(resnet, {"layer4.0.conv1.weight", "fc.weight"}, whole) is None


class Twice(nn.Module):
    """Uses its head twice: no single input of it makes the output."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3)
        self.head = nn.Linear(4, 10)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.body(x)
        return self.head(maps.mean((2, 3))) + self.head(maps.amax((2, 3)))


class Around(Twice):
    """Does something to what its head gives."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3))) * 2 + 1


@pytest.mark.parametrize("kind", [Twice, Around])
def test_a_network_that_cannot_be_cut_is_not(kind: type[nn.Module]) -> None:
    classifier = classifier_of(kind().eval())
    assert cut_network(classifier, {"head.weight", "head.bias"}, torch.full((1, 1, 8, 8), 0.5)) is None


class Zero(Around):
    """Its head begins with zeros, and so does whatever follows it."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3))) * 2


def test_a_head_of_zeros_proves_nothing_and_keeps_its_zeros() -> None:
    classifier = classifier_of(Zero().eval())
    chosen = {"head.weight", "head.bias"}
    assert cut_network(classifier, chosen, torch.full((1, 1, 8, 8), 0.5)) is None
    assert not classifier.network.head.weight.any()  # type: ignore[union-attr, operator]


class Dropping(nn.Module):
    """Drops features by a function call before its head, as timm's networks do, or elsewhere."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.body, self.norm, self.head = plain_net()[:6], nn.BatchNorm1d(54), nn.Linear(54, 10)
        self.where, self.drop_rate = where, 0.5

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "input":
            x = F.dropout(x, self.drop_rate, self.training)
        features = self.norm(self.body(x))
        if self.where == "head":
            features = F.dropout(features, self.drop_rate, self.training)
        return self.head(features)


def trained_both_ways(classifier: Classifier, cut: Cut, chosen: set[str]) -> tuple[Tensor, Tensor]:
    """Logits of one batch as in training, by the whole network and by features and what learns."""
    pixels = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        classifier.eval()
        found = cut.features(pixels)
        set_modes(classifier.network, chosen)
        with torch.random.fork_rng():
            torch.manual_seed(3)
            whole = classifier(pixels)
            torch.manual_seed(3)
            parts = cut.logits(found)
    assert not torch.equal(whole, classifier.eval()(pixels))  # dropout was on
    return whole, parts


@pytest.mark.parametrize("kind", ["module", "call", "timm"])
def test_dropout_before_the_head_is_not_lost(kind: str) -> None:
    network: nn.Module
    match kind:
        case "module":
            network, chosen = plain_net(dropout=0.5), HEAD
        case "call":
            network, chosen = Dropping("head"), {"head.weight", "head.bias"}
        case _:
            network = timm.create_model("resnet18", num_classes=10, in_chans=1, drop_rate=0.5)
            chosen = {"fc.weight", "fc.bias"}
    classifier = classifier_of(network.eval())
    whole, parts = trained_both_ways(classifier, cut_of(classifier, chosen), chosen)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_a_base_that_drops_by_itself_is_not_computed_once() -> None:
    network = Dropping("input").eval()
    classifier = classifier_of(network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert cut_network(classifier, {"head.weight", "head.bias"}, torch.full((1, 1, 8, 8), 0.5)) is None
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module.training for module in network.modules())


def test_what_learns_may_have_statistics_of_its_own_which_the_proof_leaves_alone() -> None:
    network = Dropping("nowhere").eval()
    classifier = classifier_of(nn.Sequential(*network.body, network.norm, network.head).eval())
    cut_of(classifier, {"6.weight", "6.bias", "7.weight", "7.bias"})
    assert int(network.norm.num_batches_tracked) == 0  # type: ignore[arg-type]
    assert torch.equal(network.norm.running_mean, torch.zeros(54))  # type: ignore[arg-type]
