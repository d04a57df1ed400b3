"""The small parts of the command line: values, tables, staged files, the allocator, shared options."""

from __future__ import annotations

import ctypes
import io
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pytest
import typer

from convscope.cli import allocator, output
from convscope.cli.activations import parsed_channels, within
from convscope.cli.files import left_over, placed, staged
from convscope.cli.findings import slug
from convscope.cli.options import grouped
from convscope.cli.values import assignment, canvas, listed_layers, numbers
from convscope.errors import ConvscopeError, UsageError
from convscope.images.own import MARK


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a=1", 1),
        ("a=.5", 0.5),
        ("a=true", True),
        ("a=None", None),
        ("a=(2, 3)", (2, 3)),
        ("a=same", "same"),
        ("a=x=y", "x=y"),
        ("a=", ""),
    ],
)
def test_assignment(text: str, value: Any) -> None:
    assert assignment("--option", text) == ("a", value)


def test_values() -> None:
    assert numbers("--mean", ".5,0.25, 1") == [0.5, 0.25, 1]
    assert canvas("224") == 224
    assert canvas("96x128") == (96, 128)
    for bad in ("0", "96x0", "x", "1x2x3", "-5", "2.5"):
        with pytest.raises(UsageError, match="--size"):
            canvas(bad)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("features.*,@last_conv", ["features.*", "@last_conv"]),
        ("conv:0,5-7,other", ["conv:0,5-7", "other"]),
        ("@stage:0,3", ["@stage:0", "3"]),
        ("0,3,6", ["0", "3", "6"]),
        (" a , b ", ["a", "b"]),
    ],
)
def test_layers_between_commas(text: str, parts: list[str]) -> None:
    assert listed_layers(text) == parts


def test_channels() -> None:
    assert within(parsed_channels("all"), 3, "x") == [0, 1, 2]
    assert within(parsed_channels("2"), 3, "x") == [0, 1]
    assert within(parsed_channels("64"), 3, "x") == [0, 1, 2]
    assert within(parsed_channels("2-5,0-0,2"), 4, "x") == [2, 3, 0]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("tiger cat", "tiger-cat"),
        ("Käse/../x", "käse-..-x"),
        ("../..", "unnamed"),
        ("features.28:113@7,4", "features.28-113@7,4"),
        ("", "unnamed"),
        ("a" * 300, "a" * 60),
    ],
)
def test_slug(text: str, name: str) -> None:
    assert slug(text) == name


def test_json_knows_no_nan() -> None:
    value = {"a": (1.0, math.nan, -math.inf), "path": Path("x"), 3: None, "ä": True}
    assert json.loads(output.as_json(value)) == {"a": [1.0, None, None], "path": "x", "3": None, "ä": True}
    assert output.as_json(["ä"], ascii_only=True).isascii()


ROWS = [("a" * 90, "12"), ("a" * 90, "3"), ("b name [bold]", "1,234")]


def test_a_table_for_a_pipe_is_aligned_and_whole(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "n"), ROWS, right=("n",), group=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "a" * 90 + "     12"
    assert lines[2] == "a" * 90 + "      3"
    assert len({len(line) for line in lines}) == 1


def test_columns_are_aligned_by_the_places_that_characters_take(capsys: pytest.CaptureFixture[str]) -> None:
    """A Chinese character takes two places on a terminal, a letter with an accent of its own one."""
    names = {"cat": 3, "猫": 2, "고양이": 6, "e\u0301te\u0301": 3, "แมวน้ำ": 5, "🐱": 2}
    output.table(("class", "n", "name"), [(name, "7", name) for name in names], right=("n",))
    head, *lines = capsys.readouterr().out.splitlines()
    assert head == "class   n  name"
    for line, (name, wide) in zip(lines, names.items(), strict=True):
        assert line == f"{name}{' ' * (6 - wide)}  7  {name}"
    output.table(("n", "name"), [(name, "x") for name in names], right=("n",))
    for line, (name, wide) in zip(capsys.readouterr().out.splitlines()[1:], names.items(), strict=True):
        assert line == f"{' ' * (6 - wide)}{name}  x"


def test_a_table_for_a_terminal_folds_and_shows_a_group_once(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", "60")
    output.table(("name", "n"), ROWS, right=("n",), group=True)
    drawn = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue())
    assert drawn.count("a") == 90 + len("na")  # once, folded, and in the two other words that have one
    assert "[bold]" in drawn
    assert max(len(line) for line in drawn.splitlines()) <= 60


def test_staged_files_take_their_places_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with staged(out) as draft:
        (draft / "x").mkdir()
        (draft / "x" / "y.txt").write_text("1")
        (draft / "x" / "y.txt").chmod(0o600)
        assert {file.name for file in out.iterdir()} == {draft.name, MARK}
    assert (out / "x" / "y.txt").read_text() == "1"
    (tmp_path / "usual").touch()
    assert (out / "x" / "y.txt").stat().st_mode == (tmp_path / "usual").stat().st_mode
    with pytest.raises(ZeroDivisionError), staged(out) as draft:  # noqa: PT012
        (draft / "x").mkdir()
        (draft / "x" / "y.txt").write_text("2")
        raise ZeroDivisionError
    assert (out / "x" / "y.txt").read_text() == "1"
    assert [file.name for file in out.iterdir() if file.name != MARK] == ["x"]


def test_errors_of_other_files_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), staged(tmp_path / "deep" / "out"):
        Path("/nowhere/at/all").read_text()
    with pytest.raises(ConvscopeError, match=r"cannot write .*out"), staged(tmp_path / "out") as draft:
        (draft / "a" / "b").write_text("")
    assert list(tmp_path.iterdir()) == []


def test_a_placed_file_is_as_readable_as_any(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with placed(tmp_path / "f.png") as draft:
        draft.write_text("new")
    assert (tmp_path / "f.png").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_earlier_runs_left(tmp_path: Path) -> None:
    for name in ("000-cat/grad-cam/x", "000-cat/guided/x", "001-dog/rise/x", "photos/x", "1234-owl/a/x"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    found = left_over(tmp_path, {Path("000-cat/grad-cam/x"), Path("report.html")})
    assert [str(place) for place in found] == ["000-cat/guided", "001-dog", "1234-owl"]


def test_the_allocator_is_tuned_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, int]] = []
    refused: set[int] = set()

    def mallopt(what: int, value: int) -> int:
        calls.append((what, value))
        return int(what not in refused)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=mallopt))
    monkeypatch.setattr(allocator, "_is_glibc", lambda: True)
    assert allocator.apply("tuned") == "tuned (freed memory is kept for reuse)"
    assert calls == [(-1, 2**31 - 1), (-4, 0)]
    refused.add(-4)
    assert not allocator.tune()
    assert calls[-1] == (-1, allocator.TRIM_AT_FIRST)  # the first taken back
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    assert not allocator.tune()
    monkeypatch.setattr(allocator, "_is_glibc", lambda: False)
    assert allocator.apply("tuned").startswith("default")
    assert allocator.apply("default") == "default"


@dataclass(frozen=True, kw_only=True)
class Group:
    first: Annotated[str, typer.Argument()]
    second: Annotated[int, typer.Option()] = 3


def test_options_of_a_group_become_a_commands_own(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def command(group: Group, third: Annotated[bool, typer.Option("--third")] = False) -> None:
        """What it does."""
        print("noise")
        seen.append((group, third))

    app = typer.Typer()
    app.command()(grouped(command))
    app(["x", "--second", "4", "--third"], standalone_mode=False)
    assert seen == [(Group(first="x", second=4), True)]
    assert capsys.readouterr() == ("", "noise\n")
