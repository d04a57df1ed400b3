"""Building: what is stored is what brute force finds, also of a build that was cut off; what cannot be, says so."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from convscope.atlas import build as module
from convscope.atlas.build import Build, build
from convscope.atlas.store import Store
from convscope.data.catalog import catalog
from convscope.data.loading import Photos
from convscope.errors import Cancelled, ConvscopeError, UsageError
from convscope.images.frame import Framing
from convscope.instrument.state import undisturbed
from convscope.models.classifier import Classifier
from tests.nets import seeded

COUNT, SIDE = 45, 16
LAYERS = ("0", "1", "3", "5")
ROOT = Path(__file__).resolve().parents[2]
KILLED = """
import os, sys
from pathlib import Path
from convscope.atlas import build as module
from tests.atlas.test_build import job_of
module.AT_ONCE["cpu"] = 8
put_away = module._put_away
module._put_away = lambda *told: os._exit(9) if told[3] == 3 else put_away(*told)
module.build(job_of(Path(sys.argv[1]), Path(sys.argv[2])), workers=0, every=0)
"""


def classifier_of(seed=0):
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 3), nn.ReLU())
    net.extend([nn.Flatten(), nn.Linear(4 * 36, 3)])
    net = seeded(net, seed)
    net[0].weight.data[2], net[0].bias.data[2] = 0, -1  # dead after its ReLU
    net[0].weight.data[5], net[0].bias.data[5] = net[0].weight.data[1], net[0].bias.data[1]
    return Classifier(net, mean=0.5, std=0.3, framing=Framing((SIDE, SIDE), SIDE))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    pixels = np.random.default_rng(1).integers(0, 256, (COUNT, SIDE, SIDE, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        place = folder / "abc"[i % 3] / f"{i:02d}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(place)
    return folder


@pytest.fixture
def own(source, tmp_path, monkeypatch):
    """Photos of one's own, to be broken; batches of eight."""
    monkeypatch.setitem(module.AT_ONCE, "cpu", 8)
    shutil.copytree(source, tmp_path / "photos")
    return tmp_path / "photos"


def job_of(photos, folder, classifier=None, layers=LAYERS, top=4):
    classifier = classifier or classifier_of()
    found = catalog(photos)
    return Build(classifier, Photos(found, classifier.framing, 3), layers, folder, top)


def everything(folder):
    store = Store(folder)
    tables = ("images", "classes", "layers", "units", "patches", "neighbours")
    found = {table: [tuple(row) for row in store._open.execute(f"SELECT * FROM {table}")] for table in tables}
    store.close()
    return found


def stopped_after(monkeypatch, batches):
    """A build whose user asks it to stop once so many batches are done."""
    asked = iter([False] * (batches - 1) + [True] * 1000)
    monkeypatch.setattr(module, "cancelled", lambda: next(asked))


def test_what_is_stored_is_what_brute_force_finds(own, tmp_path):
    job = job_of(own, tmp_path / "atlas")
    assert build(job, workers=0) == tmp_path / "atlas"
    store, photos = Store(tmp_path / "atlas"), job.photos
    images = photos[(0, np.arange(COUNT))].images.double() / 255
    labels = photos.catalog.labels
    x = job.classifier.normalise(images.float())
    assert [row["address"] for row in store.layers()] == list(LAYERS)
    assert (store.layers()[2]["rows"], store.layers()[2]["field_rows"], store.layers()[2]["step_rows"]) == (6, 8, 2.0)
    with torch.no_grad():
        for i, layer in enumerate(job.classifier.network[:6]):
            x = layer(x)
            if str(i) not in LAYERS:
                continue
            number, flat = LAYERS.index(str(i)), x.flatten(2) if x.ndim > 2 else x[:, :, None]
            best = flat.amax(2)
            for unit in range(flat.shape[1]):
                row, patches = store.unit(number, unit), store.patches(number, unit)
                assert row["mean"] == pytest.approx(float(flat[:, unit].mean()), abs=1e-9)
                assert row["std"] == pytest.approx(float(flat[:, unit].std(correction=0)), abs=1e-7)
                assert row["q50"] == pytest.approx(float(best[:, unit].quantile(0.5)), abs=1e-9)
                assert row["dead"] == int(bool((flat[:, unit] == flat[0, unit, 0]).all()))
                order = sorted(range(COUNT), key=lambda i: (-float(best[i, unit]), i))[:4]
                top = [one for one in patches if one["kind"] == "top"]
                assert [one["value"] for one in top] == pytest.approx(best[order, unit].tolist(), abs=1e-9)
                if not row["dead"]:
                    assert [one["image"] for one in top] == order
                means = [float(flat[labels == c, unit].mean()) for c in range(3)]
                if max(means) > 0:
                    assert row["class"] == int(np.argmax(means))
                near = [abs(one["value"] - row["q50"]) for one in patches if one["kind"] == "middle"]
                wanted = (best[:, unit] - best[:, unit].quantile(0.5)).abs().sort().values[:9].tolist()
                assert near == pytest.approx(wanted, abs=1e-9)
                for one in patches:
                    if x.ndim > 2:
                        value = float(x[one["image"], unit, one["row"], one["col"]])
                        assert value == pytest.approx(one["value"], abs=1e-9)
                    else:
                        assert one["row"] is one["col"] is None
    assert store.unit(0, 5)["duplicate_of"] == 1
    assert store.unit(1, 2)["dead"] == 1
    assert next(row["name"] for row in store.patches(0, 0) if row["kind"] == "top").endswith(".png")


@pytest.mark.parametrize("batches", [1, 3, 5])
def test_a_build_that_is_stopped_goes_on_and_gives_the_same(own, tmp_path, monkeypatch, batches):
    build(job_of(own, tmp_path / "whole"), workers=0)
    with monkeypatch.context() as patch:
        stopped_after(patch, batches)
        with pytest.raises(Cancelled, match="goes on with it"):
            build(job_of(own, tmp_path / "cut"), workers=0)
    assert Store(tmp_path / "cut").meta()["complete"] is False
    assert max(row[4] for row in everything(tmp_path / "cut")["patches"]) < 8 * batches, "what is known so far"
    build(job_of(own, tmp_path / "cut"), workers=0)
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    assert len(list((tmp_path / "cut").glob("state-*"))) == 1


def test_a_build_that_is_killed_goes_on_from_what_was_put_away(own, tmp_path):
    build(job_of(own, tmp_path / "whole"), workers=0, every=0)
    done = subprocess.run(  # dies after its third batch, of which two are put away
        [sys.executable, "-c", KILLED, str(own), str(tmp_path / "cut")], cwd=ROOT, check=False
    )
    assert done.returncode == 9
    assert Store(tmp_path / "cut").meta()["batches done"] == 2
    build(job_of(own, tmp_path / "cut"), workers=0, every=0)
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")


def test_a_finished_atlas_is_not_made_again(own, tmp_path, monkeypatch):
    build(job_of(own, tmp_path / "atlas"), workers=0)
    monkeypatch.setattr(module, "_look", lambda *_: pytest.fail("looked again"))
    build(job_of(own, tmp_path / "atlas"), workers=0)


def test_photos_that_can_no_longer_be_read_are_recorded_and_left_out(own, tmp_path):
    job = job_of(own, tmp_path / "atlas")
    names = [job.photos.catalog.store.names[row] for row in range(COUNT)]
    lost = [0, 11, 44]
    for row in lost:
        (own / names[row]).write_bytes(b"no longer a photo")
    build(job, workers=0)
    store = Store(tmp_path / "atlas")
    errors = {row["image"]: row["error"] for row in store.images() if row["error"] is not None}
    assert sorted(errors) == lost
    assert all("cannot be read any more" in error for error in errors.values())
    seen = {one["image"] for unit in range(6) for one in store.patches(0, unit)}
    assert not seen & set(lost)
    assert len([one for one in store.patches(0, 0) if one["kind"] == "top"]) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classifier": classifier_of(1)}, "an atlas of other weights"),
        ({"layers": ("0",)}, "an atlas of other layers"),
        ({"top": 5}, "an atlas of other top"),
    ],
)
def test_another_model_or_wish_is_refused_with_the_difference(own, tmp_path, change, words):
    build(job_of(own, tmp_path / "atlas"), workers=0)
    before = everything(tmp_path / "atlas")
    with pytest.raises(UsageError, match=words):
        build(job_of(own, tmp_path / "atlas", **change), workers=0)
    next(own.glob("a/*")).unlink()
    with pytest.raises(UsageError, match="an atlas of other photos"):
        build(job_of(own, tmp_path / "atlas"), workers=0)
    assert everything(tmp_path / "atlas") == before


def test_a_second_builder_is_refused_while_the_first_is_at_work(own, tmp_path, monkeypatch):
    def meanwhile(*told):
        first.append(Store(tmp_path / "atlas").units("max", None, None, None))
        with pytest.raises(UsageError, match="being built by another process"):
            build(job_of(own, tmp_path / "atlas"), workers=0)
        assert Store(tmp_path / "atlas").meta()["complete"] is False, "it can be read"
        put_away(*told)

    put_away, first = module._put_away, []
    monkeypatch.setattr(module, "_put_away", meanwhile)
    build(job_of(own, tmp_path / "atlas"), workers=0, every=0)
    assert not first[0]
    assert len(first[1]) == 6 + 6 + 4 + 36 * 4, "what is known so far can be read"
    monkeypatch.undo()
    build(job_of(own, tmp_path / "atlas"), workers=0)
    assert Store(tmp_path / "atlas").meta()["complete"] is True


def test_the_model_is_left_as_it_was(own, tmp_path):
    job = job_of(own, tmp_path / "atlas")
    job.classifier.train()
    before = {name: value.clone() for name, value in job.classifier.state_dict().items()}
    build(job, workers=0)
    assert all(module.training for module in job.classifier.network.modules())
    assert all(torch.equal(before[name], value) for name, value in job.classifier.state_dict().items())
    assert not any(module._forward_hooks for module in job.classifier.modules())
    with undisturbed(job.classifier, grad=False):
        json.dumps(Store(tmp_path / "atlas").meta())


def test_what_cannot_be_built_is_one_line(own, tmp_path):
    with pytest.raises(UsageError, match="at least one layer"):
        build(job_of(own, tmp_path / "atlas", layers=()))
    with pytest.raises(UsageError, match="layer nothing gives neither maps nor numbers"):
        build(job_of(own, tmp_path / "other", layers=("nothing",)))
    (tmp_path / "file").touch()
    with pytest.raises(ConvscopeError, match="cannot be made"):
        build(job_of(own, tmp_path / "file"))
