"""An export holds all that another program needs, and is only kept if it gives what the classifier gives."""

import copy
import json
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from skimage import data
from sklearn.datasets import load_digits
from torch import nn

from convscope.errors import ConvscopeError, ModelError, UsageError
from convscope.images.frame import Framing
from convscope.models import export as module
from convscope.models.classes import Classes, imagenet
from convscope.models.classifier import Classifier, probabilities
from convscope.models.export import export, framed_in_words
from convscope.models.registry import load_classifier
from convscope.models.run import write_run
from tests.exporting import Head, classifier_of, ran, refusal, to_onnx, told, unchecked_tracing
from tests.nets import photos

LITE0 = "convscope:efficientnet_lite0"
DIGITS, OPTIONS = "convscope:mnist_convnet", {"num_classes": 10, "size": (20, 20)}
RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@pytest.fixture(autouse=True)
def tracing(monkeypatch):
    unchecked_tracing(monkeypatch)


# A consumer that knows nothing of convscope: the file, onnxruntime, numpy and Pillow.


def looked_at(file, photo):
    """The classes of a photo and their probabilities, brought to the network as the file's metadata says."""
    session = onnxruntime.InferenceSession(str(file))
    about = session.get_modelmeta().custom_metadata_map
    framing = json.loads(about["framing"])
    height, width = framing["size"]
    rows, cols = (side * framing["short"] // min(height, width) for side in (height, width))
    scale = max(rows / photo.height, cols / photo.width)
    rows, cols = max(rows, int(photo.height * scale)), max(cols, int(photo.width * scale))
    photo = photo.convert("L" if about["channels"] == "1" else "RGB")
    photo = photo.resize((cols, rows), RESAMPLING[framing["interpolation"]])
    top, left = round((rows - height) / 2), round((cols - width) / 2)
    pixels = np.asarray(photo.crop((left, top, left + width, top + height)), np.float32) / 255
    pixels = pixels.reshape(height, width, -1).transpose(2, 0, 1)[None]
    (shares,) = session.run(["probabilities"], {"pixels": pixels})
    return json.loads(about["classes"]), shares[0]


@pytest.mark.slow
def test_a_consumer_with_the_file_alone_finds_cat_and_espresso(tmp_path):
    given, file = load_classifier(LITE0), tmp_path / "lite0.onnx"
    pictures = [Image.fromarray(array()) for array in (data.chelsea, data.coffee)]
    checked = export(given, file, "onnx", spec=LITE0, check_images=pictures)
    assert (checked.images, checked.canvas, checked.dtype) == (6, (224, 224), "float32")
    assert 0 < checked.difference < 1e-5
    assert [path.name for path in tmp_path.iterdir()] == ["lite0.onnx"]
    for picture, wanted in zip(pictures, ("tiger cat", "espresso"), strict=True):
        names, found = looked_at(file, picture)
        assert names[found.argmax()] == wanted
        with torch.no_grad():
            own = probabilities(given(given.framing.apply(picture)[0][None]))[0]
        assert np.allclose(found, own.numpy(), atol=1e-4)
    assert tuple(json.loads(told(file)["synsets"])) == imagenet().synsets
    onnx.checker.check_model(str(file), full_check=True)


def test_a_network_trained_on_digits(tmp_path):
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float()[:, None] / 16
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    given = Classifier(net, Classes(tuple("0123456789")), mean=0.3, std=0.4, framing=Framing((8, 8)))
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(given(pixels[:1000]), torch.from_numpy(digits.target[:1000])).backward()
        optimizer.step()
    before = copy.deepcopy(net.state_dict())
    checked = to_onnx(given, tmp_path)
    assert net.training  # as it was, though it was exported in evaluation mode
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    logits, shares = ran(tmp_path / "x.onnx", pixels[1000:])
    assert (shares.argmax(1).numpy() == digits.target[1000:]).mean() > 0.8
    assert torch.allclose(logits, given.eval()(pixels[1000:]).detach(), atol=1e-3)
    assert checked.difference < 1e-5
    assert json.loads(told(tmp_path / "x.onnx")["mean"]) == [0.3]


def test_the_file_says_how_it_sees(tmp_path):
    given = classifier_of(
        Head(), classes=Classes(("Käse, Brot", "猫", "7"), ("n1", "n2", "n3")), mean=[0.1, 0.2, 0.3], std=0.5
    )
    to_onnx(given, tmp_path, options={"width": 4})
    about = told(tmp_path / "x.onnx")
    assert json.loads(about["classes"]) == ["Käse, Brot", "猫", "7"]
    assert json.loads(about["synsets"]) == ["n1", "n2", "n3"]
    assert json.loads(about["framing"]) == {"size": [20, 24], "short": 20, "interpolation": "bicubic", "squash": False}
    assert (json.loads(about["mean"]), json.loads(about["std"])) == ([0.1, 0.2, 0.3], [0.5] * 3)
    assert (about["channels"], about["spec"], json.loads(about["options"])) == ("3", "net.py:Net", {"width": 4})
    assert "it just covers 20 high and 24 wide with Pillow's bicubic filter" in about["how"]
    model = onnx.load(tmp_path / "x.onnx")
    sizes = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.input]
    assert sizes == [["batch", 3, 20, 24]]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert b"test_export.py" not in (tmp_path / "x.onnx").read_bytes()  # no source of the user's, nor where it lies


def test_words_say_what_framing_does():
    assert framed_in_words(Framing(), 1, "black").startswith(
        "Take the photo upright, on black where it is transparent, as large as it is, in grey; divide"
    )
    assert "squash it to 20 high and 30 wide with" in framed_in_words(Framing((20, 30)), 3, "white")
    squashed = framed_in_words(Framing((20, 40), 30, "bilinear", True), 3, "white")
    assert "squash it to 30 high and 60 wide with Pillow's bilinear filter; cut out the centre, 20 high and" in squashed


# What is left alone, and dtypes


@pytest.mark.parametrize("format", ["onnx", "safetensors"])
def test_the_classifier_is_left_as_it_was(tmp_path, format):
    (tmp_path / "net.py").write_text(
        "from torch import nn\ndef Net():\n    return nn.Sequential(nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), "
        "nn.Dropout(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))\n"
    )
    spec = f"{tmp_path / 'net.py'}:Net"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of this form of weight norm, whose weight is no leaf
        given = load_classifier(spec, size=20).train()
        given.network[4].eval()
        given.network[4].bias.requires_grad_(False)
        modes = [part.training for part in given.modules()]
        held = {name: (id(p), p.clone(), p.requires_grad) for name, p in given.named_parameters()}
        weight, state = given.network[0].weight, torch.get_rng_state()
        with torch.inference_mode():
            export(given, tmp_path / f"x.{format}", format, spec=spec)
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in given.modules()] == modes
    for name, p in given.named_parameters():
        assert (id(p), p.requires_grad) == (held[name][0], held[name][2])
        assert torch.equal(p, held[name][1])
    assert given.network[0].weight is weight
    assert given.classes is None


# safetensors


def test_safetensors_gives_back_the_classifier(tmp_path):
    classes = Classes(tuple("abcdefghij"))
    torch.manual_seed(1)
    given = load_classifier(DIGITS + "@random", options=OPTIONS, classes=classes, mean=[1 / 3], std=[0.1 + 0.2])
    given = given.double()
    given.network.features.conv1.weight.data += 1e-12  # what float32 would round away
    checked = export(given, tmp_path / "x.safetensors", "safetensors", spec=DIGITS, options=OPTIONS)
    assert (checked.images, checked.difference, checked.canvas, checked.dtype) == (4, 0.0, (20, 20), "float64")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        about = file.metadata()
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict
    assert (about["format"], about["spec"], json.loads(about["options"])) == (
        "pt",
        DIGITS,
        {**OPTIONS, "size": [20, 20]},
    )
    assert json.loads(about["classes"]) == list(classes.names)
    assert (json.loads(about["mean"]), json.loads(about["std"])) == ([1 / 3], [0.1 + 0.2])
    assert "Subtract mean and divide by std" in about["how"]
    own = given.network.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(state[key], own[key]) and state[key].dtype == own[key].dtype for key in own)
    loaded = load_classifier(DIGITS, weights=tmp_path / "x.safetensors", options=OPTIONS)
    images = photos(2, 1, 20, 20, dtype=torch.float32)
    assert torch.allclose(loaded.network(images).double(), given.network(images.double()), atol=1e-6)


@pytest.mark.parametrize("format", ["onnx", "safetensors"])
def test_a_run_is_exported_as_what_it_was_made_from(tmp_path, format):
    torch.manual_seed(0)
    write_run(
        load_classifier(DIGITS + "@random", options=OPTIONS, classes=list("abcdefghij")), tmp_path, DIGITS, OPTIONS
    )
    given, file = load_classifier(f"run:{tmp_path}"), tmp_path / f"x.{format}"
    export(given, file, format, spec=f"run:{tmp_path}")
    about = told(file) if format == "onnx" else safe_open(file, "pt").metadata()
    assert (about["spec"], json.loads(about["options"])["num_classes"]) == (DIGITS, 10)


# What is refused


def test_what_cannot_be_meant(tmp_path, monkeypatch):
    given = classifier_of(Head())
    assert "known: onnx, safetensors" in refusal(given, tmp_path, UsageError, "pickle")
    with pytest.raises(UsageError, match=r"a file of the format onnx ends in \.onnx"):
        export(given, tmp_path / "x.pt", "onnx", spec="net.py:Net")
    options = {"act": nn.ReLU()}
    assert "options are numbers, texts and lists" in refusal(given, tmp_path, UsageError, options=options)
    monkeypatch.setattr(module, "MOST", 100)
    assert "ONNX holds 2: export to safetensors" in refusal(given, tmp_path, UsageError)


# The check


def tampered(monkeypatch, change):
    """Have ``change`` work on the ONNX model after it was written and before it is checked."""
    write = module.write_onnx

    def tampering(classifier, file, *rest):
        write(classifier, file, *rest)
        model = onnx.load(file)
        change(model.graph)
        onnx.save(model, file)

    monkeypatch.setattr(module, "write_onnx", tampering)


def scaled(name, factor):
    def change(graph):
        (tensor,) = (tensor for tensor in graph.initializer if tensor.name.endswith(name))
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(factor), tensor.name)
        )

    return change


def test_an_export_that_gives_something_else_is_caught_and_not_kept(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        tampered(patch, scaled("fc.weight", 1.001))
        assert "more than 0.0001, and is not kept" in refusal(classifier_of(Head()), tmp_path)
    with monkeypatch.context() as patch:
        tampered(patch, scaled("fc.weight", float("nan")))
        assert "probabilities of its export" in refusal(classifier_of(Head()), tmp_path)
    with monkeypatch.context() as patch:
        tampered(patch, lambda graph: graph.node[-1].input.__setitem__(2, graph.node[-1].input[1]))
        assert "probabilities of its export are not those" in refusal(classifier_of(Head()), tmp_path)
    with monkeypatch.context() as patch:
        tampered(patch, lambda graph: graph.node.pop())
        assert "onnxruntime cannot run its export on 3x3x20x24" in refusal(classifier_of(Head()), tmp_path, ModelError)


def test_another_class_is_caught_where_logits_lie_close_and_far_from_zero(tmp_path, monkeypatch):
    given = classifier_of(Head())
    given.network.fc.weight.data *= 1e-3
    given.network.fc.bias.data[:] = torch.tensor([100.0, 100.006, 99])
    assert to_onnx(given, tmp_path).difference < 1e-6
    (tmp_path / "x.onnx").unlink()

    def change(graph):
        (bias,) = (tensor for tensor in graph.initializer if tensor.name.endswith("fc.bias"))
        bias.CopyFrom(onnx.numpy_helper.from_array(np.array([100.008, 100.0, 99], np.float32), bias.name))

    tampered(monkeypatch, change)
    assert "finds another class in 4 of 4 images" in refusal(given, tmp_path)


def test_a_file_that_was_there_stays_when_the_export_fails(tmp_path, monkeypatch):
    to_onnx(classifier_of(Head()), tmp_path)
    before = (tmp_path / "x.onnx").read_bytes()
    tampered(monkeypatch, scaled("fc.weight", 2))
    with pytest.raises(ConvscopeError):
        to_onnx(classifier_of(Head(), mean=0.5), tmp_path)
    assert (tmp_path / "x.onnx").read_bytes() == before


def test_changed_safetensors_are_caught(tmp_path, monkeypatch):
    given = load_classifier(DIGITS + "@random", options=OPTIONS)
    write = module.save

    def one_bit_off(state, metadata):
        key = next(iter(state))
        return write({**state, key: torch.nextafter(state[key], state[key] + 1)}, metadata)

    monkeypatch.setattr(module, "save", one_bit_off)
    line = refusal(given, tmp_path, format="safetensors", spec=DIGITS, options=OPTIONS)
    assert "the weights came back changed" in line
    monkeypatch.setattr(module, "save", lambda state, metadata: write(state, {**metadata, "mean": "[0.3]"}))
    line = refusal(given, tmp_path, format="safetensors", spec=DIGITS, options=OPTIONS)
    assert "its export differs by" in line
