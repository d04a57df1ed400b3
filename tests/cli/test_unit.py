"""``convscope unit``: cards and lists, which say what the library does; networks and photos that are not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from convscope import Atlas
from tests.cli.atlases import DIGITS, MINE, WHOLE, begun, cells, grey_network, made, table, tuned
from tests.cli.conftest import Call
from tests.cli.digits import contents


@pytest.fixture(autouse=True)
def photos(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return begun(here, monkeypatch)


def test_a_unit_is_shown_with_the_numbers_that_the_library_gives(call: Call, photos: Path) -> None:
    made(call, *WHOLE, "-o", "a", "--project", "deconvnet")
    told = call("unit", "a", "features.4:5", *MINE, "--json")
    assert told.code == 0, told.err
    unit = Atlas("a").unit("features.4:5")
    assert told.json == {**json.loads(json.dumps(unit.about())), "files": ["a/cards/features.4-5.png"]}
    with Image.open("a/cards/features.4-5.png") as card:
        card.load()
        assert card.format == "PNG"
        assert min(card.size) > 500
    done = call("unit", "a", "features.4:5", *MINE)
    assert done.code == 0, done.err
    head, tops, files = done.out.strip().split("\n\n")
    numbers = dict(line.split(maxsplit=1) for line in head.splitlines())
    wanted = {name: value for name, value in unit.row().items() if value is not None and name not in ("layer", "unit")}
    assert numbers == {name: f"{v:.4g}" if isinstance(v, float) else str(v) for name, v in wanted.items()}
    assert cells(tops.splitlines()[0]) == ["photo", "class", "value", "row", "col"]
    assert [cells(line)[0] for line in tops.splitlines()[1:]] == [patch.image for patch in unit.top]
    assert [line.split()[-3:] for line in tops.splitlines()[1:]] == [
        [f"{patch.value:.4g}", str(patch.row), str(patch.col)] for patch in unit.top
    ]
    assert files == "a/cards/features.4-5.png"
    dead = call("unit", "a", "features.1:2", *MINE, "--json")
    assert (dead.code, dead.json["dead"], dead.json["class"], dead.json["max"]) == (0, True, None, 0)


def test_a_card_goes_where_it_is_wanted(call: Call, photos: Path) -> None:
    made(call, *WHOLE, "-o", "a")
    before = contents(Path("a"))
    done = call("unit", "a", "features.1:0", *MINE, "--out", "cards/mine.jpg", "--method", "guided,gradient")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "cards/mine.jpg"
    assert Image.open("cards/mine.jpg").format == "JPEG"
    assert [file.name for file in Path("cards").iterdir()] == ["mine.jpg"]
    assert not Path("a/cards").exists()
    assert before.keys() <= contents(Path("a")).keys()
    whats = {what for (what,) in table("a", "SELECT DISTINCT what FROM renders WHERE unit = 0")}
    assert {"guided", "gradient", "guided, control", "gradient, control"} <= whats


def test_several_units_are_one_sheet(call: Call, photos: Path) -> None:
    made(call, *WHOLE, "-o", "a")
    done = call("unit", "a", "features.4:0-2", *MINE, "--json")
    assert done.code == 0, done.err
    assert done.json["files"] == ["a/cards/features.4-0-2.png"]
    assert [row["unit"] for row in done.json["units"]] == [0, 1, 2]
    with Image.open("a/cards/features.4-0-2.png") as sheet:
        assert sheet.width > 3 * 400
    done = call("unit", "a", "features.4:0-2", *MINE, "--method", "guided,gradient")
    assert (done.code, done.err) == (
        2,
        "convscope: error: a sheet of several units is of one method: give one --method\n",
    )


def test_units_are_listed_in_order(call: Call, here: Path) -> None:
    grey_network(here)
    made(call, *DIGITS, "-o", "a", "--layers", "conv,relu,head")
    done = call("unit", "a")
    assert done.code == 0, done.err
    assert done.err == "convscope: the first 20 of 22; --json has them all\n"
    lines = done.out.splitlines()
    assert cells(lines[0]) == ["unit", "mean", "max", "active", "selectivity", "class"]
    everyone = Atlas("a").units(order="selectivity")
    assert [line.split()[0] for line in lines[1:]] == [unit.address for unit in everyone][:20]
    done = call("unit", "a", "--json")
    assert done.json == {"atlas": "a", "units": everyone.rows()}
    listed = call("unit", "a", "head", "--order", "max", "--class", 3, "--json").json["units"]
    assert listed == [row for row in Atlas("a").units("head", order="max").rows() if row["class"] == "3"]
    assert listed, "the network is made so that some unit answers to threes"
    highest = [row["max"] for row in call("unit", "a", "head", "--order", "max", "--json").json["units"]]
    assert highest == sorted(highest, reverse=True)
    assert len(highest) == 10
    absent = next(name for name in map(str, range(10)) if not Atlas("a").units("conv", class_name=name))
    done = call("unit", "a", "conv", "--class", absent)
    assert (done.code, done.out) == (0, "")
    assert done.err == f"convscope: no unit of conv answers to {absent} most\n"


def test_a_model_that_is_code_is_run_by_those_alone_who_name_it(call: Call, photos: Path) -> None:
    made(call, *WHOLE, "-o", "a")
    done = call("unit", "a", "features.1:0")
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert done.err.startswith("convscope: error: a is an atlas of ")
    assert "net.py:Net, which is code: if you trust it, name it by --model" in done.err
    assert not Path("a/cards").exists()
    assert call("unit", "a", "features.1").code == 0, "numbers need no network"
    assert call("unit", "a", "features.1:0", *MINE).code == 0


def test_another_network_than_the_atlas_is_of_is_refused(call: Call, photos: Path) -> None:
    assert call("train", "photos", "--model", "net.py:Flat", "--size", 32, "--epochs", 1, "--out", "run").code == 0
    made(call, "run:run", "photos", "-o", "run-atlas", "--layers", "features.1")
    done = call("unit", "run-atlas", "features.1:0", "--model", "net.py:Flat")
    assert (done.code, done.out) == (2, ""), "it takes another size than is assumed"
    assert done.err.endswith("is an atlas of another model: net.py:Flat does not run on an input of 224x224\n")
    made(call, *WHOLE, "-o", "a")
    done = call("unit", "a", "features.1:0", "--model", "net.py:Flat")
    assert (done.code, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert "do not fit Flat" in done.err
    tuned(0.1)
    shutil.move("tuned.safetensors", "weights.safetensors")
    done = call("unit", "a", "features.1:0", *MINE)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("convscope: error: a is an atlas of another model: ")
    assert done.err.endswith("has other weights\n")
    assert not Path("a/cards").exists()


def test_numbers_stay_when_the_photos_are_gone(call: Call, photos: Path) -> None:
    made(call, *WHOLE, "-o", "a")
    before = call("unit", "a", "features.1:1", *MINE, "--json").json
    gone = Atlas("a").unit("features.1:3").top[0].image
    (photos / gone).unlink()
    done = call("unit", "a", "features.1:3", *MINE, "--json")
    assert done.code == 0, done.err
    assert done.err == f"convscope: {gone} cannot be read any more from {photos}: no such file or directory\n"
    assert gone in {patch["image"] for patch in done.json["top"]}
    shutil.rmtree(photos)
    kept = call("unit", "a", "features.1:1", *MINE, "--json")
    assert kept.err == "", "its pictures are in the atlas"
    assert kept.json == before
    done = call("unit", "a", "features.4:5", *MINE)
    assert done.code == 0, done.err
    told = {line.removeprefix("convscope: ").partition(" cannot be read any more")[0] for line in done.err.splitlines()}
    assert {patch.image for patch in Atlas("a").unit("features.4:5").top} <= told
    assert done.out.splitlines()[-1] == "a/cards/features.4-5.png"
    assert Image.open("a/cards/features.4-5.png").size[0] > 500
