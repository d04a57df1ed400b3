"""Networks of docs/studies.md: first layers of two famous ones, small, for grey photos of 32x32 pixels; a plain one.

What differs is what Zeiler & Fergus changed (2013, section 4.1): 11x11 filters at every fourth pixel, or 7x7 at every
second. Both have as many maps, of the same size from the second convolution on. ``zfnet_like_begun_small`` begins with
first filters of 0.01, as both papers' did, and not with PyTorch's, five to eight times as large.
"""

from torch import nn


def alexnet_like(num_classes: int = 10) -> nn.Sequential:
    first = nn.Conv2d(1, 64, 11, stride=4, padding=5)
    return _network(first, nn.Conv2d(64, 96, 5, padding=2), num_classes)


def zfnet_like(num_classes: int = 10) -> nn.Sequential:
    first = nn.Conv2d(1, 64, 7, stride=2, padding=3)
    return _network(first, nn.Conv2d(64, 96, 5, stride=2, padding=2), num_classes)


def zfnet_like_begun_small(num_classes: int = 10) -> nn.Sequential:
    network = zfnet_like(num_classes)
    nn.init.normal_(network[0].weight, std=0.01)
    nn.init.zeros_(network[0].bias)
    return network


def _network(first: nn.Conv2d, second: nn.Conv2d, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        *(first, nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)),
        *(second, nn.BatchNorm2d(96), nn.ReLU()),
        *(nn.Conv2d(96, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU()),
        *(nn.Conv2d(128, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128 * 2 * 2, 256), nn.ReLU(), nn.Dropout(), nn.Linear(256, num_classes)),
    )


def plain(num_classes: int = 10) -> nn.Sequential:
    """For 16x16 pixels; what it learns of a place it knows of that place alone."""
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 8 * 8, 32), nn.ReLU(), nn.Linear(32, num_classes)),
    )
