"""What methods of many forward passes share: images one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from convscope.instrument.target import Target, joined
from convscope.progress import track
from convscope.types import Images, Maps, OneImage, Scores

Found: TypeAlias = tuple[Maps, Scores, Target]


def one_by_one(images: Images, target: Target, explain_one: Callable[[OneImage, Target], Found]) -> Found:
    """Maps, scores and the settled target of a batch, each image by itself: the budget holds for any number of them."""
    rows = [slice(i, i + 1) for i in range(len(images))]
    found = [explain_one(images[row], target[row]) for row in (track(rows, "images") if len(rows) > 1 else rows)]
    maps, scores, targets = zip(*found, strict=True)
    return torch.cat(maps), torch.cat(scores), joined(targets)
