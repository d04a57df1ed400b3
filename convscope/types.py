"""Array types, checked by the tests and free in production. Rows come before columns everywhere."""

from __future__ import annotations

from typing import TypeAlias

from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

Images: TypeAlias = Float[Tensor, "b c h w"]  # pixels in [0, 1], RGB or one channel
OneImage: TypeAlias = Float[Tensor, "1 c h w"]
VariantScores: TypeAlias = Float[Tensor, " n"]  # one number a variant of an image
Variants: TypeAlias = Float[Tensor, "n ..."]  # numbers for each variant of an image
Patches: TypeAlias = Float[Tensor, "n c ph pw"]  # parts of images
Features: TypeAlias = Float[Tensor, "b k fh fw"]  # feature maps of one layer
Maps: TypeAlias = Float[Tensor, "b h w"]  # one map an image, on the input's canvas
LayerMaps: TypeAlias = Float[Tensor, "b fh fw"]  # one map an image, at a layer's resolution
Pixels: TypeAlias = Float[Tensor, "b c h w"]  # signed pixel attributions
Scores: TypeAlias = Float[Tensor, " b"]  # one number an image
Logits: TypeAlias = Float[Tensor, "b classes"]
Picture: TypeAlias = UInt8[ndarray, "h w 3"]  # what is shown
