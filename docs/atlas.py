"""Makes the pictures of docs/atlas.md: an atlas of EfficientNet-Lite0 over crops of real photos, and one of a network
that learns to read digits.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from crops import crops
from make import store

import convscope as cs
from convscope.atlas.compare import compare
from convscope.atlas.evolution import evolution, sheet, stages_of
from convscope.errors import ConvscopeError

LAYERS = ("blocks.1.0.bn1", "blocks.2.0.bn1", "blocks.3.0.bn1", "blocks.5.0.bn1")
UNITS = 8  # of each layer on the sheet
CARD = "blocks.5.0.bn1"
NET = """
from torch import nn


def Net(num_classes=10):
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, num_classes),
    )
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        photos(Path(place))
        digits(Path(place))


def photos(place: Path) -> None:
    net = cs.load("convscope:efficientnet_lite0")
    atlas = net.atlas(crops(place / "photos"), out=place / "atlas", layers=LAYERS)
    for layer in LAYERS:
        units = [unit.number for unit in atlas.units(layer, order="selectivity", dead=False)[:UNITS]]
        store(f"atlas-{layer}", atlas.sheet(layer, units))
    best = next(unit for unit in atlas.units(CARD, order="selectivity", dead=False) if unit.class_name == "cat")
    atlas.patterns([CARD], [best.number])
    store("atlas-card", best.card())


def digits(place: Path) -> None:
    (place / "net.py").write_text(NET)
    spec = f"{place / 'net.py'}:Net"
    run = cs.train("digits", model=spec, size=8, epochs=12, keep=1, out=place / "run")
    whole = cs.load(f"run:{run.folder}").atlas("digits", out=place / "digits", layers=["3", "6"])
    from convscope.atlas.evolution import stage_folder
    from convscope.training.folder import RunFolder

    for epoch, file in RunFolder(run.folder).stages().items():
        if epoch in (1, 2, 4, 8, 12):
            stage = cs.load(f"run:{run.folder}", weights=file)
            stage.atlas("digits", out=stage_folder(whole.folder, epoch), layers=["3", "6"])
    stages = stages_of(whole)
    units = [unit.address for unit in whole.units("6", order="selectivity", dead=False)[:4]]
    store("atlas-evolution", sheet(place / "kept", evolution(stages, units, "guided", place / "kept")))
    store("atlas-diff", compare(stages[1], whole).sheet(2))
    store("atlas-digits", whole.sheet("6", [unit.number for unit in whole.units("6", order="selectivity")[:8]]))


if __name__ == "__main__":
    try:
        main()
    except ConvscopeError as error:
        sys.exit(f"docs: {error}")
