"""What does an atlas cost beside the plain forward pass, its projections beside full passes, and a page of it?

The pass: each batch goes through the network plain, with the running top 9, with all statistics, and in the naive way
(hooks that keep each batch's ``topk`` of the spatial maxima, put together at the end), one after the other, so that
all meet the same machine. The images are the first of a data set of 50,000, so that the pass's start weighs as much as
it ever does.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import numpy as np
import torch
from _memory import again, peak_growth
from _nets import classifier, devices, network
from _table import Table, options
from _timing import clock, interleaved, ratio, timed
from safetensors.numpy import save_file
from torch import Tensor, nn

from convscope.atlas.atlas import Atlas
from convscope.atlas.projections import Neuron, Projector
from convscope.atlas.store import Store
from convscope.atlas.streaming import Pass
from convscope.images.frame import Framing
from convscope.instrument.batches import AT_ONCE
from convscope.instrument.state import undisturbed
from convscope.instrument.target import Target
from convscope.methods import configure
from convscope.models.classifier import Classifier

SIDE, BATCH = 224, 32
OF = 50_000  # images in the data set, of which the first are looked at
PROJECTED = {  # a layer of VGG16, and how many times as fast as one full pass each is demanded
    "features.1": 50.0,
    "features.3": 50.0,
    "features.6": 50.0,
    "features.8": 50.0,
    "features.15": 15.0,
}
COUNTS = (1_000, 100_000)
FLAT = 8.0  # MiB between the two
UNITS, PATCHES, EACH, CLASSES = 26_000, 100, 512, 1000
PAGE = 10.0  # ms


class Naive:
    """Hooks that keep every batch's ``topk``, as one would write it in an afternoon."""

    def __init__(self, model: Classifier, layers: list[str], top: int = 9) -> None:
        self.model, self.top = model, top
        self.kept: dict[str, list[tuple[Tensor, Tensor]]] = {layer: [] for layer in layers}
        modules = dict(model.network.named_modules())
        self.hooks = [modules[layer].register_forward_hook(self._hook(layer)) for layer in layers]

    def _hook(self, layer: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(_: nn.Module, __: object, output: Tensor) -> None:
            values, places = output.flatten(2).max(2)
            best = values.topk(min(self.top, len(values)), dim=0)
            self.kept[layer].append((best.values, places.gather(0, best.indices)))

        return keep

    def see(self, images: Tensor) -> None:
        self.model(images)

    def close(self) -> dict[str, Tensor]:
        for hook in self.hooks:
            hook.remove()
        return {
            layer: torch.cat([v for v, _ in kept]).topk(self.top, dim=0).values for layer, kept in self.kept.items()
        }


def batches(count: int, device: str) -> Iterator[tuple[Tensor, np.ndarray, np.ndarray]]:
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, BATCH):
        numbers = np.arange(start, min(start + BATCH, count))
        # Coarse and fine detail, so that maxima differ from image to image as those of photos do.
        coarse = torch.rand(len(numbers), 3, 7, 7, generator=generator)
        images = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear")
        images += 0.2 * torch.rand(images.shape, generator=generator) - 0.1
        yield images.clamp_(0, 1).to(device), numbers, numbers % 10


def layers_of(net: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in net.named_modules() if isinstance(module, kind)]


def pass_times(name: str, kind: type[nn.Module], count: int, device: str) -> dict[str, list[float]]:
    """Seconds of each batch, by how it was looked at."""
    model = classifier(network(name, device))
    layers = layers_of(model.network, kind)
    alone = Pass(model, layers, OF, statistics=False)
    whole, naive = Pass(model, layers, OF, classes=10), Naive(classifier(network(name, device)), layers)
    times: dict[str, list[float]] = {"plain": [], "top": [], "all": [], "naive": []}
    with undisturbed(model, grad=False), undisturbed(naive.model, grad=False):
        for images, numbers, labels in batches(count, device):
            runs = {
                "plain": lambda images=images: model(images),
                "top": lambda i=images, n=numbers, c=labels: alone.see(i, n, c),
                "all": lambda i=images, n=numbers, c=labels: whole.see(i, n, c),
                "naive": lambda i=images: naive.see(i),
            }
            order = list(runs)
            turn = len(times["plain"]) % len(order)  # each comes after every other
            if not times["plain"]:
                model(images)  # warm
            for how in (*order[turn:], *order[:turn]):
                times[how].append(timed(runs[how], device=device))
        found = naive.close()
    # All four saw the same: what is fast must be right.
    for layer in layers:
        torch.testing.assert_close(found[layer].T, alone.figures[layer].top.value, rtol=1e-4, atol=1e-4)
    return times


def passes(table: Table, quick: bool) -> None:
    for device in devices():
        cases = [("resnet18", nn.Conv2d, "convolutions", 1.08, 1.2)]
        cases += [("resnet50", nn.ReLU, "ReLU modules", 1.3, None)] if device != "cpu" else []
        for name, kind, what, most, more in cases:
            count = (256 if quick else 2048) if device == "cpu" else (4096 if quick else OF)
            times = pass_times(name, kind, count, device)
            plain = sum(times["plain"])
            label = f"{name} {device}, all {what}, {count:,} images"
            table.at_most(f"{label}: top 9 / plain forward", sum(times["top"]) / plain, most)
            if more is not None:
                table.at_most("  with all statistics", sum(times["all"]) / plain, more)
            else:
                table.note("  with all statistics", sum(times["all"]) / plain)
            table.note("  the naive way", sum(times["naive"]) / plain)
            half = len(times["plain"]) // 2
            later = {how: sum(own[half:]) for how, own in times.items()}
            table.note("  second half alone: top 9", later["top"] / later["plain"])
            table.note("  second half alone: with all statistics", later["all"] / later["plain"])


def projections(table: Table, quick: bool) -> None:
    """The top 9 of all units of a layer, from canvases that are decoded, beside full passes of which some are timed."""
    generator = torch.Generator().manual_seed(0)
    canvases = torch.randint(0, 256, (64, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    for device in devices():
        model = Classifier(network("vgg16", device), mean=0.5, std=0.25, framing=Framing((SIDE, SIDE), SIDE))
        for layer, least in PROJECTED.items():
            factor = times_as_fast(Projector(model, layer), canvases, device, 32 if quick else 128)
            table.at_least(f"vgg16 {layer} {device}: windows, times as fast as full passes", factor, least)


def times_as_fast(projector: Projector, canvases: Tensor, device: str, count: int) -> float:
    """``count`` of the layer's projections on windows, beside a few full passes, each by itself."""
    model, method = projector.classifier, configure("deconvnet")
    neurons = _strongest(projector, canvases)
    some = [neurons[i] for i in np.random.default_rng(0).permutation(len(neurons))[:count]]
    few = some[:4]

    def on_windows() -> None:
        for start in range(0, len(some), AT_ONCE):
            pieces = [projector.piece(canvases[n.image], n) for n in some[start : start + AT_ONCE]]
            _, close = projector.project(method, pieces)
            assert bool(close.all()), "not as on the whole canvas"

    def whole() -> None:
        for n in few:
            image = canvases[n.image][None].to(device).float() / 255
            method.run(model, image, Target(projector.layer, (n.unit,), position=n.place))

    times = interleaved({"windows": on_windows, "whole": whole}, seconds=30, least=3, most=8, device=device)
    return len(some) / len(few) * ratio(times, "whole", "windows")


def _strongest(projector: Projector, canvases: Tensor) -> list[Neuron]:
    """The top 9 of every unit over the canvases."""
    model, layer = projector.classifier, projector.layer.key
    running = Pass(model, [layer], len(canvases), statistics=False)
    with undisturbed(model, grad=False):
        for start in range(0, len(canvases), BATCH):
            images = canvases[start : start + BATCH].to(model.device).float() / 255
            running.see(images, np.arange(start, start + len(images)), np.zeros(len(images), np.int64))
    top, cols = running.figures[layer].top, running.figures[layer].maps[1]
    rows = zip(top.value.tolist(), top.image.tolist(), top.place.tolist(), strict=True)
    return [
        Neuron(unit, image, *divmod(place, cols), value)
        for unit, row in enumerate(rows)
        for value, image, place in zip(*row, strict=True)
    ]


def memory(table: Table) -> None:
    growth = {count: float(again("memory", str(count)).stdout.split()[-1]) for count in COUNTS}
    few, many = (growth[count] for count in COUNTS)
    table.note(f"peak memory of a pass over {COUNTS[0]:,} images", few, "MiB")
    table.at_most(f"  more over {COUNTS[1]:,}", many - few, FLAT, "MiB")


def one_pass(count: int) -> None:
    """A pass over so many small images, none of which is kept."""
    torch.set_num_threads(1)
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    model = Classifier(nn.Sequential(*net, nn.Flatten()).eval())
    running = Pass(model, ["1", "3"], count, classes=10)
    images = torch.rand(100, 3, 12, 12)

    def run() -> None:
        with undisturbed(model, grad=False):
            for start in range(0, count, len(images)):
                numbers = np.arange(start, start + len(images))
                running.see(torch.rand(images.shape, out=images), numbers, numbers % 10)

    print(peak_growth(run))


def pages(table: Table, quick: bool) -> None:
    """All that a unit's page tells, at random from an atlas of many."""
    units, rng = UNITS // (10 if quick else 1), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        layers = write_atlas(Path(place), units, rng)
        atlas, now, times = Atlas(place), clock(), []
        for unit in rng.integers(0, units, 200).tolist():
            start = now()
            told = atlas.unit(f"layer{unit // EACH}:{unit % EACH}").about()
            times.append(1e3 * (now() - start))
            assert len(told["top"]) == PATCHES
            assert len(told["class_means"]) == CLASSES
        atlas.close()
    label = f"a page of {units:,} units in {layers} layers, {PATCHES} patches each"
    table.at_most(f"{label}: median", median(times), PAGE, "ms")
    table.note("  the slowest of 200", max(times), "ms")


def write_atlas(place: Path, units: int, rng: np.random.Generator) -> int:
    """An atlas of made-up numbers, as large as a real one; how many layers it has."""
    store, layers = Store(place, write=True), -(-units // EACH)
    figures, numbers = {}, (0.1, 0.2, 3.0, 0.4, 0.0, 1.0, 2.0, 0.5, 7, 0, None)
    with store.transaction():
        store.put("images", ((i, f"{i:06d}.jpg", i % CLASSES, 480, 640, *[None] * 5) for i in range(OF)))
        store.put("classes", ((i, f"class {i}") for i in range(CLASSES)))
        store.put("layers", ((i, f"layer{i}", "Conv2d", EACH, 7, 7, "exact", 9, 9, 1, 1) for i in range(layers)))
        store.put("units", ((unit // EACH, unit % EACH, *numbers) for unit in range(units)))
        for unit in range(units):
            images = rng.integers(0, OF, PATCHES).tolist()
            own = ((unit // EACH, unit % EACH, "top", rank, image, 1.0, 3, 4) for rank, image in enumerate(images))
            store.put("patches", own)
            store.put("neighbours", ((unit // EACH, unit % EACH, i, i, 0.5) for i in range(8)))
        store.set_meta(
            {"batches done": 1, "complete": True, "state": ["state.safetensors"], "model": "", "made of": {}}
        )
    for layer in range(layers):
        figures[f"{layer}/sample.maxima"] = rng.random((1024, EACH), np.float32)
        figures[f"{layer}/statistics.by_class"] = rng.random((CLASSES, EACH))
        figures[f"{layer}/statistics.members"] = np.ones(CLASSES)
    save_file(figures, place / "state.safetensors")
    store.close()
    return layers


def main() -> None:
    if sys.argv[1:2] == ["memory"]:
        one_pass(int(sys.argv[2]))
        return
    asked = options(__doc__.splitlines()[0]).parse_args()
    table = Table(__doc__.splitlines()[0])
    passes(table, asked.quick)
    projections(table, asked.quick)
    memory(table)
    pages(table, asked.quick)
    table.finish()


if __name__ == "__main__":
    main()
