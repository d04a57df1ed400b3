"""A narrow AlexNet for handwritten digits, with large maps that are good to look at."""

from __future__ import annotations

from torch import nn

from convscope.models.zoo import architecture
from convscope.models.zoo._common import chain


@architecture("alexnet_mnist", size=28, channels=1)
def alexnet_mnist(*, num_classes: int = 10, width: int = 32) -> nn.Sequential:
    """Small AlexNet for MNIST: five padded 3x3 convolutions, a global average, three linear layers.

    ``b 1 h w -> b num_classes``, meant for 28x28; 359,006 parameters with 10 classes. The convolutions have
    ``width`` times 1, 2, 3, 4, 4 maps; pools of 2 have strides 1, 1, 2, 2: maps are 28, 27, 26, 13 and 6 wide.

    Not stated, so chosen: pools follow convolutions 1 to 4, the global average the fifth; ReLUs between linear layers.
    """
    features = nn.Sequential()
    inputs = 1
    for layer, (times, stride) in enumerate([(1, 1), (2, 1), (3, 2), (4, 2), (4, None)], start=1):
        features.add_module(f"conv{layer}", nn.Conv2d(inputs, times * width, 3, padding=1))
        features.add_module(f"relu{layer}", nn.ReLU())
        if stride:
            features.add_module(f"pool{layer}", nn.MaxPool2d(2, stride))
        inputs = times * width
    classifier = chain(
        fc1=nn.Linear(inputs, 120),
        relu1=nn.ReLU(),
        fc2=nn.Linear(120, 84),
        relu2=nn.ReLU(),
        fc3=nn.Linear(84, num_classes),
    )
    return chain(features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), classifier=classifier)
