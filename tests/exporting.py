"""What the tests of exports share: a small network with any ending, and the file as others see it."""

import jaxtyping
import onnxruntime
import pytest
import torch
from torch import nn

from convscope.errors import ConvscopeError
from convscope.images.frame import Framing
from convscope.models.classifier import Classifier
from convscope.models.export import export
from tests.nets import seeded


def unchecked_tracing(monkeypatch):
    """While a network is traced its sizes are symbols, which the tests' check of annotations takes for no numbers."""
    trace = torch.onnx.export

    def tracing(*arguments, **options):
        jaxtyping.config.update("jaxtyping_disable", True)
        try:
            return trace(*arguments, **options)
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)

    monkeypatch.setattr(torch.onnx, "export", tracing)


class Head(nn.Module):
    """A convolution and ``form`` of what a linear layer makes of its means."""

    def __init__(self, form=lambda logits: logits, outputs=3, channels=3):
        super().__init__()
        self.conv, self.fc, self.form = nn.Conv2d(channels, 4, 3), nn.Linear(4, outputs), form

    def forward(self, images):
        return self.form(self.fc(self.conv(images).relu().mean((2, 3))))


def classifier_of(net, dtype=torch.float32, size=(20, 24), **options):
    return Classifier(seeded(net, dtype=dtype), framing=Framing(size, size and min(size)), **options)


def to_onnx(classifier, folder, **options):
    return export(classifier, folder / "x.onnx", "onnx", **{"spec": "net.py:Net", **options})


def refusal(classifier, folder, kind=ConvscopeError, format="onnx", **options):
    with pytest.raises(kind) as caught:
        export(classifier, folder / f"x.{format}", format, **{"spec": "net.py:Net", **options})
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []
    return str(caught.value)


def ran(file, pixels):
    """What onnxruntime alone makes of the file."""
    session = onnxruntime.InferenceSession(str(file))
    return [torch.from_numpy(output) for output in session.run(None, {"pixels": pixels.numpy()})]


def told(file):
    return dict(onnxruntime.InferenceSession(str(file)).get_modelmeta().custom_metadata_map)
