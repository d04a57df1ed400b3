"""The PyTorch book chapter's network for handwritten digits."""

from __future__ import annotations

from torch import nn

from convscope.models.zoo import architecture
from convscope.models.zoo._book import book_features
from convscope.models.zoo._common import chain, flat_features


@architecture("book_mnist", size=28, channels=1)
def book_mnist(*, num_classes: int = 10, size: int | tuple[int, int] = 28) -> nn.Sequential:
    """PyTorch book's MNIST net: two 3x3 convolutions with channel dropout and two linear layers.

    ``b 1 28 28 -> b num_classes``; 27,480 parameters with 10 classes. 500 numbers enter ``fc1`` (the book writes 320,
    which fits 5x5 kernels). Not stated, so chosen: a ReLU between the linear layers, dropout 0.5.
    """
    features = book_features(channels=1)
    classifier = chain(
        fc1=nn.Linear(flat_features(features, size, channels=1), 50),
        relu1=nn.ReLU(),
        fc2=nn.Linear(50, num_classes),
    )
    return chain(features=features, flatten=nn.Flatten(), classifier=classifier)
