"""The two convolutions that the book's networks share."""

from __future__ import annotations

from torch import nn

from convscope.models.zoo._common import chain


def book_features(channels: int) -> nn.Sequential:
    """Two 3x3 convolutions without padding, each pooled before its ReLU: ``b channels h w -> b 20 ~h/4 ~w/4``."""
    return chain(
        conv1=nn.Conv2d(channels, 10, 3),
        pool1=nn.MaxPool2d(2),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(10, 20, 3),
        dropout2=nn.Dropout2d(0.5),
        pool2=nn.MaxPool2d(2),
        relu2=nn.ReLU(),
    )
