"""The shapes in convscope's signatures are checked while tests run (``conftest.py`` sees to it)."""

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import nn

from convscope.images.frame import to_image
from convscope.instrument.target import Target
from convscope.methods._cam import to_canvas
from convscope.methods.grad_cam import GradCam
from convscope.models.classifier import Classifier
from convscope.scope import Prediction

IMAGES = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda: Classifier(nn.Flatten())(IMAGES[0]), id="models"),
        pytest.param(lambda: Target().pick(torch.rand(2, 3, 4)), id="instrument"),
        pytest.param(lambda: to_canvas(torch.rand(2, 5, 4, 4), IMAGES), id="methods"),
        pytest.param(lambda: to_canvas(torch.rand(3, 4, 4), IMAGES), id="two arguments that disagree"),
        pytest.param(lambda: GradCam(layer=7), id="a setting of a method"),
        pytest.param(lambda: to_image("cat.png"), id="images"),
        pytest.param(lambda: Prediction(torch.rand(3), None), id="scope"),
    ],
)
def test_a_wrong_shape_is_refused(call):
    with pytest.raises(TypeCheckError):
        call()
