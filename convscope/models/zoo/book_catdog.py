"""The PyTorch book chapter's network for dogs and cats."""

from __future__ import annotations

from torch import nn

from convscope.models.zoo import architecture
from convscope.models.zoo._book import book_features
from convscope.models.zoo._common import chain, flat_features


@architecture("book_catdog", size=256, crop=None)
def book_catdog(*, num_classes: int = 2, size: int | tuple[int, int] = 256) -> nn.Sequential:
    """PyTorch book's dogs-vs-cats net: ``book_mnist``'s convolutions on colour, three linear layers.

    ``b 3 256 256 -> b num_classes``. 76,880 numbers enter ``fc1`` (the book writes 56,180, which fits
    224x224 and 5x5 kernels). Not stated, so chosen: ReLUs between the linear layers, dropout 0.5.
    """
    features = book_features(channels=3)
    classifier = chain(
        fc1=nn.Linear(flat_features(features, size), 500),
        relu1=nn.ReLU(),
        fc2=nn.Linear(500, 50),
        relu2=nn.ReLU(),
        fc3=nn.Linear(50, num_classes),
    )
    return chain(features=features, flatten=nn.Flatten(), classifier=classifier)
