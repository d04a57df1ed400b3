"""Results: tables, the files they go into, and the page that holds all of it."""

import csv
import json
import math
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from PIL import Image

from convscope.errors import UsageError
from convscope.models.classes import Classes
from convscope.studies import STUDIES, configure
from convscope.studies.registry import register
from convscope.studies.result import Figure, Result, Table, earlier_files, in_words, result
from convscope.studies.subject import Album
from tests.nets import classifier_of, photos, vgg_like

COLUMNS = {"name": "what it is called", "count": "how many", "share": "of all, 0 to 1", "sure": "whether it is"}
ROWS = [("a, b", 1200, 1 / 3, True), ("<b>", 0, math.nan, None)]


def drawing():
    from matplotlib.figure import Figure as Drawn

    figure = Drawn(figsize=(3, 2))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def album():
    names = Classes(("cat", "dog", "<script>", "d"))
    return Album.of(classifier_of(vgg_like(), classes=names), photos(2, 3, 22, 27), label="<script>")


def made():
    tables = [Table("one", "The first & only", COLUMNS, ROWS), Table("two", "Another", {"n": "number"}, [(1,)])]
    study = configure("invariance", {"steps": 3})
    figures = [Figure("chart", 'A "chart" <of> it', drawing)]
    return result(study, "What <it> is", 7, album(), tables, figures, ["a < b"], ["mind & body"])


def test_a_table_is_read_back_from_its_csv_digit_for_digit():
    rows = list(csv.reader(made().table("one").csv().splitlines()))
    assert rows == [["name", "count", "share", "sure"], ["a, b", "1200", repr(1 / 3), "True"], ["<b>", "0", "", ""]]


def test_a_table_as_records_and_words():
    table = made().table()
    assert table.records()[1] == {"name": "<b>", "count": 0, "share": None, "sure": None}
    assert table.texts() == [("a, b", "1,200", "0.333", "yes"), ("<b>", "0", "", "")]
    assert table.numeric == ["count", "share", "sure"]
    assert table.column("count") == [1200, 0]
    assert in_words(1234567.0) == "1.23e+06"


def test_unknown_names_are_said_with_the_nearest():
    with pytest.raises(UsageError, match="unknown table 'on'; nearest: one"):
        made().table("on")
    with pytest.raises(UsageError, match="unknown figure 'chat'; nearest: chart"):
        made().picture("chat")
    with pytest.raises(UsageError, match="unknown column of one 'shar'; nearest: share"):
        made().table().column("shar")


def test_the_files(tmp_path):
    files = made().save(tmp_path / "out")
    wanted = ["one.csv", "two.csv", "chart.png", "chart.svg", "report.html", "result.json"]
    assert [file.name for file in files] == wanted
    assert all(file.parent == tmp_path / "out" for file in files)
    told = json.loads((tmp_path / "out" / "result.json").read_text())
    assert told["tables"]["one"]["rows"][0] == {"name": "a, b", "count": 1200, "share": 1 / 3, "sure": True}
    assert (told["seed"], told["study"], told["settings"]["steps"]) == (7, "invariance", 3)
    assert told["photos"] == [{"name": f"image {i}", "class": "<script>", "known": True} for i in range(2)]
    with Image.open(tmp_path / "out" / "chart.png") as picture:
        assert picture.width == pytest.approx(450, abs=2)
    assert ElementTree.parse(tmp_path / "out" / "chart.svg").getroot().tag.endswith("svg")


def test_what_an_earlier_result_left_goes_and_nothing_else(tmp_path):
    first = made()
    first.save(tmp_path)
    (tmp_path / "mine.csv").write_text("a\n")
    later = replace(first, tables=first.tables[:1], figures=(), _drawn={})
    kept = {file.name for file in later.save(tmp_path)}
    assert {file.name for file in tmp_path.iterdir()} == kept | {"mine.csv"}
    (tmp_path / "result.json").write_text(json.dumps({"tables": ["../mine", "mine/../mine"], "figures": []}))
    assert earlier_files(tmp_path) == set()
    (tmp_path / "result.json").write_text(json.dumps({"tables": "ab", "figures": {}}))
    assert earlier_files(tmp_path) == set()


def test_a_result_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    first = made()
    first.save(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def broken():
        raise RuntimeError("no ink")

    later = replace(first, title="another", figures=[Figure("broken", "", broken)], _drawn={})
    with pytest.raises(RuntimeError, match="no ink"):
        later.save(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_folder_in_the_way_is_said_before_anything_is_moved(tmp_path):
    (tmp_path / "two.csv").mkdir()
    with pytest.raises(UsageError, match=r"two\.csv is a folder and in the way"):
        made().save(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["two.csv"]


def test_the_same_result_gives_the_same_bytes(tmp_path):
    for place in ("a", "b"):
        made().save(tmp_path / place)
    for name in ("one.csv", "chart.png", "chart.svg", "result.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_page_holds_all_and_takes_nothing_for_markup(tmp_path):
    made().save(tmp_path)
    page = (tmp_path / "report.html").read_text()
    for text in ("What &lt;it&gt; is", "a &lt; b", "mind &amp; body", "The first &amp; only", "<td>&lt;b&gt;</td>"):
        assert text in page
    assert "0.333" in page
    assert "<script>" not in page
    assert "data:image/" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_notebook_gets_the_first_figure():
    assert made()._repr_png_().startswith(b"\x89PNG")
    bare = made()
    assert Result(**{**vars(bare), "figures": ()})._repr_png_() is None
    assert repr(bare) == "<invariance: a < b>"
    assert made().plot().get_size_inches().tolist() == [3, 2]


def test_a_table_as_a_data_frame():
    frame = made().table().to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert frame["count"].tolist() == [1200, 0]


def test_a_new_study_is_one_class(monkeypatch):
    monkeypatch.setattr("convscope.studies.registry.STUDIES", dict(STUDIES))
    from convscope.studies import registry

    @register("mine", of="photos", paper="of my own")
    class Mine:
        """Mine."""

        def run(self, album, seed=0):
            return None

    assert registry.STUDIES["mine"] is Mine
    assert (Mine.name, Mine.traits.of, Mine.traits.fewest) == ("mine", "photos", 1)
    assert registry.configure("mine") == Mine()
    with pytest.raises(UsageError, match="unknown study 'occlusoin'; nearest: occlusion"):
        configure("occlusoin")


@pytest.mark.parametrize("name", [name for name, study in STUDIES.items() if study.traits.of == "photos"])
def test_every_study_of_photos_says_what_it_is(name):
    study = STUDIES[name]
    first = study.__doc__.splitlines()[0]
    assert first.endswith((".", "?"))
    assert any(year in first for year in map(str, range(1990, 2030))), "the first line names the paper"
