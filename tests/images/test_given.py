"""What a user gives as photos."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convscope.errors import ConvscopeError, UsageError
from convscope.images.given import checked, joined, several
from convscope.images.read import Photo


def test_one_or_several_or_none():
    image, array = Image.new("RGB", (2, 2)), np.zeros((2, 2, 3), np.uint8)
    photo = Photo(image, "a", None)
    for one in ("a.png", Path("a.png"), image, array, photo):
        assert several(one) == [one] if one is not array else several(one)[0] is array
    assert several(None) == []
    assert several(["a.png", image]) == ["a.png", image]
    assert list(several(Path(name) for name in "ab")) == [Path("a"), Path("b")]
    assert several(torch.zeros(2, 3, 4, 4))[1].shape == (3, 4, 4)
    with pytest.raises(UsageError, match="photos are paths, PIL images, arrays or tensors, not int"):
        several(3)


def test_tensors_are_batches_of_pixels_without_a_gradient():
    image = torch.rand(3, 4, 5, requires_grad=True)
    batch = checked(image, 3)
    assert batch.shape == (1, 3, 4, 5)
    assert not batch.requires_grad
    assert torch.equal(batch[0], image)
    whole = torch.rand(2, 1, 4, 5, dtype=torch.float64)
    assert checked(whole, 1).dtype == torch.float64
    assert torch.equal(checked(whole, 1), whole)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (torch.rand(4, 5), UsageError, 'a tensor of images is "b 3 h w" for this model, got (4, 5)'),
        (torch.rand(1, 4, 5), UsageError, "got (1, 1, 4, 5)"),
        (torch.rand(0, 3, 4, 5), UsageError, "got (0, 3, 4, 5)"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), UsageError, "got torch.uint8; divide by 255 first"),
        (torch.full((3, 4, 5), torch.nan), ConvscopeError, "NaN or infinity"),
        (torch.full((3, 4, 5), torch.inf), ConvscopeError, "NaN or infinity"),
        (torch.full((3, 4, 5), -0.1), UsageError, "got -0.1 to -0.1: pass them before normalisation"),
        (torch.full((3, 4, 5), 255.0), UsageError, "got 255 to 255"),
    ],
)
def test_what_cannot_be_pixels_is_refused(images, error, words):
    with pytest.raises(error) as caught:
        checked(images, 3)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_rounding_is_no_reason_to_refuse():
    assert checked(torch.tensor([-5e-4, 1 + 5e-4]).view(1, 1, 1, 2), 1).shape == (1, 1, 1, 2)


def test_photos_of_one_size_are_a_batch():
    one, two = torch.rand(1, 3, 4, 5), torch.rand(2, 3, 4, 5)
    assert torch.equal(joined([one, two], ["a", "b"]), torch.cat([one, two]))
    with pytest.raises(UsageError) as caught:
        joined([one, two, torch.rand(1, 3, 7, 5)], ["a", "b", "c"])
    assert str(caught.value) == ("photos of different sizes (b 4x5, c 7x5) cannot be one batch: give the model a size")
