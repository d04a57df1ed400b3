"""The small network for handwritten digits."""

from __future__ import annotations

from torch import nn

from convscope.models.zoo import architecture
from convscope.models.zoo._common import chain, flat_features


@architecture("mnist_convnet", size=28, channels=1)
def mnist_convnet(*, num_classes: int = 10, size: int | tuple[int, int] = 28) -> nn.Sequential:
    """Small MNIST convnet: three 3x3 convolutions and two linear layers.

    ``b 1 28 28 -> b num_classes``; 93,322 parameters with 10 classes. No padding: 576 numbers enter ``fc1``.
    """
    features = chain(
        conv1=nn.Conv2d(1, 32, 3),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(32, 64, 3),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        conv3=nn.Conv2d(64, 64, 3),
        relu3=nn.ReLU(),
    )
    classifier = chain(
        fc1=nn.Linear(flat_features(features, size, channels=1), 64),
        relu1=nn.ReLU(),
        fc2=nn.Linear(64, num_classes),
    )
    return chain(features=features, flatten=nn.Flatten(), classifier=classifier)
