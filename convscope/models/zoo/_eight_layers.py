"""What AlexNet and ZFNet share: contrast normalisation, layers 3 to 8, the ablations and the initial weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch import nn

from convscope.errors import UsageError
from convscope.models.zoo._common import chain, flat_features

# Brings pixels to about [-128, 128], as in the papers: with weights of std 1e-2, [0, 1] would vanish on the way.
PIXEL_STD = (1 / 255, 1 / 255, 1 / 255)

REMOVABLE = {3, 4, 6, 7}


def contrast_normalisation() -> nn.LocalResponseNorm:
    """Across-map normalisation (Krizhevsky et al. 2012): x / (2 + 1e-4 * sum of 5 neighbours' squares) ** 0.75.

    torch divides alpha by the number of neighbours, the paper does not: hence the factor 5. On a CPU
    torch runs it in bfloat16 only under autocast.
    """
    return nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0)


def eight_layers(
    first_two: Mapping[str, nn.Module],
    *,
    num_classes: int,
    fc: int,
    conv: Sequence[int],
    without: int | Collection[int],
    size: int | tuple[int, int],
    groups: int = 1,
) -> nn.Sequential:
    """``first_two`` (256 maps come out), then convolutions 3 to 5 and linear layers 6 to 8, less those ``without``.

    Layer n is ``features.conv{n}`` or ``classifier.fc{n}`` whatever is left out. ``groups`` splits convolutions 4, 5.
    Weights are normal with std 1e-2, biases 0.
    """
    left_out = {without} if isinstance(without, int) else set(without)
    if not left_out <= REMOVABLE:
        raise UsageError(f"without={without}: only layers {sorted(REMOVABLE)} can be left out")
    if len(conv) != 3:
        raise UsageError(f"conv={conv}: give three widths, of layers 3, 4 and 5")

    maps = dict(first_two)
    inputs = 256
    for layer, width, split in zip((3, 4, 5), conv, (1, groups, groups), strict=True):
        if layer not in left_out:
            maps[f"conv{layer}"] = nn.Conv2d(inputs, width, 3, padding=1, groups=split)
            maps[f"relu{layer}"] = nn.ReLU()
            inputs = width
    features = chain(**maps, pool5=nn.MaxPool2d(3, 2))

    head: dict[str, nn.Module] = {}
    inputs = flat_features(features, size)
    for layer in (6, 7):
        if layer not in left_out:
            head[f"fc{layer}"] = nn.Linear(inputs, fc)
            head[f"relu{layer}"] = nn.ReLU()
            head[f"dropout{layer}"] = nn.Dropout(0.5)
            inputs = fc
    net = chain(features=features, flatten=nn.Flatten(), classifier=chain(**head, fc8=nn.Linear(inputs, num_classes)))

    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=1e-2)
        else:  # a bias: there is nothing else in these networks
            nn.init.zeros_(parameter)
    return net
