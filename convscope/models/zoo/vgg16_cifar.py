"""VGG16 for 32x32 photos."""

from __future__ import annotations

from torch import nn

from convscope.models.zoo import architecture
from convscope.models.zoo._common import chain, flat_features
from convscope.models.zoo._vgg import vgg16_features


@architecture("vgg16_cifar", size=32)
def vgg16_cifar(*, num_classes: int = 10, batch_norm: bool = False, size: int | tuple[int, int] = 32) -> nn.Sequential:
    """VGG16 on CIFAR-10: thirteen convolutions on 32x32 and three linear layers.

    ``b 3 32 32 -> b num_classes``; 15,245,130 parameters with 10 classes. Pools follow convolutions 2, 4, 7, 10 and 13,
    so that 512 numbers enter ``fc1``. ``batch_norm`` puts a BatchNorm after each convolution.

    Not stated, so chosen: 512 units in each hidden linear layer (as many as they get), with dropout 0.5 as in VGG.
    """
    features = vgg16_features(batch_norm=batch_norm)
    classifier = chain(
        fc1=nn.Linear(flat_features(features, size), 512),
        relu1=nn.ReLU(),
        dropout1=nn.Dropout(0.5),
        fc2=nn.Linear(512, 512),
        relu2=nn.ReLU(),
        dropout2=nn.Dropout(0.5),
        fc3=nn.Linear(512, num_classes),
    )
    return chain(features=features, flatten=nn.Flatten(), classifier=classifier)
