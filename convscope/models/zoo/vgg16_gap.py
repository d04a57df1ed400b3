"""VGG16 with a global pool for a head: few parameters to learn from few photos."""

from __future__ import annotations

from torch import nn

from convscope.models.zoo import architecture
from convscope.models.zoo._common import chain
from convscope.models.zoo._vgg import vgg16_features


@architecture("vgg16_gap", size=224, crop=None)
def vgg16_gap(*, num_classes: int = 12, batch_norm: bool = False) -> nn.Sequential:
    """VGG16 with a global max pool and one linear layer, as in a classifier of 12 breeds of cats.

    ``b 3 h w -> b num_classes``, meant for 224x224 but good for any size; 14,720,844 parameters with 12 classes. Pools
    follow blocks 1 to 4, the global one block 5. ``batch_norm`` puts a BatchNorm after each convolution.
    """
    return chain(
        features=vgg16_features(batch_norm=batch_norm, last_pool=False),
        pool=nn.AdaptiveMaxPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(512, num_classes),
    )
