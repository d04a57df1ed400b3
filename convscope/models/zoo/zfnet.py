"""ZFNet, the network that deconvnets were made for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from convscope.models.zoo import architecture
from convscope.models.zoo._common import IMAGENET_MEAN
from convscope.models.zoo._eight_layers import PIXEL_STD, contrast_normalisation, eight_layers


@architecture("zfnet", size=224, crop=224 / 256, mean=IMAGENET_MEAN, std=PIXEL_STD)
def zfnet(
    *,
    num_classes: int = 1000,
    fc: int = 4096,
    conv: Sequence[int] = (384, 384, 256),
    without: int | Collection[int] = (),
    size: int | tuple[int, int] = 224,
) -> nn.Sequential:
    """ZFNet (Zeiler & Fergus 2013, arXiv 1311.2901): eight layers, 7x7 stride 2 in the first.

    ``b 3 224 224 -> b num_classes``; 62,357,608 parameters with 1000 classes. The sides of the maps are 110 (conv1), 55
    (pool1), 26 (conv2), 13 (pool2, conv3 to conv5) and 6 (pool5), so 9216 numbers enter layer 6.

    ``fc`` is the width of layers 6 and 7, ``conv`` those of layers 3 to 5, ``without`` those of 3, 4, 6, 7 to leave
    out. Table 3 has ``fc`` 2048 and 8192, ``conv`` 512-1024-512 and, on AlexNet, ``without`` 3-4, 7, 6-7 and 3-4-6-7.
    Dropout of 0.5 follows layers 6 and 7.

    Not stated in the paper, so chosen: padding 1 in layer 1 and pools in ceil mode in layers 1 and 2, which give the
    stated sizes; the constants of the contrast normalisation, Krizhevsky's (k 2, n 5, alpha 1e-4 not divided by n, beta
    0.75). Photos have ImageNet's mean colour subtracted, where the paper subtracts the mean of each pixel.
    """
    first_two = {
        "conv1": nn.Conv2d(3, 96, 7, stride=2, padding=1),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(3, 2, ceil_mode=True),
        "norm1": contrast_normalisation(),
        "conv2": nn.Conv2d(96, 256, 5, stride=2),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(3, 2, ceil_mode=True),
        "norm2": contrast_normalisation(),
    }
    return eight_layers(first_two, num_classes=num_classes, fc=fc, conv=conv, without=without, size=size)
