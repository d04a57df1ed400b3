"""The recipes on a small scale: each through the real command line, on real photos that need no network.

    python recipes/small.py                      # all of them, about a quarter of an hour on two CPU cores
    python recipes/small.py cat_breeds zfnet     # some

Each part takes a recipe's own settings, with options that make it small over them, and prints a line of a Markdown
table. Beside scikit-learn's digits and scikit-image's faces it needs Fashion-MNIST, which Debian packages:

    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb fashion
    python recipes/small.py --fashion-mnist fashion/usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

RECIPES = Path(__file__).resolve().parent
FASHION = Path("/usr/share/datasets/fashion-mnist")
GARMENTS = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


@dataclass(frozen=True)
class Part:
    """A recipe, or a part of it. ``options`` go over its settings, of which those in ``without`` are taken out."""

    recipe: str
    name: str
    data: str
    options: str
    without: tuple[str, ...] = ()  # of the section model
    learns: bool = True  # False: shown because it does not


MOVED = "--augment rotation=40,shift=.2,shear=.2,zoom=.2,flip"
CATS = "--split 70/15/15 --size 64 --batch-size 8 --evolve 40"
CLOTHES = "--subset 300/100/100"
SMALL_BASE = "--model convscope:efficientnet_lite0 --size 96 --lr 1e-3"
PARTS = (
    Part("cat_breeds", "with BatchNorm", "crops", f"{CATS} --batch-norm --epochs 10"),
    Part("cat_breeds", "plain", "crops", f"{CATS} --epochs 4", learns=False),
    Part("cat_breeds", "Adam", "crops", f"{CATS} --optimizer adamw --epochs 2", learns=False),
    Part("mnist", "clothes", "fashion", "--subset 2000/200/1000 --epochs 5"),
    Part("mnist", "digits", "digits", "--augment rotation=10,shift=.1,zoom=.1 --epochs 30"),
    Part("dogs_vs_cats", "first form", "shirts", f"{CLOTHES} --size 48 --lr 1e-3 --epochs 15"),
    Part("dogs_vs_cats", "augmented", "shirts", f"{CLOTHES} --size 48 --lr 1e-3 --epochs 20 --dropout .5 {MOVED}"),
    Part("pretrained_vgg16", "cached", "shirts", f"{CLOTHES} {SMALL_BASE} --epochs 20", ("weights",)),
    Part("pretrained_vgg16", "augmented", "shirts", f"{CLOTHES} {SMALL_BASE} --epochs 4 {MOVED}", ("weights",)),
    Part(
        "pretrained_vgg16",
        "fine-tuned",
        "shirts",
        f"{CLOTHES} --from {{runs}}/pretrained_vgg16-augmented --unfreeze @stage:-1 --lr 1e-4 --epochs 4 {MOVED}",
        ("spec", "weights"),
    ),
    Part("zfnet", "ZFNet", "garments", "--subset 100/30/50 --size 64 --batch-size 16 --epochs 7 --augment none"),
    Part("cifar10", "with BatchNorm", "garments", "--subset 50/15/30 --batch-norm --lr .01 --batch-size 16 --epochs 4"),
    Part("faces", "face or not", "lfw-subset", "--size 64 --batch-size 16 --epochs 10"),
    Part("pytorch_book", "digits", "digits", ""),
    Part("pytorch_book", "two classes", "shirts", f"{CLOTHES} --model convscope:book_catdog --size 64"),
    Part("pytorch_book", "base, cached", "shirts", f"{CLOTHES} {SMALL_BASE}"),
    Part(
        "pytorch_book",
        "base, augmented",
        "shirts",
        f"{CLOTHES} {SMALL_BASE} --dropout .5 --augment light --epochs 4",
    ),
)


# Photos


@dataclass(frozen=True)
class Data:
    """The photos that the parts learn from, made when they are asked for."""

    folder: Path
    fashion: Path

    def source(self, name: str) -> str:
        """What the command line is given for PHOTOS."""
        return str(self._made[name]()) if name in self._made else name

    @cached_property
    def _made(self) -> dict[str, Callable[[], Path]]:
        return {
            "fashion": self._fashion,
            "crops": lambda: self._once("crops", crops),
            "shirts": lambda: self._once("shirts", lambda place: self._garments(place, ("T-shirt", "Shirt"), 500)),
            "garments": lambda: self._once("garments", lambda place: self._garments(place, GARMENTS, 180)),
            "people": lambda: self._once("people", people),
        }

    def _once(self, name: str, make: Callable[[Path], None]) -> Path:
        place = self.folder / name
        if not place.exists():
            make(place)
        return place

    def _fashion(self) -> Path:
        if not (self.fashion / "train-images-idx3-ubyte.gz").is_file():
            raise SystemExit(
                f"Fashion-MNIST is not in {self.fashion}. To get it from Debian:\n"
                "  apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb fashion\n"
                "and name its folder: --fashion-mnist fashion/usr/share/datasets/fashion-mnist"
            )
        return self.fashion

    def _garments(self, place: Path, classes: tuple[str, ...], count: int) -> None:
        """So many photos of each of some classes of Fashion-MNIST, as files in a folder for each."""
        source = self._fashion()
        pixels = _idx(source / "train-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
        labels = _idx(source / "train-labels-idx1-ubyte.gz", 8)
        for name in classes:
            (place / name).mkdir(parents=True)
            for row in np.flatnonzero(labels == GARMENTS.index(name))[:count].tolist():
                Image.fromarray(pixels[row]).save(place / name / f"{row:05d}.png")


def _idx(file: Path, header: int) -> np.ndarray:
    with gzip.open(file) as opened:
        return np.frombuffer(opened.read(), np.uint8, offset=header)


def crops(place: Path, count: int = 20) -> None:
    """Cuttings of six photos, which stand for six classes. Those of one photo overlap, so that the figure of the test
    photos says that it learned, not that it would know another cat."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    photos = {
        "cat": data.chelsea(),
        "coffee": data.coffee(),
        "motorcycle": data.stereo_motorcycle()[0],
        "rocket": data.rocket(),
        "china": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
    }
    chance = np.random.default_rng(0)
    for name, pixels in photos.items():
        (place / name).mkdir(parents=True)
        photo = Image.fromarray(pixels)
        for i in range(count):
            height = int(chance.uniform(0.35, 0.8) * min(photo.size))
            width = min(int(height * chance.uniform(0.9, 1.25)), photo.width)
            left = int(chance.integers(0, photo.width - width + 1))
            top = int(chance.integers(0, photo.height - height + 1))
            photo.crop((left, top, left + width, top + height)).save(place / name / f"{i:02d}.jpg", quality=88)


def people(place: Path) -> None:
    """A person's photo as it comes: in colour, transparent, grey and cut short; and a photo without a person."""
    from skimage import data

    for name in ("astronaut", "nobody"):
        (place / name).mkdir(parents=True)
    photo = Image.fromarray(data.astronaut())
    photo.save(place / "astronaut" / "colour.jpg")
    photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("RGBA").save(place / "astronaut" / "transparent.png")
    photo.crop((0, 0, 420, 420)).convert("L").save(place / "astronaut" / "grey.png")
    whole = (place / "astronaut" / "colour.jpg").read_bytes()
    (place / "astronaut" / "cut short.jpg").write_bytes(whole[: len(whole) // 3])
    Image.fromarray(data.coffee()).save(place / "nobody" / "coffee.jpg")


# Runs


@dataclass(frozen=True)
class Place:
    """Where all of it is done: ``runs``, and the cache, so that every part's time is that of a first run."""

    folder: Path

    def call(self, *arguments: str, fails: bool = False) -> dict[str, Any]:
        """A convscope command with --json; what it says on the way is passed on."""
        own = {"OMP_NUM_THREADS": "1", "CONVSCOPE_CACHE": str(self.folder / "cache")}
        command = [sys.executable, "-m", "convscope", *arguments, "--json"]
        print(f"\n$ convscope {shlex.join(arguments)}", file=sys.stderr)
        done = subprocess.run(command, env={**own, **os.environ}, stdout=subprocess.PIPE, text=True)
        if done.returncode and not fails:
            raise SystemExit(f"that failed, with exit code {done.returncode}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def settings(self, part: Part) -> str:
        """The recipe's file, or a copy of it without the settings that the small form must not have."""
        file = RECIPES / f"{part.recipe}.yaml"
        if not part.without:
            return str(file)
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        for name in part.without:
            del settings["model"][name]
        copy = self.folder / f"{part.recipe}-{part.name}.yaml"
        copy.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return str(copy)

    def run(self, part: Part, source: str) -> tuple[str, list[str]]:
        """Train a part; its line of the table, and what the run had to remark."""
        folder = self.folder / f"{part.recipe}-{part.name.replace(', ', '-').replace(' ', '-')}"
        options = shlex.split(part.options.format(runs=self.folder))
        before = _processor_time()
        found = self.call("train", source, "--config", self.settings(part), *options, "--out", str(folder))
        seconds = _processor_time() - before
        evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        test, classes = evaluation["test"], len(evaluation["test"]["per_class"])
        low, high = (test["accuracy_interval"][end] for end in ("low", "high"))
        if part.learns and low <= 1 / classes:
            raise SystemExit(f"{part.recipe}, {part.name}: no better than chance, {test['accuracy']:.1%}")
        changed = f"`{part.options.format(runs='runs')}`" if part.options else "nothing"
        cells = (
            f"{part.recipe}, {part.name}",
            part.data,
            changed,
            f"{seconds:.0f} s, {evaluation['seconds'] / len(rows):.2g} s an epoch",
            f"{max(row['train_accuracy'] for row in rows):.1%}",
            f"{evaluation['val']['accuracy']:.1%}",
            f"{test['accuracy']:.1%} ({low:.1%} to {high:.1%})",
        )
        return f"| {' | '.join(cells)} |", [f"- {part.recipe}, {part.name}: {remark}" for remark in found["remarks"]]

    def check_people(self, source: str) -> str:
        """Faces cut out of photos as they come."""
        found = self.call("check", source, "--crop-faces", "--out", str(self.folder / "faces"), fails=True)
        left_out = ", ".join(f"{one['name']} ({one['reason']})" for one in found["left_out"])
        return f"faces: {found['faces']['cropped']} cut out of {found['photos']} photos; left out: {left_out}"


def _processor_time() -> float:
    """Of all commands so far: a machine that is busy otherwise takes longer by the clock."""
    spent = os.times()
    return spent.children_user + spent.children_system


HEADER = (
    "| recipe, part | photos | changed for the small form | CPU time | train, highest | val | test (95 % interval) |\n"
    "|---|---|---|---|---|---|---|"
)


def main() -> None:
    names = list(dict.fromkeys(part.recipe for part in PARTS))
    parser = argparse.ArgumentParser(description="The recipes on a small scale, on real photos.")
    parser.add_argument("recipes", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; by default all")
    parser.add_argument("--fashion-mnist", type=Path, default=FASHION, metavar="DIR", help="its four .gz files")
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new folder for photos, runs and the cache")
    given = parser.parse_args()
    if wrong := set(given.recipes) - set(names):
        parser.error(f"there is no recipe {', '.join(sorted(wrong))}: there are {', '.join(names)}")
    folder = (given.out or Path(tempfile.mkdtemp(prefix="recipes-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    place, data = Place(folder), Data(folder / "photos", given.fashion_mnist)
    parts = [part for part in PARTS if not given.recipes or part.recipe in given.recipes]
    sources = {name: data.source(name) for name in dict.fromkeys(part.data for part in parts)}  # what lacks is said now
    lines, notes, start = [HEADER], list[str](), time.monotonic()
    if "faces" in {part.recipe for part in parts}:
        notes.append(f"- {place.check_people(data.source('people'))}")
    for part in parts:
        line, remarks = place.run(part, sources[part.data])
        print(line, file=sys.stderr)
        lines.append(line)
        notes += remarks
    print("\n".join([*lines, "", *notes]))
    minutes = [(time.monotonic() - start) / 60, _processor_time() / 60]
    print(f"{minutes[0]:.1f} minutes, {minutes[1]:.1f} of CPU time; runs are in {folder}", file=sys.stderr)


if __name__ == "__main__":
    main()
