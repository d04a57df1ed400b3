"""Whatever form a network returns, of whatever size and dtype, its ONNX file gives logits; or one line says why not."""

import json
import logging
import sys
import threading

import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

from convscope.errors import ModelError
from convscope.models.classes import Classes
from tests.exporting import Head, classifier_of, ran, refusal, to_onnx, told, unchecked_tracing
from tests.nets import photos


@pytest.fixture(autouse=True)
def tracing(monkeypatch):
    unchecked_tracing(monkeypatch)


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda z: z, id="one output"),
        pytest.param(lambda z: z.squeeze(), id="squeezed"),
        pytest.param(lambda z: z.sigmoid().squeeze(1), id="sigmoid"),
    ],
)
def test_a_network_with_one_output_gives_two(tmp_path, form):
    given = classifier_of(Head(form, outputs=1), classes=Classes(("cat", "dog")))
    to_onnx(given, tmp_path)
    images = photos(5, 3, 20, 24, dtype=torch.float32)
    for batch in (images, images[:1]):
        logits, shares = ran(tmp_path / "x.onnx", batch)
        z = given.network.fc(given.network.conv(batch).relu().mean((2, 3)))
        assert torch.allclose(logits, torch.cat([-z, z], 1) / 2, atol=1e-5)
        assert torch.allclose(shares[:, 1:], z.sigmoid(), atol=1e-5)


@pytest.mark.parametrize(
    "form", [lambda z: z.squeeze(), lambda z: z.softmax(1), lambda z: {"logits": z, "aux": z + 1}, lambda z: (z, z + 1)]
)
def test_whatever_a_network_returns_the_graph_gives_logits(tmp_path, form):
    given = classifier_of(Head(form), classes=Classes(("a", "b", "c")))
    to_onnx(given, tmp_path)
    images = photos(1, 3, 20, 24, dtype=torch.float32)
    logits, shares = ran(tmp_path / "x.onnx", images)
    wanted = given.network.fc(given.network.conv(images).relu().mean((2, 3)))
    assert torch.allclose(logits, wanted, atol=1e-5)
    assert torch.allclose(shares, wanted.softmax(1), atol=1e-5)


# Sizes


def test_without_a_canvas_any_size_goes_in(tmp_path):
    given = classifier_of(Head(), size=None)
    assert to_onnx(given, tmp_path, check_images=[Image.fromarray(data.chelsea())]).canvas is None
    assert json.loads(told(tmp_path / "x.onnx")["framing"])["size"] is None
    for images in (photos(2, 3, 31, 17, dtype=torch.float32), photos(1, 3, 300, 77, dtype=torch.float32)):
        assert torch.allclose(ran(tmp_path / "x.onnx", images)[0], given(images).detach(), atol=1e-5)


def test_where_sizes_cannot_be_left_open_it_is_224(tmp_path):
    class Flat(Head):
        def __init__(self):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 1, 5, stride=20), nn.Linear(121, 3)

        def forward(self, images):
            return self.fc(self.conv(images).flatten(1))

    given = classifier_of(Flat(), size=None)
    photo = Image.fromarray(data.chelsea())
    assert to_onnx(given, tmp_path, check_images=[photo]).canvas == (224, 224)
    assert json.loads(told(tmp_path / "x.onnx")["framing"])["size"] == [224, 224]
    assert json.loads(told(tmp_path / "x.onnx")["classes"]) == ["class 0", "class 1", "class 2"]
    assert given.classes is None
    images = photos(4, 3, 224, 224, dtype=torch.float32)
    assert torch.allclose(ran(tmp_path / "x.onnx", images)[0], given(images).detach(), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes_become_float32(tmp_path, dtype):
    given = classifier_of(Head(), dtype)
    checked = to_onnx(given, tmp_path)
    assert (checked.dtype, given.dtype) == ("float32", dtype)
    images = photos(2, 3, 20, 24, dtype=torch.float32)
    assert torch.allclose(ran(tmp_path / "x.onnx", images)[0].to(dtype), given(images), rtol=0.02, atol=0.02)


def test_nothing_is_said(tmp_path, capfd, recwarn, caplog):
    to_onnx(classifier_of(Head()), tmp_path)
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# What is refused


def test_what_cannot_be_exported_says_why(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()

    def branch(z):
        return z * 2 if z.sum() > 0 else z

    line = refusal(classifier_of(Head(torch.special.i1e)), folder, ModelError)
    assert "Head cannot be written as ONNX: No ONNX function found for" in line
    assert "bessel_i1e" in line
    line = refusal(classifier_of(Head(branch)), folder, ModelError)
    assert line.endswith("depends on the values it computed, as by an if on a tensor")
    line = refusal(classifier_of(Head(lambda z: torch.stack([z[i] for i in range(len(z))]))), folder, ModelError)
    assert line == "Head cannot be written as ONNX: its forward fixes a size of its input"
    given = classifier_of(Head())
    given.network.conv.weight.data[:] = float("nan")
    assert "gave NaN or infinity" in refusal(given, folder)
    given = classifier_of(Head())
    given.network.lock = threading.Lock()
    assert "cannot be copied" in refusal(given, folder, ModelError)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    line = refusal(classifier_of(Head()), tmp_path)
    assert line == f"ONNX needs {package}, which is not there: pip install 'convscope[onnx]'"
