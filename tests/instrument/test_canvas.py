"""Sizes that a network does not take: said in one line, with the network's own words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import convscope as cs
from convscope.errors import ModelError, first_line, out_of_memory
from convscope.instrument.canvas import check_canvas, on_canvas
from convscope.models.classifier import Classifier


class Asserting(nn.Module):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.dropout = nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[-1] != 32:
            raise self.error
        return self.dropout(images.mean((2, 3)))


def of_size(error: Exception, side: int) -> Classifier:
    return cs.Scope(Asserting(error), size=side).classifier


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("shapes cannot be multiplied\nsecond line"), "shapes cannot be multiplied"),
        (ValueError("32 only"), "32 only"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_a_size_is_refused_in_the_networks_own_words(error: Exception, said: str) -> None:
    with pytest.raises(ModelError) as refused:
        check_canvas(of_size(error, 20), cure="try 32")
    assert str(refused.value) == f"Asserting fails on an input of 20x20 ({said}): try 32"
    check_canvas(of_size(error, 32))
    check_canvas(of_size(error, 20), (32, 32))


def test_what_is_no_refusal_is_a_bug_and_stays() -> None:
    with pytest.raises(ZeroDivisionError):
        check_canvas(of_size(ZeroDivisionError(), 20))
    with pytest.raises(KeyError), on_canvas(of_size(ValueError(), 32)):
        raise KeyError("of the user's own")


class OutOfMemoryError(RuntimeError):
    """As a GPU's is called."""


@pytest.mark.parametrize(
    "error", [MemoryError(), OutOfMemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate")]
)
def test_too_little_memory_is_another_matter(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        check_canvas(of_size(error, 20))
    assert raised.value is error
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("shapes"))


def test_nothing_is_changed_by_asking() -> None:
    classifier = of_size(ValueError(), 32).train()
    before = torch.random.get_rng_state()
    check_canvas(classifier)
    with pytest.raises(ModelError):
        check_canvas(classifier, (20, 20))
    assert classifier.network.training
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_model_is_loaded_with_a_size_that_it_takes(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n\n"
        "def make():\n    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 30 * 30, 4))\n"
    )
    assert cs.load(f"{file}:make", size=32).layers()[-1].shape == (4,)
    with pytest.raises(ModelError) as refused:
        cs.load(f"{file}:make", size=(20, 24))
    assert "fails on an input of 20x24 (mat1 and mat2 shapes cannot be multiplied" in str(refused.value)
    assert str(refused.value).endswith("): if it was made for another size, give that")
    assert cs.load(f"{file}:make").classifier.framing.size is None
    assert cs.load(f"{file}:make", size=20, structure_only=True).classifier.canvas == (20, 20)


def test_a_network_with_lazy_layers_can_be_loaded(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text("from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))\n")
    scope = cs.load(f"{file}:make", size=8)
    scope.classifier.network(torch.zeros(1, 3, 8, 8))
    assert scope.layers()[-1].shape == (4,)


def test_the_first_line_says_something() -> None:
    assert first_line(RuntimeError("\n  \nshapes\nmore")) == "shapes"
    assert first_line(AssertionError()) == "AssertionError"
