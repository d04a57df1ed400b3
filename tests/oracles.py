"""Second derivations, slow and explicit, from the papers: numpy and plain loops in float64, no autograd."""

import math

import numpy as np
import torch
from torch import nn


def near(found, wanted, tolerance=1e-10):
    """Equal to rounding: the largest difference against the largest value."""
    found, wanted = (torch.as_tensor(v).detach().to(torch.float64) for v in (found, wanted))
    assert found.shape == wanted.shape, (found.shape, wanted.shape)
    assert bool(wanted.isfinite().all())
    assert bool(wanted.any()), "nothing to compare: all zero"
    error = float((found - wanted).abs().max() / wanted.abs().max())
    assert error <= tolerance, f"relative error {error:.3g}, {tolerance:.3g} is allowed"


def differs(found, wanted, least=1e-3):
    """The negation of ``near`` by a margin."""
    found, wanted = (torch.as_tensor(v).detach().to(torch.float64) for v in (found, wanted))
    assert float((found - wanted).abs().max() / wanted.abs().max()) > least


# --- one layer up and down: x is "c h w" on the way up, g is the signal on the way down


def pair(value):
    return (value, value) if isinstance(value, int) else tuple(value)


def convolve(x, weight, bias, stride, padding):
    """Every output is its window times the filter, plus the bias."""
    (sh, sw), (ph, pw), (count, _, kh, kw) = stride, padding, weight.shape
    padded = np.pad(x, ((0, 0), (ph, ph), (pw, pw)))
    rows, cols = (padded.shape[1] - kh) // sh + 1, (padded.shape[2] - kw) // sw + 1
    y = np.zeros((count, rows, cols))
    for row in range(rows):
        for col in range(cols):
            window = padded[:, row * sh : row * sh + kh, col * sw : col * sw + kw]
            y[:, row, col] = (weight * window).sum((1, 2, 3)) + bias
    return y


def filter_down(g, weight, stride, padding, size):
    """The signal spread by the stride, correlated with the filters flipped in height and width. No bias."""
    (sh, sw), (ph, pw), (_, count, kh, kw), (height, width) = stride, padding, weight.shape, size
    spread = np.zeros((len(g), height + 2 * ph + kh - 1, width + 2 * pw + kw - 1))
    for row in range(g.shape[1]):
        for col in range(g.shape[2]):
            spread[:, row * sh + kh - 1, col * sw + kw - 1] = g[:, row, col]
    flipped = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    down = convolve(spread, flipped, np.zeros(count), (1, 1), (0, 0))
    return down[:, ph : ph + height, pw : pw + width]


def pool(x, size, stride, padding, ceil_mode):
    """Maxima of windows, and where each was: the first in reading order of equal ones."""
    spans = []
    for length, k, s, p in zip(x.shape[1:], size, stride, padding, strict=True):
        count = (math.ceil if ceil_mode else math.floor)((length + 2 * p - k) / s) + 1
        starts = [i * s - p for i in range(count) if i * s < length + p]
        spans.append([(max(start, 0), min(start + k, length)) for start in starts])
    y = np.zeros((len(x), len(spans[0]), len(spans[1])))
    switches = {}
    for channel in range(len(x)):
        for i, (top, bottom) in enumerate(spans[0]):
            for j, (left, right) in enumerate(spans[1]):
                window = x[channel, top:bottom, left:right]
                row, col = np.unravel_index(window.argmax(), window.shape)
                y[channel, i, j] = window[row, col]
                switches[channel, i, j] = (channel, top + row, left + col)
    return y, switches


def unpool(g, switches, shape):
    """Each signal goes to where its maximum was; windows that chose the same place add up."""
    down = np.zeros(shape)
    for index, place in switches.items():
        down[place] += g[index]
    return down


def rectify_down(g, x, rule, top=np.inf):
    """Zeiler & Fergus's figure 1 and Springenberg et al.'s: what a rectifier of input x lets through."""
    inside = (x > 0) & (x < top)
    return {"gradient": g * inside, "deconvnet": g * (g > 0), "guided": g * inside * (g > 0)}[rule]


def contrast(x, layer):
    """Krizhevsky's normalisation across maps, and the divisor before the power."""
    divisor = np.zeros_like(x)
    for i in range(len(x)):
        divisor[i] = layer.k + layer.alpha / layer.size * (x[_neighbours(i, layer.size, len(x))] ** 2).sum(0)
    return x / divisor**layer.beta, divisor


def contrast_down(g, x, divisor, layer):
    """The transposed Jacobian: dy_j/dx_i = [i = j] d_j^-beta - 2 alpha beta / n x_i x_j d_j^(-beta - 1) [i near j]."""
    down = g * divisor**-layer.beta
    for j in range(len(x)):
        for i in _neighbours(j, layer.size, len(x)):
            factor = 2 * layer.alpha * layer.beta / layer.size
            down[i] -= g[j] * factor * x[i] * x[j] * divisor[j] ** (-layer.beta - 1)
    return down


def _neighbours(j, size, count):
    """The maps that a window of ``size`` around map j holds; an even window reaches one further down than up."""
    return [i for i in range(j - size // 2, j + (size - 1) // 2 + 1) if 0 <= i < count]


def numbers(tensor):
    return tensor.detach().numpy()


class Walk:
    """A list of layers walked up with an image "c h w", every input kept, and down with a signal."""

    def __init__(self, layers, image):
        self.layers, self.inputs, self.extra = list(layers), [], []
        x = np.asarray(image, dtype=np.float64)
        for layer in self.layers:
            self.inputs.append(x)
            x, extra = self._up(layer, x)
            self.extra.append(extra)
        self.output = x

    def after(self, depth):
        """What the layer at ``depth`` put out."""
        return self.inputs[depth + 1] if depth + 1 < len(self.inputs) else self.output

    def down(self, g, rule, *, start=None, contrast_norm="backward"):
        """From the output of layer ``start`` (the last one by default) to the image."""
        start = len(self.layers) - 1 if start is None else start
        for i in range(start, -1, -1):
            g = self._down(self.layers[i], g, self.inputs[i], self.extra[i], rule, contrast_norm)
        return g

    def _up(self, layer, x):
        match layer:
            case nn.Conv2d(groups=1):
                bias = 0 if layer.bias is None else numbers(layer.bias)
                return convolve(x, numbers(layer.weight), bias, layer.stride, layer.padding), None
            case nn.MaxPool2d():
                stride = pair(layer.stride)
                return pool(x, pair(layer.kernel_size), stride, pair(layer.padding), layer.ceil_mode)
            case nn.ReLU():
                return np.maximum(x, 0), None
            case nn.ReLU6():
                return np.clip(x, 0, 6), None
            case nn.SiLU():
                return x / (1 + np.exp(-x)), None
            case nn.BatchNorm2d():
                scale = numbers(layer.weight) / np.sqrt(numbers(layer.running_var) + layer.eps)
                shift = numbers(layer.bias) - numbers(layer.running_mean) * scale
                return x * scale[:, None, None] + shift[:, None, None], scale
            case nn.LocalResponseNorm():
                return contrast(x, layer)
            case nn.AdaptiveAvgPool2d():
                spans = [_shares(*lengths) for lengths in zip(x.shape[1:], pair(layer.output_size), strict=True)]
                means = [[x[:, a:b, c:d].mean((1, 2)) for c, d in spans[1]] for a, b in spans[0]]
                return np.array(means).transpose(2, 0, 1), spans
            case nn.Linear():
                return numbers(layer.weight) @ x + numbers(layer.bias), None
            case nn.Flatten():
                return x.reshape(-1), None
            case nn.Dropout():
                return x, None
        raise NotImplementedError(layer)

    def _down(self, layer, g, x, extra, rule, contrast_norm):
        match layer:
            case nn.Conv2d():
                return filter_down(g, numbers(layer.weight), layer.stride, layer.padding, x.shape[1:])
            case nn.MaxPool2d():
                return unpool(g, extra, x.shape)
            case nn.ReLU():
                return rectify_down(g, x, rule)
            case nn.ReLU6():
                return rectify_down(g, x, rule, 6)
            case nn.SiLU():
                sigmoid = 1 / (1 + np.exp(-x))
                return g * sigmoid * (1 + x * (1 - sigmoid))
            case nn.BatchNorm2d():
                return g * extra[:, None, None]
            case nn.LocalResponseNorm():
                return g if contrast_norm == "pass" else contrast_down(g, x, extra, layer)
            case nn.AdaptiveAvgPool2d():
                down = np.zeros_like(x)
                for i, (a, b) in enumerate(extra[0]):
                    for j, (c, d) in enumerate(extra[1]):
                        down[:, a:b, c:d] += (g[:, i, j] / ((b - a) * (d - c)))[:, None, None]
                return down
            case nn.Linear():
                return numbers(layer.weight).T @ g
            case nn.Flatten():
                return g.reshape(x.shape)
            case nn.Dropout():
                return g
        raise NotImplementedError(layer)


def _shares(length, parts):
    """Where each part of an adaptive pool begins and ends."""
    return [(i * length // parts, math.ceil((i + 1) * length / parts)) for i in range(parts)]


def project(classifier, image, rule, unit, *, layer=None, place=None, seed="one", contrast_norm="backward"):
    """The pixels "c h w" that a walk down a Sequential gives for one unit: a class, or one of the layer at an index."""
    walk = Walk(classifier.network, normalised(image, classifier.mean, classifier.std))
    maps = walk.output if layer is None else walk.after(layer)
    g = np.zeros_like(maps)
    if maps.ndim == 1:
        neuron = (unit,)
    else:
        neuron = (unit, *(place or np.unravel_index(maps[unit].argmax(), maps[unit].shape)))
    g[neuron] = 1 if seed == "one" else maps[neuron]
    return walk.down(g, rule, start=layer, contrast_norm=contrast_norm) / np.array(classifier.std)[:, None, None]


def project_branches(classifier, image, rule, index):
    """The same for a class of a network with ``parts()``: what comes down to the sum goes down every branch."""
    stem, branches, head = classifier.network.parts()
    below = Walk(stem, normalised(image, classifier.mean, classifier.std))
    walks = [Walk(layers, below.output) for layers in branches]
    above = Walk(head, sum(walk.output for walk in walks))
    g = above.down(np.eye(len(above.output))[index], rule)
    down = below.down(sum(walk.down(g, rule) for walk in walks), rule)
    return down / np.array(classifier.std)[:, None, None]


def normalised(image, mean, std):
    """Pixels "c h w" as the network gets them."""
    mean, std = (np.asarray(v, dtype=np.float64)[:, None, None] for v in (mean, std))
    return (numbers(image) - mean) / std


def enlarge(map, height, width):
    """Bilinear, pixel centres at half integers, edges held: one pixel after the other."""
    rows, cols = map.shape
    large = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * cols / width - 0.5, 0), cols - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, rows - 1), min(left + 1, cols - 1)
            upper = map[top, left] * (1 - (x - left)) + map[top, right] * (x - left)
            lower = map[bottom, left] * (1 - (x - left)) + map[bottom, right] * (x - left)
            large[i, j] = upper * (1 - (y - top)) + lower * (y - top)
    return large
