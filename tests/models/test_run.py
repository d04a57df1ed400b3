"""A run folder gives back the classifier that was written, exactly, and says in one line what is wrong with it."""

import json

import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open
from skimage import data

from convscope.errors import ModelError, UsageError
from convscope.images.frame import Framing
from convscope.models.classes import Classes, imagenet
from convscope.models.registry import load_classifier
from convscope.models.run import read_run, write_run

SPEC, OPTIONS = "convscope:mnist_convnet", {"num_classes": 3, "size": (32, 40)}
NAMES = ["Käse, Brot", "猫", "7"]


def classifier_of(spec=SPEC, options=OPTIONS, dtype=torch.float32, **settings):
    torch.manual_seed(0)
    classifier = load_classifier(spec + "@random", options=options, **{"classes": NAMES, **settings})
    return classifier.to(dtype)


@pytest.fixture
def folder(tmp_path):
    write_run(classifier_of(), tmp_path / "runs" / "one", SPEC, OPTIONS)
    return tmp_path / "runs" / "one"


def refusal(folder, kind=ModelError, **options):
    with pytest.raises(kind) as caught:
        load_classifier(f"run:{folder}", **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def same(found, given):
    state, other = found.network.state_dict(), given.network.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[key], other[key]) and state[key].dtype == other[key].dtype for key in state)
    assert (found.classes, found.mean, found.std) == (given.classes, given.mean, given.std)
    assert (found.framing, found.channels) == (given.framing, given.channels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_round_trip(tmp_path, dtype):
    given = classifier_of(dtype=dtype, mean=[1 / 3], std=[0.1 + 0.2])
    write_run(given, tmp_path, SPEC, OPTIONS)
    found = load_classifier(f"run:{tmp_path}")
    same(found, given)
    assert not any(module.training for module in found.network.modules())
    assert found.name == f"run:{tmp_path}"
    images = torch.rand(2, 1, 32, 40)
    assert torch.equal(found(images), given(images))


@pytest.mark.parametrize(
    ("spec", "options", "settings"),
    [
        ("convscope:catdog_convnet", {"dropout": 0.5}, {"size": (64, 96), "classes": ["cat", "dog"]}),
        ("convscope:efficientnet_lite0", {}, {"classes": None}),  # ImageNet's names and synsets
        ("torchvision:squeezenet1_1", {"num_classes": 3}, {}),
        ("timm:test_nfnet", {"num_classes": 3}, {}),  # photos are squashed and cut
        ("timm:test_resnet", {"num_classes": 3, "in_chans": 1}, {"size": 64}),
        ("torch.nn:Conv2d", {"in_channels": 3, "out_channels": 3, "kernel_size": [3, 3]}, {"mean": [0.5] * 3}),
    ],
)
def test_round_trip_of_every_source(tmp_path, spec, options, settings):
    given = classifier_of(spec, options, **settings)
    write_run(given, tmp_path, spec, options)
    same(load_classifier(f"run:{tmp_path}"), given)


def test_photos_are_seen_as_in_training(tmp_path):
    given = load_classifier("convscope:efficientnet_lite0")
    write_run(given, tmp_path, "convscope:efficientnet_lite0")
    found, photo = load_classifier(f"run:{tmp_path}"), Image.fromarray(data.chelsea())
    logits = [c(c.framing.apply(photo)[0][None]) for c in (found, given)]
    assert torch.equal(*logits)
    assert found.classes == imagenet()
    assert found.classes.find("n02123045") == 281


def test_files_are_plain(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["classes.json", "config.yaml", "model.safetensors"]
    assert json.loads((folder / "classes.json").read_text(encoding="utf-8")) == NAMES
    model = yaml.safe_load((folder / "config.yaml").read_text())["model"]
    assert (model["spec"], model["options"]) == (SPEC, {"num_classes": 3, "size": [32, 40]})
    assert (model["size"], model["short"], model["channels"]) == ([32, 40], 32, 1)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(classifier_of().network.state_dict())


def test_writing_again_replaces(folder):
    other = classifier_of(options={"num_classes": 2}, classes=Classes(("a", "b"), ("n1", "n2")))
    write_run(other, folder, SPEC, {"num_classes": 2})
    same(load_classifier(f"run:{folder}"), other)
    write_run(classifier_of(), folder, SPEC, OPTIONS)  # whose classes have no synsets
    same(load_classifier(f"run:{folder}"), classifier_of())


def test_a_full_disk_leaves_the_old_run(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write = type(folder).write_bytes

    def full(path, content):
        if "config" in path.name:
            write(path, content[:10])
            raise OSError("disk full")
        return write(path, content)

    monkeypatch.setattr(type(folder), "write_bytes", full)
    with pytest.raises(OSError, match="disk full"):
        write_run(classifier_of(options={"num_classes": 2}, classes=["a", "b"]), folder, SPEC, {"num_classes": 2})
    monkeypatch.undo()
    assert {name: (folder / name).read_bytes() for name in before} == before
    same(load_classifier(f"run:{folder}"), classifier_of())


def test_writing_leaves_the_classifier_alone(tmp_path):
    given = classifier_of()
    before = {key: value.data_ptr() for key, value in given.network.state_dict().items()}
    write_run(given, tmp_path, SPEC, OPTIONS)
    assert {key: value.data_ptr() for key, value in given.network.state_dict().items()} == before


def test_tied_weights(tmp_path):
    (tmp_path / "tied.py").write_text(
        "from torch import nn\ndef Net():\n    a, b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)\n"
        "    b.weight = a.weight\n    return nn.Sequential(a, b)\n"
    )
    spec = f"{tmp_path / 'tied.py'}:Net"
    given = classifier_of(spec, {})
    write_run(given, tmp_path / "run", spec)
    found = load_classifier(f"run:{tmp_path / 'run'}")
    same(found, given)
    assert found.network[0].weight is found.network[1].weight


def test_what_can_be_overridden(folder, tmp_path):
    given = load_classifier(f"run:{folder}", classes=["a", "b", "c"], mean=[0.1], std=[0.2])
    assert (given.classes.names, given.mean, given.std) == (("a", "b", "c"), (0.1,), (0.2,))
    state = {key: value + 1 for key, value in given.network.state_dict().items()}
    torch.save(state, tmp_path / "w.pt")
    found = load_classifier(f"run:{folder}", weights=tmp_path / "w.pt").network.state_dict()
    assert all(torch.equal(found[key], state[key]) for key in state)
    # Its linear layers were trained for 32x40: another canvas does not fit the weights.
    assert "1 of another shape: classifier.fc1.weight" in refusal(folder, size=64)
    assert "give it no num_classes" in refusal(folder, UsageError, options={"num_classes": 4})


def test_another_canvas_for_a_network_that_takes_any(tmp_path):
    given = classifier_of("timm:test_resnet", {"num_classes": 3})
    write_run(given, tmp_path, "timm:test_resnet", {"num_classes": 3})
    assert load_classifier(f"run:{tmp_path}", size=(64, 96)).framing.size == (64, 96)


# What cannot be written


def test_what_cannot_be_written(tmp_path):
    given = classifier_of()
    with pytest.raises(UsageError, match="a run's options are numbers, texts"):
        write_run(given, tmp_path / "x", SPEC, {"act": torch.nn.ReLU()})
    with pytest.raises(UsageError, match="is a run itself"):
        write_run(given, tmp_path / "x", "run:elsewhere")
    with pytest.raises(UsageError, match="class names"):
        write_run(classifier_of(classes=None), tmp_path / "x", SPEC, OPTIONS)
    assert not (tmp_path / "x").exists()


# Damage


@pytest.mark.parametrize("name", ["config.yaml", "classes.json"])
def test_a_folder_of_something_else(folder, name):
    (folder / name).unlink()
    assert refusal(folder, UsageError) == f"run:{folder}: not a run folder, {name} is missing"


def test_no_weights_and_no_folder(folder):
    (folder / "model.safetensors").unlink()
    assert refusal(folder, UsageError).startswith(f"{folder} has no weights yet")
    assert "no such folder" in refusal(folder / "none", UsageError)
    assert "no such folder" in refusal(folder / "config.yaml", UsageError)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            ("config.yaml", content)
            for content in (b"", b"model:", b"- 1", b"model: {", b"model: {spec: 3}", b"\xff\xfe")
        ),
        *(("classes.json", content) for content in (b"", b"[", b"{}", b"[]", b"[1, 2]", b'"abc"', b"\xff\xfe")),
        ("synsets.json", b"[1]"),
    ],
)
def test_damaged_files(folder, name, content):
    (folder / name).write_bytes(content)
    assert refusal(folder).startswith(f"run:{folder}: its files are damaged (")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("spec", value) for value in ("resnet18", "run:elsewhere", 3)),
        *(("size", value) for value in ("big", [32], [0, 3], {"h": 3})),
        *(("short", value) for value in (3, "big")),
        *(("interpolation", value) for value in ("cubic", None)),
        *(("mean", value) for value in (None, ["a"], 3)),
        *(("options", value) for value in (3, "ab")),
        ("channels", None),
    ],
)
def test_damaged_settings(folder, key, value):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"][key] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert refusal(folder).startswith(f"run:{folder}: its files are damaged (")


@pytest.mark.parametrize(
    "key", ["spec", "options", "mean", "std", "size", "short", "interpolation", "squash", "channels"]
)
def test_missing_settings(folder, key):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["model"][key]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert key in refusal(folder)


def test_damaged_weights(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"{weights}: not a checkpoint, or a damaged one" in refusal(folder)


def test_weights_of_another_network(folder):
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["options"]["num_classes"] = 4
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert "2 of another shape: classifier.fc2.weight (3, 64) for (4, 64)" in refusal(folder)


def test_reading_gives_the_framing_of_training(folder):
    found = read_run(folder)
    assert found.framing == Framing((32, 40), 32, "bicubic")
    assert found.classes.names == tuple(NAMES)
