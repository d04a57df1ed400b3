"""Evolution's folder, what it takes for a model, what it refuses, and a real little training."""

import json
import os
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from convscope.atlas.snapshots import read_snapshots
from convscope.errors import ConvscopeError, Inapplicable, RuleError, UsageError
from convscope.images.frame import Framing
from convscope.images.own import MARK
from convscope.methods import configure
from convscope.models.classifier import Classifier
from convscope.models.zoo.mnist_convnet import mnist_convnet
from convscope.scope import Scope
from convscope.training.evolution import Evolution
from tests.nets import Skip, photos, seeded, zfnet_like
from tests.training.test_evolution import coloured, digits, eyes, look_for, vgg, watching
from tests.training.test_strongest import by_hand


def listing(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def colours(folder, channels, first=1, **options):
    """A training that goes on in a folder, its unit seeing a red, green or blue photo."""
    net = eyes(0)
    watch = Evolution(net, units="1:0", photos=coloured(), out=folder, at=1, label="epoch", **options)
    for epoch, channel in enumerate(channels, first):
        look_for(net, channel)
        watch(epoch, coloured())
    return watch


def test_a_line_for_each_snapshot_and_unit(tmp_path):
    watch = watching(vgg(), tmp_path / "new" / "evolution", at=[3, 7], photos=photos(3, 3, 22, 27))
    watch(3), watch(7)
    lines = [json.loads(line) for line in (watch.out / "snapshots.jsonl").read_text().splitlines()]
    assert [(line["step"], line["unit"]) for line in lines] == [
        (step, unit) for step in (3, 7) for unit in ("2:1", "2:3", "5:1", "5:2", "12:3", "12:2")
    ]
    assert {"value", "photo", "row", "col", "jumped"} <= set(lines[0])
    assert set(listing(watch.out)) == {"snapshots.jsonl", *(line["picture"] for line in lines)}
    assert lines[0]["picture"] == "step-000003/2_1.png"
    assert read_snapshots(watch.out / "snapshots.jsonl") == list(watch.snapshots)


def test_names_of_any_photo_are_kept(tmp_path):
    names = ["кот\u2028.png", "a\nb.png", "\udce9.png"]
    for number, name in enumerate(names):
        watch = watching(vgg(), tmp_path, photos=lambda name=name: [([name], photos(1, 3, 22, 27))])
        watch(number)
    found = watching(vgg(), tmp_path).snapshots
    assert [one.photo for one in found[:: len(found) // 3]] == names


def test_it_goes_on_from_its_folder(tmp_path):
    whole = colours(tmp_path / "whole", [0, 1, 1, 2])
    colours(tmp_path / "parts", [0, 1])
    parts = colours(tmp_path / "parts", [1, 2], first=3)
    assert parts.snapshots == whole.snapshots
    assert np.array_equal(parts.sheet(), whole.sheet())
    with pytest.raises(UsageError, match=r"snapshots up to epoch 4 and this is epoch 2: .*cut_back"):
        parts(2)
    assert parts.snapshots == whole.snapshots


def test_cut_back_and_again_is_as_if_never_interrupted(tmp_path):
    whole = colours(tmp_path / "whole", [0, 1, 1, 2], first_photo=True)
    watch = colours(tmp_path / "parts", [0, 1, 0, 0, 0], first_photo=True)
    (watch.out / "step-notes.txt").write_text("mine")
    watch.cut_back(2)
    assert [one.step for one in watch.snapshots] == [1, 2]
    left = {"snapshots.jsonl", "step-000001/1_0.png", "step-000002/1_0.png", "merged-000001.png", "merged-000002.png"}
    assert set(listing(watch.out)) == {*left, "step-notes.txt", MARK}
    assert watching(vgg(), tmp_path / "parts").snapshots == watch.snapshots
    again = colours(tmp_path / "parts", [1, 2], first=3, first_photo=True)
    assert again.snapshots == whole.snapshots
    assert set(listing(again.out)) == {*listing(whole.out), "step-notes.txt"}
    again.cut_back(99)
    assert again.snapshots == whole.snapshots
    again.cut_back(0)
    assert again.snapshots == ()
    assert set(listing(again.out)) == {"snapshots.jsonl", "step-notes.txt", MARK}


@pytest.mark.parametrize("which", range(2))
def test_a_snapshot_that_cannot_be_written_is_not_there(tmp_path, monkeypatch, which):
    watch = colours(tmp_path, [0])
    before, files, real, calls = watch.snapshots, (tmp_path / "snapshots.jsonl").read_bytes(), os.replace, []

    def full(source, target):
        calls.append(target)
        if len(calls) > which:
            raise OSError(28, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("convscope.training.evolution.os.replace", full)
        with pytest.raises(ConvscopeError, match=r"cannot write .*: No space left"):
            watch(2)
    assert watch.snapshots == before
    assert (tmp_path / "snapshots.jsonl").read_bytes() == files
    watch(2)
    assert [one.step for one in colours(tmp_path, []).snapshots] == [1, 2]
    assert set(listing(tmp_path)) == {"snapshots.jsonl", "step-000001/1_0.png", "step-000002/1_0.png"}


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"step": 1}', '{"field": [1, 2, 3, 4]}', '{"field": [1, 2]}'])
def test_a_damaged_folder_is_told(tmp_path, line):
    colours(tmp_path, [0])
    with open(tmp_path / "snapshots.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(ConvscopeError, match=r"snapshots.jsonl: line 2 is no snapshot"):
        colours(tmp_path, [])


def test_a_picture_that_is_gone_is_told(tmp_path):
    watch = colours(tmp_path, [0])
    (tmp_path / "step-000001/1_0.png").unlink()
    with pytest.raises(ConvscopeError, match=r"step-000001/1_0.png is gone"):
        watch.sheet()


def test_the_first_photo_of_the_batch_through_every_layer(tmp_path):
    watch = watching(vgg(), tmp_path, first_photo=True, photos=photos(2, 3, 22, 27))
    batch = photos(5, 3, 22, 27, seed=4)
    watch(1, batch), watch(2, batch[:1]), watch(3, batch[1:])
    one, two, three = (np.array(Image.open(tmp_path / f"merged-00000{step}.png")) for step in (1, 2, 3))
    below = slice(40, None)  # what is above differs by the step
    assert np.array_equal(one[below], two[below])
    assert not np.array_equal(one[below], three[below])
    for x, message in ((None, "call watch.step, x."), (batch * 4 - 2, "before normalisation")):
        with pytest.raises(UsageError, match=message):
            watch(4, x)


# --- models and methods


def test_a_module_a_classifier_a_scope_and_wrapped_modules(tmp_path):
    net, images = seeded(Skip(), seed=2), photos(4)
    options = {"units": ["relu2:0-3"], "photos": images, "at": 1}
    plain = Evolution(net, out=tmp_path / "0", **options)(1)
    for number, model in enumerate([Classifier(net), Scope(net), nn.DataParallel(net), torch.compile(net)], 1):
        assert Evolution(model, out=tmp_path / str(number), **options)(1) == plain
    scope = Scope(net, mean=0.5, std=0.25)
    normalised = Evolution(scope, out=tmp_path / "9", **options)(1)
    for one in normalised:
        value, index, place = by_hand(scope.classifier, net.relu2, int(one.unit[-1]), images)
        assert (one.index, (one.row, one.col)) == (index, place)
        assert one.value == pytest.approx(value)
    assert [one.value for one in normalised] != [one.value for one in plain]


def test_units_by_globs_aliases_and_twice(tmp_path):
    watch = watching(seeded(Skip()), tmp_path, units=["relu[34]:0-1", "@last_conv:1,2"], photos=photos())
    assert watch.units == {"relu3": (0, 1), "relu4": (0, 1, 2)}
    assert watching(vgg(), tmp_path, units=None).units.keys() == {"2", "5", "9", "12"}


def test_what_a_method_has_to_say_of_the_network(tmp_path):
    assert watching(vgg(), tmp_path).notes == ()
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    switches, smooth = sorted(watching(net, tmp_path, units="1:0").notes)
    assert "SiLU kept its own derivative" in switches
    assert "no max pool: guided shows more" in smooth
    net[0].weight.data.zero_()
    assert len(watching(net, tmp_path, units="0:0", method="guided").notes) == 0, "nothing of the map of the moment"


def test_a_method_with_settings_of_its_own(tmp_path):
    images, found = photos(2, 3, 56, 64), {}
    for norm in ("backward", "pass"):
        method = configure("deconvnet", {"contrast_norm": norm})
        net = seeded(zfnet_like(), seed=3)
        watch = Evolution(net, units="4:0", photos=images, out=tmp_path / norm, at=1, method=method)
        (one,) = watch(1)
        found[norm] = np.array(Image.open(watch.out / one.picture))
    assert (found["pass"] != found["backward"]).any()


class Hidden(nn.Module):
    """A rectifier that no rule reaches."""

    def forward(self, x):
        return torch.where(x > 0, x, 0.0)


HIDDEN = nn.Sequential(nn.Conv2d(3, 6, 1), Hidden(), nn.Conv2d(6, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())


# --- what is refused, at once


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        pytest.param({"units": ["13x:0"]}, UsageError, "unknown layer '13x'; nearest: 13", id="layer"),
        pytest.param({"units": ["99*:0"]}, UsageError, "no layer matches", id="glob"),
        pytest.param({"units": ["2:0", "5:7"]}, UsageError, "unit 7 is out of range: 5 has 4 units", id="unit"),
        pytest.param({"units": ["2:5-2"]}, UsageError, "runs backwards", id="range"),
        pytest.param({"units": ["2"]}, UsageError, "2 names no units: write 2:0-5", id="no units"),
        pytest.param({"units": ["2:1@3,4"]}, UsageError, "leave out the position", id="position"),
        pytest.param({"units": []}, UsageError, "names no unit", id="nothing"),
        pytest.param({"units": ["@logits:0"]}, UsageError, "not a layer with maps", id="logits"),
        pytest.param({"photos": None}, UsageError, "photos= is missing", id="no photos"),
        pytest.param({"photos": lambda: []}, UsageError, "no photos", id="empty"),
        pytest.param({"photos": 3 * photos()}, UsageError, "before normalisation", id="normalised"),
        pytest.param({"method": "grad-cam"}, UsageError, "does not project units", id="a map"),
        pytest.param({"method": "guidde"}, UsageError, "nearest: guided", id="unknown method"),
        pytest.param({"method": "guided-grad-cam"}, Inapplicable, "does not come before", id="inapplicable"),
        pytest.param({"at": 0}, UsageError, "at least 1", id="never"),
        pytest.param({"at": []}, UsageError, "names no step", id="no step"),
        pytest.param({"model": "vgg"}, UsageError, "not str", id="no model"),
        pytest.param({"model": HIDDEN, "units": "2:0"}, RuleError, "did not reach every rectifier", id="no rule"),
    ],
)
def test_what_is_refused_at_once(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        watching(options.pop("model", None) or vgg(), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_network_that_diverged_writes_nothing(tmp_path):
    classifier = vgg()
    watch = watching(classifier, tmp_path / "out")
    classifier.network[0].weight.data.fill_(torch.nan)
    with pytest.raises(ConvscopeError, match="the training has diverged"):
        watch(1)
    assert not (tmp_path / "out").exists()


# --- a real training


def test_features_of_digits_grow(tmp_path):
    torch.manual_seed(0)
    images, labels = digits()
    images = F.interpolate(images, (20, 20), mode="bilinear").clamp(0, 1)
    net = mnist_convnet(size=20)
    watch = Evolution(net, photos=images[:150], out=tmp_path, at=[1, 2, 4], label="epoch", first_photo=True)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(1, 5):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
        watch(epoch, images[rows])
    assert len(watch.snapshots) == 3 * 18
    for one in watch.snapshots[-18:]:
        layer, unit = re.fullmatch(r"features\.(relu\d):(\d+)", one.unit).groups()
        value, index, place = by_hand(watch.classifier, net.features.get_submodule(layer), int(unit), images[:150])
        assert one.value == pytest.approx(value, rel=1e-4, abs=1e-6)
        assert one.dead or (one.index, (one.row, one.col)) == (index, place)
    deep = [one for one in watch.snapshots if "relu3" in one.unit]
    mean = [np.mean([one.value for one in deep if one.step == step]) for step in (1, 2, 4)]
    assert min(mean[1:]) > mean[0] > 0, "the last layer's units respond more"
    assert sum(one.jumped for one in deep) > 0
    assert all((tmp_path / f"merged-{step:06d}.png").exists() for step in (1, 2, 4))


def test_what_units_want_lies_beside_their_photos_and_below_them_on_the_sheet(tmp_path):
    plain = watching(vgg(), tmp_path / "plain", photos=photos(3, 3, 22, 27))
    watch = watching(vgg(), tmp_path / "new", photos=photos(3, 3, 22, 27), patterns=5)
    before = torch.random.get_rng_state()
    for one in (plain, watch):
        one(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    files = [snapshot.pattern for snapshot in watch.snapshots]
    assert files[0] == "step-000003/2_1-pattern.png"
    own = vgg()
    framed = Classifier(own.network, own.classes, mean=own.mean, std=own.std, framing=Framing((22, 27)))
    wanted = Scope(framed, progress=False).visualize("5:1", steps=5)
    kept = dict(zip([snapshot.unit for snapshot in watch.snapshots], files, strict=True))["5:1"]
    assert np.array_equal(np.asarray(Image.open(watch.out / kept)), np.asarray(wanted.picture()))
    assert not any(snapshot.pattern for snapshot in plain.snapshots)
    assert watch.sheet().height > plain.sheet().height
    assert read_snapshots(watch.out / "snapshots.jsonl") == list(watch.snapshots)
