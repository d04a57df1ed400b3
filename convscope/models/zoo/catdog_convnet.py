"""The small network for dogs and cats, trained from scratch on a thousand photos of each."""

from __future__ import annotations

from torch import nn

from convscope.models.zoo import architecture
from convscope.models.zoo._common import chain, flat_features


@architecture("catdog_convnet", size=150, crop=None)
def catdog_convnet(*, num_classes: int = 1, dropout: float = 0.0, size: int | tuple[int, int] = 150) -> nn.Sequential:
    """Small dogs-vs-cats convnet: four 3x3 convolutions, each with a pool, and two linear layers.

    ``b 3 150 150 -> b num_classes``; 1 is a binary classifier's single logit and has 3,453,121 parameters. No
    padding: 6272 numbers enter ``fc1``. ``dropout`` acts on them; the system's second form has 0.5.
    """
    features = nn.Sequential()
    inputs = 3
    for layer, maps in enumerate((32, 64, 128, 128), start=1):
        features.add_module(f"conv{layer}", nn.Conv2d(inputs, maps, 3))
        features.add_module(f"relu{layer}", nn.ReLU())
        features.add_module(f"pool{layer}", nn.MaxPool2d(2))
        inputs = maps
    classifier = chain(
        dropout=nn.Dropout(dropout),
        fc1=nn.Linear(flat_features(features, size), 512),
        relu1=nn.ReLU(),
        fc2=nn.Linear(512, num_classes),
    )
    return chain(features=features, flatten=nn.Flatten(), classifier=classifier)
