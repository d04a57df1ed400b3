"""``convscope atlas-diff``: what it prints and writes is what the figures of both atlases give."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convscope import Atlas
from convscope.atlas.compare import compare
from convscope.errors import Cancelled
from convscope.images.own import MARK
from convscope.progress import reporting
from convscope.scope import load
from tests.cli.atlases import LAYERS, MINE, WHOLE, begun, made, tuned
from tests.cli.conftest import MODEL, Call


@pytest.fixture(autouse=True)
def photos(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return begun(here, monkeypatch)


def test_the_same_network_twice_has_kept_everything(call: Call, photos: Path) -> None:
    for name in ("a", "b"):
        made(call, *WHOLE, "-o", name)
    done = call("atlas-diff", "a", "b", "-o", "e")
    assert done.out.splitlines()[-1] == "e: changes.csv", "without its code there is no picture"
    assert done.err.startswith("convscope: no picture: a is an atlas of ")
    assert {file.name for file in Path("e").iterdir()} == {MARK, "changes.csv"}
    done = call("atlas-diff", "a", "b", *MINE, "--json", "-o", "d")
    assert done.code == 0, done.err
    assert set(done.json) == {"before", "after", "layers", "units"}
    assert [(row["layer"], row["units"], row["kept"], row["dead"]) for row in done.json["layers"]] == [
        ("features.1", 4, 3, 1),
        ("features.4", 8, 7, 1),
    ]
    for row in done.json["units"]:
        if row["verdict"] == "kept":
            assert row["correlation"] == pytest.approx(1)
            assert (row["match"], row["shared"]) == (row["unit"], 1)
    assert {file.name for file in Path("d").iterdir()} == {MARK, "changes.csv", "changed.png"}


def test_a_fine_tuned_network_is_compared_with_what_it_was(call: Call, photos: Path) -> None:
    tuned(0.05)
    made(call, *WHOLE, "-o", "a")
    made(call, *("tuned.safetensors" if arg == "weights.safetensors" else arg for arg in WHOLE), "-o", "b")
    done = call("atlas-diff", "a", "b", *MINE, "-o", "d")
    assert done.code == 0, done.err
    before, after = Atlas("a"), Atlas("b")
    found = compare(before, after)
    with Path("d/changes.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [{name: "" if value is None else str(value) for name, value in row.items()} for row in found.rows()]
    turned = rows[0]
    assert (turned["layer"], turned["unit"]) == ("features.1", "0")
    assert turned["verdict"] not in ("kept", "dead")
    assert len({row["verdict"] for row in rows}) > 2
    for row in rows:
        one, other = (atlas.unit(f"{row['layer']}:{row['unit']}") for atlas in (before, after))
        if not one.dead:
            wanted = np.corrcoef(one.maxima, other.maxima)[0, 1]
            assert float(row["correlation"]) == pytest.approx(wanted, abs=1e-6)
        same = {patch.image for patch in one.top} & {patch.image for patch in other.top}
        assert float(row["shared"]) == pytest.approx(len(same) / 9)
    summary, changed, last = done.out.split("\n\n")[0], done.out.split("\n\n")[1], done.out.splitlines()[-1]
    assert [line.split()[:2] for line in summary.splitlines()[1:]] == [["features.1", "4"], ["features.4", "8"]]
    order = [f"{one.layer}:{one.unit}" for one in found.most_changed()]
    assert [line.split()[0] for line in changed.splitlines()[1:-1]] == order
    assert last == "d: changes.csv, changed.png"
    assert Image.open("d/changed.png").width > 500


def test_what_cannot_be_compared_is_said(call: Call, photos: Path) -> None:
    made(call, *WHOLE, "-o", "a")
    made(call, *MODEL, "photos", "--layers", "head", "-o", "head")
    shutil.copytree("photos", "fewer")
    next(Path("fewer/one").iterdir()).unlink()
    made(call, *MODEL, "fewer", *LAYERS, "-o", "other")
    scope = load("net.py:Net", weights=Path("weights.safetensors"), mean=[0.5], std=[0.5], size=32)
    with pytest.raises(Cancelled), reporting(cancel=lambda: True):
        scope.atlas("photos", out="cut", layers=["features.1", "features.4"])
    for after, words in (
        ("head", "they have no layer in common: features.1, features.4, and head"),
        ("other", "a and other are of other photos: make both of the same"),
        ("cut", "cut is not complete yet: run the command that builds it again"),
        ("none", "none is no atlas: it has no atlas.sqlite"),
    ):
        done = call("atlas-diff", "a", after, "-o", "d")
        assert (done.code, done.out, done.err) == (2, "", f"convscope: error: {words}\n")
        assert not Path("d").exists()
