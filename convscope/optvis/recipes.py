"""Recipes: which parameterisation, transforms, steps and display go together. Adding one is adding a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from convscope.errors import UsageError, unknown
from convscope.images.frame import to_image
from convscope.optvis import spectrum
from convscope.optvis.parameterizations import Fourier, Maco, Pixel
from convscope.optvis.render import Ascent, How
from convscope.optvis.transforms import box_crop, jitter, noise, rotate, scale
from convscope.types import Images


@dataclass(frozen=True)
class Recipe:
    """A way to make pictures, and to show them. ``help``: one line for a user."""

    name: str
    help: str
    how: How
    show: Callable[[Tensor], Image.Image] = to_image

    def with_steps(self, steps: int | None) -> Recipe:
        if steps is None:
            return self
        if steps < 1:
            raise UsageError(f"a pattern takes at least 1 step, got {steps}")
        return replace(self, how=replace(self.how, steps=steps))


RECIPES: dict[str, Recipe] = {}


def enter(recipe: Recipe) -> Recipe:
    RECIPES[recipe.name] = recipe
    return recipe


def recipe_of(recipe: str | Recipe) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise unknown("recipe", recipe, RECIPES)
    return RECIPES[recipe]


def of_photos(recipe: Recipe, photos: Images) -> Recipe:
    """The recipe with what it takes from natural photos taken from these, "b c h w"; most take nothing."""
    own = recipe.how.parameterization
    if not isinstance(own, Maco) or own.magnitudes is not None:
        return recipe
    channels = photos.shape[1]
    shown = photos if channels in (1, 3) else photos.mean(1, keepdim=True)
    maco = Maco(spectrum.of_photos(map(to_image, shown), channels))
    return replace(recipe, how=replace(recipe.how, parameterization=maco))


def contrast(image: Tensor) -> Image.Image:
    """Pixels "c h w" about mid-grey with a standard deviation of a tenth (1e-5 is added to their own, of 255)."""
    values = image * 255
    values = (values - values.mean()) / (values.std(correction=0) + 1e-5)
    return to_image((values * 0.1 + 0.5).clamp(0, 1))


FOURIER = enter(
    Recipe(
        "fourier",
        "Fourier coefficients of decorrelated colours, moved, scaled and turned at every step (Olah et al. 2017)",
        How(
            Fourier(),
            partial(torch.optim.Adam, lr=0.05),
            256,
            (jitter(0.06), scale(0.95, 1.1), rotate(5), jitter(0.03)),
        ),
    )
)
MACO = enter(
    Recipe(
        "maco",
        "phases alone under the spectrum of natural photos, seen through crops and noise (Fel et al. 2023)",
        How(Maco(), partial(torch.optim.NAdam, lr=0.3), 256, (box_crop(), noise(0.05)), views=4),
    )
)
CLASSIC = enter(
    Recipe(
        "classic",
        "40 steps of plain gradient ascent on pixels from grey noise, contrast set for display (Chollet 2016)",
        How(Pixel(), Ascent, 40),
        contrast,
    )
)
