"""Feature visualisation by gradient ascent (Erhan et al. 2009; Olah et al. 2017), in four nouns: objectives,
parameterisations, transforms, and render, which sees nothing but the three.
"""

from convscope.optvis.objectives import (
    Objective,
    Units,
    channel,
    cosine,
    direction,
    diversity,
    energy,
    l2,
    logit,
    neuron,
    total_variation,
)
from convscope.optvis.parameterizations import Fourier, Maco, Pixel
from convscope.optvis.patterns import Patterns
from convscope.optvis.recipes import RECIPES, Recipe
from convscope.optvis.render import How
from convscope.optvis.transforms import box_crop, jitter, noise, pad, rotate, scale

__all__ = [
    "RECIPES",
    "Fourier",
    "How",
    "Maco",
    "Objective",
    "Patterns",
    "Pixel",
    "Recipe",
    "Units",
    "box_crop",
    "channel",
    "cosine",
    "direction",
    "diversity",
    "energy",
    "jitter",
    "l2",
    "logit",
    "neuron",
    "noise",
    "pad",
    "rotate",
    "scale",
    "total_variation",
]
