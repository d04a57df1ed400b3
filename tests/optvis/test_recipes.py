"""Recipes by name, and how the classic one shows its pictures."""

import re

import numpy as np
import pytest
import torch

from convscope.errors import UsageError
from convscope.optvis.recipes import RECIPES, contrast, recipe_of
from tests.nets import photos


def test_contrast_is_a_tenth_about_grey_and_a_flat_picture_is_grey():
    picture = np.asarray(contrast(0.3 + 0.01 * photos(height=40, width=50)[0])).astype(float) / 255
    assert picture.mean() == pytest.approx(0.5, abs=0.002)
    assert picture.std() == pytest.approx(0.1, abs=0.002)
    assert set(np.asarray(contrast(torch.full((3, 4, 4), 0.7))).ravel()) == {128}


def test_every_recipe_is_documented_in_a_line():
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert re.fullmatch(r"[^\n]{30,100} \(\w+( et al\.)? \d{4}\)", recipe.help)
    assert len({recipe.help for recipe in RECIPES.values()}) == len(RECIPES)
    assert next(iter(RECIPES)) == "fourier", "the first is the default"


def test_a_recipe_by_name_or_itself_and_an_unknown_one_with_the_nearest():
    assert recipe_of("maco") is RECIPES["maco"]
    own = RECIPES["classic"].with_steps(3)
    assert recipe_of(own) is own
    assert own.how.steps == 3
    assert RECIPES["classic"].how.steps == 40
    assert own.with_steps(None) is own
    for typed, words in (("furier", "unknown recipe 'furier'; nearest: fourier"), ("MACO", "nearest: maco")):
        with pytest.raises(UsageError, match=re.escape(words)):
            recipe_of(typed)
    with pytest.raises(UsageError, match="known: fourier, maco, classic"):
        recipe_of("zzz")
    for steps in (0, -3):
        with pytest.raises(UsageError, match=f"at least 1 step, got {steps}"):
            own.with_steps(steps)
