"""Small networks whose layers are written in the ways that people write them."""

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, kernel=3, **options):
    return nn.Conv2d(inputs, outputs, kernel, **{"padding": kernel // 2, **options})


class Student(nn.Module):
    """Everything but the weights is a function: conv -> F.relu -> F.max_pool2d, twice, flatten."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = conv(3, 4), conv(4, 5), nn.Linear(5 * 4 * 4, 6)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(torch.flatten(x, 1))


class RootSum(nn.Module):
    """The residual sum is the last map, and no module's output."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = conv(3, 4), conv(4, 4), nn.Linear(4, 6)

    def forward(self, x):
        x = F.relu(self.conv1(x))
        x = x + self.conv2(x)
        return self.fc(x.mean((2, 3)))


class NormThenMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu, self.fc = conv(3, 4, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(4, 6)

    def forward(self, x):
        return self.fc(self.relu(self.norm(self.conv(x))).mean((2, 3)))


class InPlaceEnd(NormThenMean):
    """As DenseNet ends: the norm's own memory is rectified."""

    def forward(self, x):
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SideBranch(nn.Module):
    """A decoder beside the head, run after the features that the logits are made of."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 5), nn.ReLU())
        self.up, self.decode, self.fc = nn.Upsample(scale_factor=2), conv(5, 3), nn.Linear(5, 6)

    def forward(self, x):
        maps = self.features(x)
        self.decoded = self.decode(self.up(maps))
        return self.fc(maps.amax((2, 3)))


class UpAndJoin(nn.Module):
    """A branch that is upsampled and joined to an earlier map; the joined map is the last."""

    def __init__(self):
        super().__init__()
        self.low, self.high, self.mix, self.fc = conv(3, 4), conv(4, 5, stride=2), conv(9, 4, 1), nn.Linear(4, 6)

    def forward(self, x):
        low = F.relu(self.low(x))
        high = F.interpolate(F.relu(self.high(low)), scale_factor=2)
        return self.fc(F.relu(self.mix(torch.cat([low, high], 1))).mean((2, 3)))


class OnePixel(nn.Module):
    """Maps of one pixel from the first convolution on."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 16), nn.Conv2d(4, 6, 1)

    def forward(self, x):
        return self.conv2(F.relu(self.conv1(x))).flatten(1)


class Loop(nn.Module):
    """Blocks and convolutions in a list, run by a loop of the root, which also rectifies."""

    def __init__(self):
        super().__init__()
        self.stem = conv(3, 4)
        self.blocks = nn.ModuleList([RectifiedConv(), RectifiedConv()])
        self.convs = nn.ModuleList([conv(4, 4), conv(4, 4)])
        self.fc = nn.Linear(4, 6)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        for layer in self.convs:
            x = F.relu(layer(x))
        return self.fc(x.mean((2, 3)))


class RectifiedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = conv(4, 4)

    def forward(self, x):
        return F.relu(self.conv(x) - 0.1)


class DeadCode(nn.Module):
    """``spare`` is registered and never run; ``gate`` is squeeze-and-excite."""

    def __init__(self):
        super().__init__()
        self.conv, self.squeeze, self.spare, self.fc = conv(3, 4), nn.Conv2d(4, 4, 1), conv(4, 8), nn.Linear(4, 6)

    def forward(self, x):
        x = F.relu(self.conv(x))
        x = x * torch.sigmoid(self.squeeze(F.adaptive_avg_pool2d(x, 1)))
        return self.fc(x.mean((2, 3)))


class Reused(nn.Module):
    """One convolution called twice, one ReLU three times, and ``alias``: a second name for the convolution."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.relu, self.fc = conv(3, 4), conv(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 6)
        self.alias = self.conv

    def forward(self, x):
        x = self.relu(self.stem(x))
        x = self.relu(self.conv(x))
        x = self.relu(self.conv(x))
        return self.fc(x.mean((2, 3)))
