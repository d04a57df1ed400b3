"""``convscope atlas``, ``unit`` and ``atlas-diff`` asked for what cannot be: one line, its exit code, nothing left."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from convscope import Atlas
from tests.cli.atlases import LAYERS, MINE, WHOLE, begun, held, made, table, tuned
from tests.cli.conftest import MODEL, Call
from tests.cli.digits import contents, files_of_at_most

TOKENS = '''
from torch import nn


class Net(nn.Module):
    """A layer of it gives neither maps nor numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.tokens, self.head = nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.tokens(self.conv(x)).mean(2))
'''


@pytest.fixture(autouse=True)
def photos(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (here / "tokens.py").write_text(TOKENS, "utf-8")
    return begun(here, monkeypatch)


def refused(call: Call, *args: object, code: int = 2) -> str:
    """What is said."""
    done = call(*args)
    assert (done.code, done.out) == (code, ""), done.err
    lines = done.err.splitlines()
    assert lines[-1].startswith("convscope: error: ")
    assert not [line for line in lines[:-1] if not line.startswith(("convscope: net.py:", "convscope: tokens.py:"))]
    return lines[-1].removeprefix("convscope: error: ")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([*MODEL, "photos", "--layers", "featurs.4"], "unknown layer 'featurs.4'; nearest: features.4, features."),
        ([*MODEL, "photos", "--layers", "nothing*"], "unknown layer 'nothing*'; known: features.0, "),
        ([*MODEL, "photos", "--layers", "@stags"], "unknown alias '@stags'"),
        ([*MODEL, "photos", "--layers", "features.4:0"], "features.4:0: an atlas is of whole layers"),
        ([*MODEL, "photos", "--layers", "@logits"], "@logits is the output"),
        ([*MODEL, "phots"], "phots: no such file or folder in "),
        ([*MODEL, "photos/one/one 0.png"], "photos/one/one 0.png is a single photo; a source of photos is a folder"),
        ([*MODEL, "empty"], "empty is empty; a source is a folder with one folder of photos for each class"),
        ([*WHOLE, "--top", "0"], "Invalid value for '--top'"),
        ([*WHOLE, "--top", "many"], "Invalid value for '--top'"),
        ([*WHOLE, "--workers", "-1"], "Invalid value for '--workers'"),
        ([*WHOLE, "--project", "deconvne"], "unknown method 'deconvne'; nearest: deconvnet"),
        ([*WHOLE, "--project", "guided,grad-cam"], "grad-cam does not project a unit back on its receptive field; "),
        ([*WHOLE, "--evolve"], "--evolve follows a run: name it as run:DIR"),
        ([*WHOLE, "--background", "whit"], "unknown colour 'whit' (a CSS name such as white, or #rrggbb)"),
        (
            ["net.py:Net", "photos"],
            "net.py:Net takes photos of any size, which cannot be one batch: load it",
        ),
        (["net.py:Nets", "--size", "32", "photos"], "unknown name in net.py 'Nets'; nearest: Net"),
        (
            ["tokens.py:Net", "--size", "32", "photos", "--layers", "tokens"],
            "layer tokens gives neither maps nor ",
        ),
        ([*MODEL, "photos", "--root", "x"], "photos: --root is of no use for this kind of source; leave it out"),
        (["run:nowhere", "photos"], "run:nowhere: no such folder"),
    ],
)
def test_an_atlas_that_cannot_be_meant_is_one_line_and_no_folder(call: Call, args: list[str], words: str) -> None:
    Path("empty").mkdir()
    assert words in refused(call, "atlas", *args, "-o", "p/atlas")
    assert not Path("p").exists()


def test_a_network_that_does_not_take_its_size_is_said_to(call: Call) -> None:
    line = refused(call, "atlas", "net.py:Flat", "--size", 48, "photos", "-o", "p", code=1)
    assert line.startswith("net.py:Flat fails on an input of 48x48 (")
    assert line.endswith("if it was made for another size, give that")
    assert not Path("p").exists()


def test_nothing_goes_where_a_file_is(call: Call) -> None:
    before = Path("classes.txt").read_bytes()
    for place in ("classes.txt", "classes.txt/atlas"):
        line = refused(call, "atlas", *WHOLE, "-o", place, code=1)
        assert line == f"{place} cannot be made: a file is where a folder should be"
    assert Path("classes.txt").read_bytes() == before


def test_an_atlas_of_something_else_is_refused_and_stays(call: Call, photos: Path) -> None:
    made(call, *WHOLE, "-o", "a")
    before = held("a")
    tuned(0.1)
    shutil.copytree(photos, "fewer")
    next(Path("fewer/two").iterdir()).unlink()
    weights = ["tuned.safetensors" if arg == "weights.safetensors" else arg for arg in WHOLE]
    for args, other in (
        (weights, "weights"),
        ([arg if arg != "photos" else "fewer" for arg in WHOLE], "photos"),
        ([*MODEL, "photos", "--layers", "features.1"], "layers"),
        ([*MODEL, "photos", "--layers", "features.4,features.1"], "layers"),
        ([*WHOLE, "--top", "4"], "top"),
        ([*WHOLE, "--mean", ".4"], "normalisation"),
        ([*WHOLE, "--size", "24"], "framing"),
        (
            [*weights, "--top", "1"],
            "weights and top",
        ),
    ):
        line = refused(call, "atlas", *args, "-o", "a")
        assert line == f"a is an atlas of other {other}: give another folder, or delete it first"
    assert held("a") == before
    made(call, *WHOLE, "-o", "a")


def files() -> set[str]:
    """All that is there, but for what SQLite and Python keep beside their files."""
    return {name for name in contents(Path(".")) if not name.startswith(("a/atlas.sqlite-", "__pycache__"))}


def test_a_unit_that_cannot_be_meant_is_one_line(call: Call) -> None:
    made(call, *WHOLE, "-o", "a")
    before = files()
    for args, words in (
        (["nowhere"], "nowhere is no atlas: it has no atlas.sqlite"),
        (["photos"], "photos is no atlas: it has no atlas.sqlite"),
        (["a", "featurs.4"], "unknown layer 'featurs.4'; nearest: features.4, features.1 (of the atlas a)"),
        (["a", "featurs.4:1"], "unknown layer 'featurs.4'; nearest: features.4, features.1 (of the atlas a)"),
        (["a", "features.4:8"], "unit 8 is out of range: features.4 has units 0 to 7"),
        (["a", "features.4:1@0,0"], "'features.4:1@0,0' names no single unit: write LAYER:UNIT, such as features.1:0"),
        (["a", "features.4:1@2,2"], "names no single unit"),
        (["a", "features.4:x"], "'features.4:x' is not a layer or unit"),
        (["a", "--class", "too"], "unknown class 'too'; nearest: two (of the photos of a)"),
        (["a", "features.4", "--order", "size"], "units cannot be ordered by 'size': unit, mean, std, max,"),
        (["a", "features.4:0", "--class", "two"], "--class is of a list of units: leave out the unit, or this"),
        (["a", "features.4:0", *MINE, "--method", "grad-cam"], "grad-cam does not project a unit back"),
        (["a", "features.4:0", *MINE, "--method", "guide"], "unknown method 'guide'; nearest: guided"),
        (["a", "features.4:0", *MINE, "--out", "photos"], "--out photos is a folder; name a file"),
        (["a", "features.4:0", *MINE, "--out", "c/card.xyz"], "c/card.xyz: save as a picture, such as c/card.xyz.png"),
        (["a", "features.4:0", *MINE, "--out", "c/card"], "c/card: save as a picture, such as c/card.png"),
    ):
        assert words in refused(call, "unit", *args)
    assert files() == before
    assert not Path("c").exists()


def test_photos_without_classes_have_none_to_ask_for(call: Call, photos: Path) -> None:
    for i in range(4):
        shutil.copy(photos / f"one/one {i}.png", f"{i}.png")
    Path("list.csv").write_text("path\n0.png\n1.png\n2.png\n3.png\n", "utf-8")
    made(call, *MODEL, "list.csv", *LAYERS, "-o", "a")
    assert refused(call, "unit", "a", "--class", "one") == "the photos of a have no classes"
    assert all(unit.class_name is None and unit.selectivity is None for unit in Atlas("a").units())
    assert call("unit", "a", "features.1:0", *MINE).code == 0


def test_a_full_disk_is_said_and_what_is_done_is_gone_on_with(call: Call) -> None:
    made(call, *WHOLE, "-o", "whole", "--project", "guided")
    with files_of_at_most(2000):
        assert "a" in refused(call, "atlas", *WHOLE, "-o", "a", code=1)
    made(call, *WHOLE, "-o", "a")
    assert not table("a", "SELECT * FROM renders")
    with files_of_at_most(Path("a/atlas.sqlite").stat().st_size + 4096):
        line = refused(call, "atlas", *WHOLE, "-o", "a", "--project", "guided", code=1)
    assert line.endswith("what is there already is kept")
    made(call, *WHOLE, "-o", "a", "--project", "guided")
    query = "SELECT layer, unit, image, what, picture FROM renders ORDER BY layer, unit, image, what"
    assert table("a", query) == table("whole", query)


def test_a_folder_to_compare_into_is_no_file(call: Call) -> None:
    made(call, *WHOLE, "-o", "a")
    assert refused(call, "atlas-diff", "a", "a", "-o", "net.py") == "--out net.py is a file; name a folder"
    assert refused(call, "atlas-diff", "a", "photos") == "photos is no atlas: it has no atlas.sqlite"
    assert refused(call, "atlas-diff", "a").startswith("Missing argument 'AFTER'")
    assert not Path("atlas-diff").exists()
