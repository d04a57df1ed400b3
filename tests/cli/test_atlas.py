"""``convscope atlas``: what it prints and keeps, which is what the network answers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file
from sklearn.datasets import load_digits

from convscope import Atlas
from tests.atlas.test_build import everything
from tests.cli.atlases import DIGITS, WHOLE, begun, cells, grey_network, held, made, table
from tests.cli.conftest import MODEL, Call


@pytest.fixture(autouse=True)
def photos(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return begun(here, monkeypatch)


def test_a_set_by_name_becomes_an_atlas_and_is_not_looked_at_again(call: Call, here: Path) -> None:
    grey_network(here)
    line = (*DIGITS, "-o", "a", "--layers", "conv,relu,head")
    lines = made(call, *line).out.splitlines()
    assert cells(lines[0]) == ["layer", "type", "units", "dead", "duplicates", "maps", "sees"]
    assert [line.split() for line in lines[1:4]] == [
        ["conv", "Conv2d", "6", "0", "0", "6x6", "3x3"],
        ["relu", "ReLU", "6", "0", "0", "6x6", "3x3"],
        ["head", "Linear", "10", "0", "0", "whole"],
    ]
    assert lines[4:] == ["a: 1,797 photos; a unit's card: convscope unit a head:0"]
    assert sum(map(int, Path("batches").read_text().split())) == 1797, "one pass for all layers"
    before = held("a")
    again = made(call, *line, "--json")
    assert sum(map(int, Path("batches").read_text().split())) == 1797
    assert held("a") == before
    told = again.json
    assert set(told) == {"atlas", "model", "images", "left_out", "layers"}
    assert (told["atlas"], told["images"], told["left_out"]) == ("a", 1797, [])
    assert [(row["address"], row["units"], row["dead"]) for row in told["layers"]] == [
        ("conv", 6, 0),
        ("relu", 6, 0),
        ("head", 10, 0),
    ]
    assert made(call, *line).out.splitlines() == lines


def test_the_photos_of_a_unit_are_those_that_excite_it_most(call: Call, here: Path) -> None:
    grey = grey_network(here)
    made(call, *DIGITS, "-o", "a", "--layers", "conv", "--top", 5)
    known, classes = load_digits(), []
    pixels = torch.tensor(np.rint(known.images * (255 / 16)) / 255)[:, None]
    maps = F.conv2d((pixels - 0.4) / 0.5, grey["conv.weight"].double(), grey["conv.bias"].double()).numpy()
    best = maps.max((2, 3))
    for unit in (0, 2, 3):
        done = call("unit", "a", f"conv:{unit}", "--model", "grey.py:Net", "--json")
        assert done.code == 0, done.err
        order = np.argsort(-best[:, unit], kind="stable")[:5]
        assert [one["value"] for one in done.json["top"]] == pytest.approx(best[order, unit].tolist(), abs=1e-5)
        for one in done.json["top"]:
            number = int(one["image"].removeprefix("digit-"))
            assert maps[number, unit, one["row"], one["col"]] == pytest.approx(one["value"], abs=1e-5)
            assert one["class"] == str(known.target[number])
        means = {name: maps[known.target == int(name), unit].mean() for name in map(str, range(10))}
        assert done.json["class_means"] == pytest.approx(means, abs=1e-5)
        assert done.json["class"] == max(means, key=lambda name: means[name])
        classes.append(max(means.values()))
        assert done.json["mean"] == pytest.approx(maps[:, unit].mean(), abs=1e-5)
        assert done.json["std"] == pytest.approx(maps[:, unit].std(), abs=1e-5)
    assert min(classes) < 0 < max(classes), "also of units that are below zero for all classes"


def test_projections_and_patterns_are_made_for_all_units_that_are_alive(call: Call, photos: Path) -> None:
    done = made(call, *WHOLE, "-o", "a", "--project", "deconvnet,guided")
    assert done.out.splitlines()[1].split() == ["features.1", "ReLU", "4", "1", "0", "32x32", "3x3"]
    tops = table("a", "SELECT layer, unit, image FROM patches WHERE kind = 'top'")
    alive = set(table("a", "SELECT layer, unit FROM units WHERE NOT dead"))
    assert alive == {(0, 0), (0, 1), (0, 3), *((1, unit) for unit in range(8) if unit != 1)}
    assert len(tops) == 9 * 12
    wanted = {(*top, what) for top in tops if top[:2] in alive for what in ("photo", "deconvnet", "guided")}
    assert set(table("a", "SELECT layer, unit, image, what FROM renders")) == wanted
    one = (*MODEL, "photos", "--layers", "features.1", "-o", "b")
    made(call, *one)
    made(call, *one, "--patterns")
    patterns = set(table("b", "SELECT layer, unit, image, what FROM renders"))
    assert patterns == {(0, unit, -1, "pattern") for unit in (0, 1, 3)}
    for picture, top, left, bottom, right in table(
        "a", 'SELECT picture, top, "left", bottom, "right" FROM renders WHERE layer = 0 AND image >= 0'
    ):
        Path("picture.png").write_bytes(picture)
        assert Image.open("picture.png").size == (right - left, bottom - top) == (3, 3)
    assert Atlas("a").methods == ("deconvnet", "guided")


def test_parquet_holds_what_the_database_does(call: Call, photos: Path) -> None:
    made(call, *WHOLE, "-o", "a", "--parquet")
    tables = everything(Path("a"))
    assert {file.name for file in Path("a/parquet").iterdir()} == {f"{name}.parquet" for name in tables}
    for name, rows in tables.items():
        found = parquet.read_table(f"a/parquet/{name}.parquet").to_pylist()
        assert [tuple(row.values()) for row in found] == rows
        assert rows


def test_units_are_followed_across_the_checkpoints_of_a_run(call: Call, photos: Path) -> None:
    train = ("train", "photos", "--model", "net.py:Net", "--size", 16, "--epochs", 2)
    assert call(*train, "--keep", 1, "--out", "run").code == 0
    done = made(call, "run:run", "photos", "-o", "a", "--layers", "features.1", "--evolve")
    assert "a: also of 2 checkpoints" in done.err
    assert sorted(place.name for place in Path("a").glob("epoch-*")) == ["epoch-0001", "epoch-0002"]
    for epoch in (1, 2):
        inside = Atlas(f"a/epoch-000{epoch}")
        kept = load_file(f"run/checkpoints/epoch-000{epoch}.safetensors")
        assert inside.complete
        assert torch.equal(inside.classifier.network.state_dict()["features.0.weight"], kept["features.0.weight"])
    first, second = (everything(Path(f"a/epoch-000{epoch}"))["units"] for epoch in (1, 2))
    assert first != second, "the run has learned something"
    alive = next(unit for unit in Atlas("a").units() if not unit.dead)
    done = call("unit", "a", alive.address, "--json")
    assert done.code == 0, done.err
    card, grown = done.json["files"]
    assert card == f"a/cards/features.1-{alive.number}.png"
    assert grown == f"a/cards/features.1-{alive.number}-evolution.png"
    assert Image.open(grown).width > 2 * 100
    shutil.move("photos", "moved")
    other = next(unit.address for unit in Atlas("a").units() if not unit.dead and unit.number != alive.number)
    done = call("unit", "a", other, "--json")
    assert (done.code, len(done.json["files"])) == (0, 1), "the numbers stand without photos"
    assert "convscope: no picture of how it came to be: " in done.err
    assert "cannot be read any more" in done.err
    shutil.move("moved", "photos")
    assert call(*train, "--out", "plain").code == 0
    done = call("atlas", "run:plain", "photos", "-o", "b", "--evolve")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("convscope: error: --evolve: ")
    assert done.err.endswith("plain kept 1 checkpoint: train with --keep 1\n")
    assert not Path("b").exists()


def test_a_broken_photo_is_left_out_and_told(call: Call, photos: Path) -> None:
    (photos / "one/one 3.png").write_bytes(b"no photo")
    done = made(call, *WHOLE, "-o", "a")
    assert done.err.startswith("convscope: left out: 1 photo, such as one/one 3.png (")
    assert done.err.count("\n") == 1
    assert done.out.splitlines()[-1].startswith("a: 35 photos; ")
    again = made(call, *WHOLE, "-o", "a", "--json").json
    assert (again["images"], [name for name, _ in again["left_out"]]) == (35, ["one/one 3.png"])
    assert "one/one 3.png" not in {name for (name,) in table("a", "SELECT name FROM images")}
