"""What the training loop costs beside a bare PyTorch loop over the same loader, and what cached features save.

The bare loop is zero_grad, forward, cross_entropy, backward, step. Ours also counts, guards against NaN, looks for
signals, tells of its progress, and writes a checkpoint at the beginning and at the end; all of that is in the figure.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from _table import Table, options
from _timing import interleaved, ratio
from sklearn.datasets import load_digits
from torch import Tensor

from convscope.data.catalog import Catalog
from convscope.data.listing import NONE
from convscope.data.loading import Loader, Photos, cut, order
from convscope.data.names import Names
from convscope.data.store import Arrays
from convscope.models.classes import numbered
from convscope.parallel import accelerated
from convscope.training.config import Training
from convscope.training.features import cut_network, features
from convscope.training.fit import Task, fit
from convscope.training.folder import RunFolder
from convscope.training.freeze import freeze_others
from convscope.training.prepare import FromFeatures, Pixels, Tail
from convscope.training.start import start

CASES = (
    ("convscope:mnist_convnet", 28, 64, 6000),  # a tenth of an epoch of Fashion-MNIST
    ("convscope:book_mnist", 28, 32, 6000),
    ("torchvision:resnet18", 64, 32, 1024),
)
FROZEN = ("convscope:efficientnet_lite0", 224, 96)


def photos_of(side: int, count: int, colour: bool) -> Catalog:
    """Digits, enlarged, as many as asked."""
    digits = torch.from_numpy(load_digits().images).float()[:, None] / 16
    repeated = digits.repeat(-(-count // len(digits)), 1, 1, 1)[:count]
    pixels = (F.interpolate(repeated, (side, side), mode="bilinear") * 255).byte().numpy()[:, 0]
    pixels = np.repeat(pixels[..., None], 3, 3) if colour else pixels
    labels = np.resize(load_digits().target, count).astype(np.int32)
    hashes = np.stack([np.arange(count, dtype=np.uint64)] * 2, 1)
    whole = np.full(count, side, np.int32)
    given = np.full(count, NONE, np.int8)
    names = Names.of(f"digit {i}" for i in range(count))
    classes = tuple("0123456789")
    return Catalog("digits", "set", Arrays(pixels, names), classes, labels, given, None, whole, whole, given, hashes)


def loops(spec: str, side: int, batch: int, count: int) -> dict[str, Callable[[], object]]:
    begun = start(f"{spec}@random", numbered(10), size=(side, side))
    classifier = begun.classifier
    found = photos_of(side, count, classifier.channels == 3)
    loader = Loader(Photos(found, classifier.framing, classifier.channels).in_memory())
    network, rows = classifier.network, np.arange(count)
    chosen = {name for name, _ in network.named_parameters()}
    config = Training(epochs=1, batch_size=batch, lr=1e-3, schedule="constant")
    forward = Pixels(classifier)

    def bare() -> None:
        network.train()
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
        for images, labels, *_ in loader.batches(cut(order(0, 0, rows), batch)):
            optimizer.zero_grad()
            loss = F.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()

    def ours() -> None:
        task = Task(forward, network, chosen, loader, loader, found.labels, rows, rows[:0], 10, config)
        with tempfile.TemporaryDirectory() as folder, accelerated(torch.device("cpu"), "fp32") as accelerator:
            fit(task, RunFolder.create(Path(folder, "run")), accelerator)

    return {"bare": bare, "ours": ours}


def frozen(spec: str, side: int, count: int) -> dict[str, Callable[[], object]]:
    """An epoch of training a head: on cached features, and by running the frozen base each time."""
    begun = start(spec, numbered(10))
    classifier = begun.classifier
    found = photos_of(side, count, True)
    new = {name for name, _ in classifier.network.named_parameters()} - begun.loaded
    freeze_others(classifier.network, new)
    plain = Photos(found, classifier.framing, 3).in_memory()
    divided = cut_network(classifier, new, torch.full((1, 3, side, side), 0.5))
    assert divided is not None
    with tempfile.TemporaryDirectory() as folder:
        source = FromFeatures(features(divided, plain, folder=Path(folder)))
    rows = np.arange(count)
    tail, whole, loader = Tail(divided), Pixels(classifier), Loader(plain)
    optimizer = torch.optim.AdamW([p for p in classifier.network.parameters() if p.requires_grad], lr=1e-3)

    def epoch(forward: Callable[[Tensor], Tensor], batches: FromFeatures | Loader) -> None:
        for images, labels, *_ in batches.batches(cut(rows, 32)):
            optimizer.zero_grad()
            F.cross_entropy(forward(images), labels).backward()
            optimizer.step()

    return {"base": lambda: epoch(whole, loader), "cached": lambda: epoch(tail, source)}


def main() -> None:
    quick = options("How much does the training loop cost?").parse_args().quick
    table = Table("Training: throughput beside a bare loop over the same loader")
    for spec, side, batch, count in CASES[: 2 if quick else 3]:
        times = interleaved(loops(spec, side, batch, count), seconds=20 if quick else 120, least=5)
        table.at_least(f"{spec} {side} px, batch {batch}", ratio(times, "bare", "ours"), 0.97)
    spec, side, count = FROZEN
    times = interleaved(frozen(spec, side, count), seconds=20 if quick else 60, least=3)
    table.at_least(f"{spec}: epoch on cached features", ratio(times, "base", "cached"), 50, "x")
    table.finish()


if __name__ == "__main__":
    main()
