"""AlexNet as published, the network that ZFNet improves on."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import nn

from convscope.models.zoo import architecture
from convscope.models.zoo._common import IMAGENET_MEAN
from convscope.models.zoo._eight_layers import PIXEL_STD, contrast_normalisation, eight_layers


@architecture("alexnet_2012", size=224, crop=224 / 256, mean=IMAGENET_MEAN, std=PIXEL_STD)
def alexnet_2012(
    *,
    num_classes: int = 1000,
    fc: int = 4096,
    conv: Sequence[int] = (384, 384, 256),
    without: int | Collection[int] = (),
    groups: int = 2,
    size: int | tuple[int, int] = 224,
) -> nn.Sequential:
    """AlexNet (Krizhevsky, Sutskever & Hinton 2012, NIPS): eight layers, 11x11 stride 4 in the first.

    ``b 3 224 224 -> b num_classes``; 60,965,224 parameters with 1000 classes. The sides of the maps are 55 (conv1), 27
    (pool1, conv2), 13 (pool2, conv3 to conv5) and 6 (pool5), so 9216 numbers enter layer 6.

    The paper's network lay on two GPUs: convolutions 2, 4 and 5 see only their own half of the maps below, which is
    ``groups=2``; ``groups=1`` connects all (62,378,344 parameters). Biases start at 1 in layers 2 and 4 to 7, at 0 in
    the others, as stated. ``fc``, ``conv`` and ``without`` are ``zfnet``'s, for Table 3 of Zeiler & Fergus 2013.

    Not stated in the paper, so chosen: padding 2 in layer 1, which gives 55x55; contrast normalisation over all maps,
    not over one GPU's. Photos have ImageNet's mean colour subtracted, where the paper subtracts the mean of each pixel.
    """
    first_two = {
        "conv1": nn.Conv2d(3, 96, 11, stride=4, padding=2),
        "relu1": nn.ReLU(),
        "norm1": contrast_normalisation(),
        "pool1": nn.MaxPool2d(3, 2),
        "conv2": nn.Conv2d(96, 256, 5, padding=2, groups=groups),
        "relu2": nn.ReLU(),
        "norm2": contrast_normalisation(),
        "pool2": nn.MaxPool2d(3, 2),
    }
    net = eight_layers(first_two, num_classes=num_classes, fc=fc, conv=conv, without=without, size=size, groups=groups)
    for name, parameter in net.named_parameters():
        if name.endswith(("conv2.bias", "conv4.bias", "conv5.bias", "fc6.bias", "fc7.bias")):
            nn.init.ones_(parameter)
    return net
