"""The database: what is put in comes out in order; readers see whole transactions; failures lose nothing."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from convscope.atlas.store import COLUMNS, FILE, ORDERS, SCHEMA, Store
from convscope.errors import ConvscopeError, UsageError

ROOT = Path(__file__).resolve().parents[2]
LAYERS = [
    (0, "features.0", "Conv2d", 3, 12, 10, "exact", 3, 3, 1.0, 1.0),
    (1, "head", "Linear", 2, None, None, "whole", 24, 20, None, None),
]
UNITS = [  # mean, std, max, active, quantiles, selectivity, class, dead, duplicate of
    (0, 0, 0.5, 1.0, 9.0, 0.4, 0.1, 0.5, 2.0, 0.25, 1, 0, None),
    (0, 1, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, None, None, 1, None),
    (0, 2, 0.5, 1.0, 9.0, 0.4, 0.1, 0.5, 2.0, 0.75, 0, 0, 0),
    (1, 0, -3.0, 2.0, 4.0, 0.2, -5.0, -3.0, 1.0, 0.5, 1, 0, None),
    (1, 1, 3.0, 2.0, 8.0, 0.9, 1.0, 3.0, 6.0, 0.5, 0, 0, None),
]
IMAGES = [
    (0, "a.png", 1, 24, 20, "00ff", None, None, None, None),
    (1, "ünder — b.png", None, 30, 20, "01", "x.tar", 512, 99, None),
    (2, "c\udcff.png", 0, None, None, None, "y\udcfe.tar", 0, 1, "torn"),  # no UTF-8
]
PATCHES = [
    (0, 0, "top", 1, 0, 7.5, 3, 4),
    (0, 0, "top", 0, 1, 9.0, 11, 9),
    (0, 0, "random", 0, 0, 7.5, 3, 4),
    (1, 0, "top", 0, 1, 4.0, None, None),
]


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path, write=True)
    with store.transaction():
        store.set_meta({"model": "net", "top": 9, "notes": ["one", "ä"]})
        rows = {"images": IMAGES, "classes": [(0, "cat"), (1, "dog")], "layers": LAYERS, "units": UNITS}
        for table, some in (rows | {"patches": PATCHES, "neighbours": [(0, 0, 0, 2, 0.99)]}).items():
            store.put(table, some)
    store.close()
    return tmp_path


@pytest.fixture
def store(folder):
    found = Store(folder)
    yield found
    found.close()


def test_what_is_put_in_comes_out(store):
    assert store.meta() == {"schema": SCHEMA, "model": "net", "top": 9, "notes": ["one", "ä"]}
    assert [tuple(row.values()) for row in store.images()] == IMAGES
    assert [tuple(row.values()) for row in store.layers()] == LAYERS
    assert store.classes() == ["cat", "dog"]
    assert tuple(store.unit(0, 2).values()) == UNITS[2]
    assert store.image(1)["name"] == "ünder — b.png"
    assert store.unit(0, 3) is store.image(7) is None
    assert [(row["other"], row["correlation"]) for row in store.neighbours(0, 0)] == [(2, 0.99)]


def test_patches_come_by_kind_and_rank_with_the_names_of_their_photos(store):
    found = [(row["kind"], row["rank"], row["name"], row["value"], row["row"]) for row in store.patches(0, 0)]
    assert found == [
        ("random", 0, "a.png", 7.5, 3),
        ("top", 0, "ünder — b.png", 9.0, 11),
        ("top", 1, "a.png", 7.5, 3),
    ]
    assert store.patches(1, 0)[0]["col"] is None


NOBODY = """
import os, sys
from pathlib import Path
from convscope.atlas.store import Store
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
store = Store(Path(sys.argv[1]))
print(store.classes(), store.unit(0, 2)["selectivity"])
"""


def test_it_is_read_where_nothing_can_be_written(folder):
    """Also one that was left in the midst of a reader's work, whose marks on the disk are not there."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        shutil.copy(folder / FILE, place)
        with closing(sqlite3.connect(Path(place, FILE))) as opened:
            opened.execute("PRAGMA journal_mode = WAL")
        os.chmod(Path(place, FILE), 0o444)
        os.chmod(place, 0o555)
        done = subprocess.run(
            [sys.executable, "-c", NOBODY, place], capture_output=True, text=True, check=False, cwd=ROOT
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['cat', 'dog'] 0.75\n"


def test_a_closed_store_is_one_file(folder):
    assert {file.name for file in folder.iterdir()} == {FILE}


@pytest.mark.parametrize("order", ORDERS)
def test_units_come_in_order_the_unknown_last_and_ties_by_number(store, order):
    found = store.units(order, None, None, None)
    at = COLUMNS["units"].index(order)

    def place(row):
        return (row[at] is None, -(row[at] or 0), row[0], row[1]) if order != "unit" else row[:2]

    assert [(row["layer"], row["unit"]) for row in found] == [row[:2] for row in sorted(UNITS, key=place)]
    assert found[0]["address"] in ("features.0", "head")


def test_units_of_a_layer_of_a_class_and_living_ones(store):
    def of(**asked):
        rows = store.units("unit", **{"layer": None, "class_": None, "dead": None, **asked})
        return [(row["layer"], row["unit"]) for row in rows]

    assert of(layer=0) == [(0, 0), (0, 1), (0, 2)]
    assert of(class_=1) == [(0, 0), (1, 0)]
    assert of(layer=0, class_=0) == [(0, 2)]
    assert of(dead=True) == [(0, 1)]
    assert len(of(dead=False)) == 4
    with pytest.raises(UsageError, match="cannot be ordered by 'name; DROP TABLE units'"):
        store.units("name; DROP TABLE units", None, None, None)


def test_readers_see_what_was_committed_while_more_is_written(folder, store):
    builder = Store(folder, write=True)
    with builder.transaction():
        builder.put("classes", [(2, "cow")])
        assert store.classes() == ["cat", "dog"], "not yet committed"
    assert store.classes() == ["cat", "dog", "cow"]
    builder.close()


def test_a_transaction_that_fails_leaves_nothing(folder):
    builder = Store(folder, write=True)
    with pytest.raises(ZeroDivisionError), builder.transaction():
        builder.put("classes", [(0, "horse"), (5, 1 // 0)] if builder.put("classes", [(7, "cow")]) is None else ())
    assert builder.classes() == ["cat", "dog"]
    with builder.transaction():
        builder.put("classes", [(0, "horse")])
    assert builder.classes() == ["horse", "dog"]
    builder.close()


def test_a_full_disk_leaves_a_readable_atlas(folder):
    builder = Store(folder, write=True)
    pages = builder._open.execute("PRAGMA page_count").fetchone()[0]
    builder._open.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(ConvscopeError, match="full; what is there already is kept"), builder.transaction():
        builder.put("patches", ((0, 1, "top", rank, 0, 1.0, 0, 0) for rank in range(10_000)))
    assert len(Store(folder).patches(0, 0)) == 3
    builder.close()


def test_a_builder_that_is_killed_leaves_what_it_committed(folder):
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom convscope.atlas.store import Store\n"
        "store = Store(Path(sys.argv[1]), write=True)\n"
        "with store.transaction(): store.put('classes', [(2, 'cow')])\n"
        "store._open.execute('BEGIN IMMEDIATE')\nstore.put('classes', [(3, 'ant')])\nos._exit(9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(folder)], check=False).returncode == 9
    assert Store(folder).classes() == ["cat", "dog", "cow"]
    again = Store(folder, write=True)
    with again.transaction():
        again.put("classes", [(3, "bee")])
    assert again.classes()[-1] == "bee"


def test_what_is_no_atlas_says_so(tmp_path):
    with pytest.raises(UsageError, match=r"is no atlas: it has no atlas\.sqlite"):
        Store(tmp_path)
    (tmp_path / FILE).touch()
    with pytest.raises(UsageError, match="no atlas yet"):
        Store(tmp_path)
    (tmp_path / FILE).write_bytes(b"something else altogether" * 100)
    with pytest.raises(ConvscopeError, match="not a database"):
        Store(tmp_path)
    (tmp_path / FILE).unlink()
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("CREATE TABLE songs (name)")
    with pytest.raises(UsageError, match="schema"):
        Store(tmp_path)
    with pytest.raises(UsageError, match="schema"):
        Store(tmp_path, write=True)


def test_an_atlas_of_another_version_is_not_misread(folder):
    builder = Store(folder, write=True)
    builder.set_meta({"schema": SCHEMA + 1})
    builder.close()
    with pytest.raises(UsageError, match=f"has schema {SCHEMA + 1}, this convscope reads {SCHEMA}"):
        Store(folder)


def test_readers_write_nothing(store):
    with pytest.raises(ConvscopeError, match="readonly"):
        store.put("classes", [(4, "ox")])
