"""The convolutions that every VGG16 in the zoo shares."""

from __future__ import annotations

from torch import nn

BLOCKS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_features(*, batch_norm: bool = False, last_pool: bool = True) -> nn.Sequential:
    """VGG configuration D's thirteen convolutions (Simonyan & Zisserman 2014, arXiv 1409.1556).

    ``b 3 h w -> b 512 h/32 w/32`` (``h/16 w/16`` without the last pool); 14,714,688 parameters without BatchNorm. The
    layers are numbered as in torchvision, so the weights of its ``vgg16`` and ``vgg16_bn`` fit as they are:
    ``features.28`` is block5_conv3.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for block in BLOCKS:
        for maps in block:
            layers.append(nn.Conv2d(inputs, maps, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(maps))
            layers.append(nn.ReLU())
            inputs = maps
        layers.append(nn.MaxPool2d(2))
    features = nn.Sequential(*(layers if last_pool else layers[:-1]))
    # torch's default initialisation shrinks the signal in each of thirteen layers until plain SGD has nothing to go by.
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return features
