"""Small networks that several tests look at. Weights are drawn from a seed, in float64."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convscope.models.classifier import Classifier

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


# Defaults cost hundreds of passes; these do the same with few. A method that is not named runs with its defaults.
QUICK = {
    "integrated-gradients": {"steps": 3},
    "smoothgrad": {"samples": 3},
    "vargrad": {"samples": 3},
    "occlusion": {"size": 9, "stride": 7},
    "rise": {"masks": 10, "grid": 3},
}


def seeded(net, seed=0, dtype=torch.float64):
    """In evaluation mode, with weights from ``seed``; BatchNorm with statistics and a few negative gammas."""
    generator = torch.Generator().manual_seed(seed)

    def normal(tensor, std, mean=0.0):
        tensor.data = (mean + std * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)).to(dtype)

    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            normal(module.weight, (2 / module.weight[0].numel()) ** 0.5)
            if module.bias is not None:
                normal(module.bias, 0.1)
        elif isinstance(module, nn.BatchNorm2d):
            normal(module.weight, 0.7, 0.7)
            normal(module.bias, 0.2)
            normal(module.running_mean, 0.2)
            module.running_var.data = 0.5 + torch.rand(module.num_features, generator=generator, dtype=dtype)
    return net.to(dtype).eval()


def classifier_of(net, seed=0, **options):
    """A classifier over a seeded network, with a normalisation unless told otherwise."""
    return Classifier(seeded(net, seed), **{"mean": MEAN, "std": STD, **options})


def photos(count=1, channels=3, height=24, width=30, seed=1, dtype=torch.float64):
    """Pixels in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, height, width, generator=generator, dtype=torch.float64).to(dtype)


def alexnet_like():
    """Overlapping 3/2 pools and a first layer of stride 4, for images of 69x77: strides and pools leave remainders."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(5, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(6, 7, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(7, 6, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(6, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


def vgg_like():
    """Pairs of 3x3 convolutions with BatchNorm and 2/2 pools, for images of 22x27."""
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(6 * 5 * 6, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4)),
    )


def zfnet_like():
    """7x7 stride 2, pools in ceil mode that overhang, contrast normalisation across maps; for images of 56x64."""
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 7, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        nn.LocalResponseNorm(5, alpha=0.5, beta=0.75, k=2.0),
        *(nn.Conv2d(6, 8, 5, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)),
        nn.LocalResponseNorm(4, alpha=0.5, beta=0.75, k=2.0),
        *(nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 1)),
        *(nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 4)),
    )


BOOK = {  # the network, and the canvas it is made for
    "alexnet-like": (alexnet_like, (69, 77)),
    "vgg-like": (vgg_like, (22, 27)),
    "zfnet-like": (zfnet_like, (56, 64)),
}

FORMS = {
    "functional": F.relu,
    "functional in place": partial(F.relu, inplace=True),
    "torch": torch.relu,
    "method": Tensor.relu,
    "method in place": Tensor.relu_,
    "clamp": lambda x: x.clamp(min=0),
    "clamp in place": lambda x: x.clamp_(0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "threshold": lambda x: F.threshold(x, 0, 0),
    "relu6 of small values": lambda x: F.relu6(x / 1e6) * 1e6,
}


class Skip(nn.Module):
    """BatchNorm, max pools, a skip connection, dropout, two linear layers. ``form`` is how its ReLUs are written.

    "modules": one module each; "modules in place"; "reused": one module for all; or a key of ``FORMS``. The weights
    have the same names and, from the same seed, the same values in all forms.
    """

    def __init__(self, form="modules", channels=3):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.middle = nn.Identity()
        self.conv3 = nn.Conv2d(6, 8, 3, padding=1)
        self.conv4 = nn.Conv2d(8, 5, 3, padding=1)
        self.drop = nn.Dropout(0.3)
        self.fc1, self.fc2 = nn.Linear(5 * 9, 7), nn.Linear(7, 4)
        shared = nn.ReLU()
        for i in range(1, 6):
            if form == "reused":
                act = shared
            elif form in FORMS:
                act = FORMS[form]
            else:
                act = nn.ReLU(inplace=form == "modules in place")
            setattr(self, f"relu{i}", act)

    def parts(self):
        """Before the skip connection, its branches, and what follows their sum, as plain layers."""
        stem = [self.conv1, self.norm1, nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        head = [nn.ReLU(), self.conv3, nn.ReLU(), nn.MaxPool2d(2), self.conv4, nn.ReLU(), nn.AdaptiveAvgPool2d(3)]
        return stem, [[self.conv2, self.norm2], []], [*head, nn.Flatten(), self.fc1, nn.ReLU(), self.fc2]

    def forward(self, x):
        x = self.relu1(self.norm1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1)
        x = self.relu2(self.middle(self.norm2(self.conv2(x))) + x)
        x = F.max_pool2d(self.relu3(self.conv3(x)), 2)
        x = self.relu4(self.conv4(x))
        x = self.drop(F.adaptive_avg_pool2d(x, 3).flatten(1))
        return self.fc2(self.relu5(self.fc1(x)))


class PreActivation(nn.Module):
    """A skip connection around a ReLU: what the ReLU is given also goes on without it. One ReLU module for all."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.relu = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1), nn.ReLU()
        self.fc = nn.Linear(5, 4)

    def parts(self):
        head = [nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.fc]
        return [self.conv1], [[nn.ReLU(), self.conv2], []], head

    def forward(self, x):
        x = self.conv1(x)
        x = x + self.conv2(self.relu(x))
        return self.fc(F.max_pool2d(self.relu(x), 2).mean((2, 3)))


class SideBySide(nn.Module):
    """Two branches of a convolution, a ReLU (one module for both) and another convolution, worked out abreast."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(3, 5, 5, padding=2)
        self.c, self.d = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 1)
        self.relu, self.fc = nn.ReLU(), nn.Linear(5, 4)

    def parts(self):
        head = [nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.fc]
        return [], [[self.a, nn.ReLU(), self.c], [self.b, nn.ReLU(), self.d]], head

    def forward(self, x):
        a, b = self.a(x), self.b(x)
        a, b = self.relu(a), self.relu(b)
        return self.fc(F.max_pool2d(self.c(a) + self.d(b), 2).mean((2, 3)))


class Smooth(nn.Module):
    """No kinks: for what needs derivatives everywhere."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 5, 3, padding=1), nn.Conv2d(5, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.tanh(self.conv1(x))
        return self.head(F.softplus(self.conv2(x)).mean((2, 3)))


def with_relu6(sequential):
    """The same layers with ReLU6 for ReLU."""
    return nn.Sequential(*(nn.ReLU6() if isinstance(layer, nn.ReLU) else layer for layer in sequential))


class Planted(nn.Sequential):
    """A classifier whose right explanation is known: class k's logit is how strongly a blob of colour k is there.

    Its weights are set by hand. A colour counts for what it exceeds the other two by; noise is below the thresholds and
    comes to exactly 0; no class reads another class's colour; the strongest place alone decides. Red, green, blue.
    """

    def __init__(self):
        super().__init__(
            *(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.MaxPool2d(2)),  # one colour against the others
            *(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),  # most of a 6x6 patch has it
            *(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(3, 3)),
        )
        eye = torch.eye(3)
        self[0].weight.data = (1.5 * eye - 0.5)[:, :, None, None]
        self[0].bias.data.fill_(-0.25)
        self[3].weight.data = eye[:, :, None, None].expand(3, 3, 3, 3).clone()
        self[3].bias.data.fill_(-1.5)
        self[8].weight.data = 40 * eye
        self[8].bias.data.fill_(0.5)


def planted_photo(places, seed=0, side=48, blob=10):
    """Grey noise with a blob for each (row, col) of ``places``: red, green, blue; a place may be None."""
    generator = torch.Generator().manual_seed(seed)
    image = 0.4 + 0.2 * torch.rand(3, side, side, generator=generator)
    rise = 1 - (torch.arange(blob) - (blob - 1) / 2).abs() / blob
    for colour, place in enumerate(places):
        if place is not None:
            patch = image[:, place[0] : place[0] + blob, place[1] : place[1] + blob]
            patch -= 0.3 * rise[:, None] * rise
            patch[colour] += 0.7 * rise[:, None] * rise
    return image.clamp(0, 1)
