"""Makes the pictures of docs/patterns.md by running convscope on EfficientNet-Lite0 and its ImageNet weights."""

from __future__ import annotations

import sys
from pathlib import Path

import skimage
from make import store

import convscope as cs
from convscope.errors import ConvscopeError
from convscope.images.sheet import contact_sheet

LAYERS = ("blocks.0.0", "blocks.1.1", "blocks.2.1", "blocks.3.2", "blocks.4.2", "blocks.6.0")
CLASSES = ("tench", "goldfish", "tabby", "espresso", "daisy", "steam locomotive")
SIZE = 128


def main() -> None:
    net = cs.load("convscope:efficientnet_lite0")
    cat, coffee = (Path(skimage.__file__).parent / "data" / name for name in ("chelsea.png", "coffee.png"))
    tiles, labels = [], []
    for layer in LAYERS:
        found = net.visualize(layer, range(6), size=SIZE)
        tiles += [found.picture(i) for i in range(len(found))]
        labels += list(found.names)
    store("patterns-layers", contact_sheet(tiles, labels, columns=6, tile=176))
    tiles, labels = [], []
    for recipe in ("maco", "fourier", "classic"):
        found = net.visualize("@logits", CLASSES, recipe=recipe)
        tiles += [found.picture(i) for i in range(len(found))]
        labels += [f"{name}, {recipe}" for name in found.names]
    store("patterns-classes", contact_sheet(tiles, labels, columns=6, tile=176))
    unit = "blocks.3.2:3"
    several, least = net.visualize(unit, diversity=4, size=SIZE), net.visualize(unit, negative=True, size=SIZE)
    tiles = [*(several.picture(i) for i in range(4)), least.picture()]
    labels = [*(f"{unit}, {i + 1} of 4" for i in range(4)), f"{unit}, negative"]
    store("patterns-diversity", contact_sheet(tiles, labels, columns=5, tile=200))
    amplified = net.caricature([cat, coffee])
    dreams = [net.dream(cat, layer, size=400) for layer in ("blocks.3.2", "@stage:-2")]
    tiles = [amplified.picture(0), amplified.picture(1), *(dream.picture() for dream in dreams)]
    labels = ["caricature of the cat", "of the coffee", "dream of blocks.3.2", "dream of the last stage but one"]
    store("patterns-photos", contact_sheet(tiles, labels, columns=4, tile=264))


if __name__ == "__main__":
    try:
        main()
    except ConvscopeError as error:
        sys.exit(f"docs: {error}")
