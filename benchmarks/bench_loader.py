"""Reading photos: convscope's loader beside torchvision's ImageFolder with transforms, and what a million files cost.

JPEG files of 500x375; both bring them to 224 px (short side 256, centre; or a random part and flip) as batches of 32 of
floats, normalised. Ours hands bytes from process to process and makes floats of the whole batch.
"""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from _table import Table, options
from _timing import interleaved, ratio
from PIL import Image
from skimage import data
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from convscope.data.augment import augmentation
from convscope.data.catalog import Catalog, catalog
from convscope.data.listing import NONE
from convscope.data.loading import Loader, Photos, cut, pixels_of
from convscope.data.names import Names
from convscope.data.store import Files
from convscope.images.frame import Framing
from convscope.models.classifier import Classifier

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
COUNT, BATCH = 256, 32
MANY = 100_000


def write_photos(folder: Path) -> None:
    """Parts of real photos, each different."""
    rng = np.random.default_rng(0)
    photos = [Image.fromarray(one()) for one in (data.chelsea, data.coffee, data.astronaut, data.rocket)]
    for i in range(COUNT):
        photo = photos[i % 4]
        scale = rng.uniform(0.5, 1)
        width, height = int(scale * photo.width), int(scale * photo.height)
        left, top = rng.integers(0, photo.width - width + 1), rng.integers(0, photo.height - height + 1)
        part = photo.crop((left, top, left + width, top + height)).resize((500, 375))
        place = folder / f"class {i % 4}"
        place.mkdir(exist_ok=True)
        part.save(place / f"{i}.jpg", quality=90)


def theirs(folder: Path, workers: int, varied: bool) -> Callable[[], object]:
    frame = (
        [v2.RandomResizedCrop(224, scale=(0.35, 1)), v2.RandomHorizontalFlip()]
        if varied
        else [v2.Resize(256), v2.CenterCrop(224)]
    )
    steps = [*frame, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    found = ImageFolder(str(folder), v2.Compose(steps))
    more = {"persistent_workers": True, "prefetch_factor": 4} if workers else {}
    loader = DataLoader(found, BATCH, num_workers=workers, **more)

    def run() -> None:
        for images, _ in loader:
            images.sum()

    return run


def ours(found: Catalog, workers: int, varied: bool) -> Callable[[], object]:
    changes = augmentation("crop=.35,flip" if varied else "none")
    loader = Loader(Photos(found, Framing((224, 224), 256, "bilinear"), 3, augmentation=changes), workers)
    classifier = Classifier(torch.nn.Identity(), mean=MEAN, std=STD)
    batches = cut(np.arange(len(found)), BATCH)

    def run() -> None:
        for images, *_ in loader.batches(batches):
            classifier.normalise(pixels_of(images), in_place=True).sum()

    return run


class Naive(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """What most people write: a list of paths and labels, whose counts of references every worker writes to."""

    def __init__(self, count: int) -> None:
        self.samples = [(f"photos/class {i % 100}/photo number {i}.jpg", i % 100) for i in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> int:
        path, label = self.samples[index]
        return label + len(path)


def growth(make: Callable[[int], Callable[[], object]], count: int) -> float:
    """MB that workers come to hold of their own while they read as many photos, whatever ``count`` of entries there is.

    A worker's collector of garbage writes to every object there is, so much is copied in any long run.
    """
    gc.collect()
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    step = make(count)
    first = None
    last = 0.0
    for number, _ in enumerate(step()):  # type: ignore[call-overload]
        if number % 25 == 10:
            children = [c for c in psutil.Process().children(recursive=True) if c.pid not in before]
            last = sum(child.memory_full_info().uss for child in children) / 1e6
            first = last if first is None else first
    return last - (first or 0.0)


def entries(store: Files, count: int) -> Catalog:
    whole, given = np.full(count, 8, np.int32), np.full(count, NONE, np.int8)
    hashes = np.stack([np.arange(count, dtype=np.uint64)] * 2, 1)
    labels = (np.arange(count) % 100).astype(np.int32)
    classes = tuple(f"class {i}" for i in range(100))
    return Catalog("simulated", "folder", store, classes, labels, given, None, whole, whole, given, hashes)


def main() -> None:
    quick = options("How fast are photos read?").parse_args().quick
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    table = Table("Loader: photos a second, relative to torchvision's ImageFolder + transforms v2 in a DataLoader")
    with tempfile.TemporaryDirectory() as place:
        os.environ["CONVSCOPE_CACHE"] = f"{place}/cache"
        folder = Path(place, "photos")
        folder.mkdir()
        write_photos(folder)
        found = catalog(folder)
        for workers in (0, cores):
            for varied in (False, True):
                runs = {"theirs": theirs(folder, workers, varied), "ours": ours(found, workers, varied)}
                times = interleaved(runs, seconds=15 if quick else 45, least=5, wall=workers > 0)
                what = "random part and flip" if varied else "resize and crop"
                table.at_least(f"{what}, {workers} workers", ratio(times, "theirs", "ours"), 1.0)
        tiny = Path(place, "tiny.png")
        Image.fromarray(data.chelsea()[:8, :8]).save(tiny)

        def simulated(count: int) -> Callable[[], object]:
            names = Names.of(f"class {i % 100}/../../tiny.png" for i in range(count))
            (Path(place) / "root").mkdir(exist_ok=True)
            for i in range(100):
                (Path(place) / "root" / f"class {i}").mkdir(exist_ok=True)
            photos = Photos(entries(Files(Path(place) / "root", names), count), Framing((8, 8), None), 3)
            loader = Loader(photos, 2)
            return lambda: loader.batches(cut(np.resize(np.arange(count), MANY), BATCH))

        def naive(count: int) -> Callable[[], object]:
            rows = cut(np.resize(np.arange(count), MANY), BATCH)
            return lambda: iter(DataLoader(Naive(count), batch_sampler=rows, num_workers=2))

        few, many = growth(simulated, 1_000), growth(simulated, MANY)
        table.at_most("workers' own memory, 100,000 files more than 1,000", many - few, 8, "MB")
        table.note("the same for a list of paths and labels", growth(naive, MANY) - growth(naive, 1_000), "MB")
    table.finish()


if __name__ == "__main__":
    main()
