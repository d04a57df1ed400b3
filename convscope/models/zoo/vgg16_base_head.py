"""VGG16's convolutions as a base to be given pretrained weights, under a small head to be trained."""

from __future__ import annotations

from torch import nn

from convscope.models.zoo import architecture
from convscope.models.zoo._common import IMAGENET_MEAN, IMAGENET_STD, chain, flat_features
from convscope.models.zoo._vgg import vgg16_features


@architecture("vgg16_base_head", size=150, crop=None, mean=IMAGENET_MEAN, std=IMAGENET_STD)
def vgg16_base_head(*, num_classes: int = 1, size: int | tuple[int, int] = 150) -> nn.Sequential:
    """VGG16 base with a head of two linear layers, for dogs against cats from pretrained features.

    ``b 3 150 150 -> b num_classes``; 1 is a binary classifier's single logit and has 16,812,353 parameters: 14,714,688
    in ``features`` (the base, 4x4x512 out) and 2,097,665 in ``classifier`` (the head: 256, dropout 0.5, output).

    Normalisation not stated; ImageNet's mean and std are what torchvision's weights for the base were trained with.
    """
    features = vgg16_features()
    classifier = chain(
        fc1=nn.Linear(flat_features(features, size), 256),
        relu1=nn.ReLU(),
        dropout=nn.Dropout(0.5),
        fc2=nn.Linear(256, num_classes),
    )
    return chain(features=features, flatten=nn.Flatten(), classifier=classifier)
