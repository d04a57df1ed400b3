"""What commands print: results on stdout (tables or JSON), remarks on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

_stdout: TextIO | None = None


@contextmanager
def results_only() -> Iterator[None]:
    """Keep stdout for results: what anything else prints inside, such as a user's module, goes to stderr."""
    global _stdout
    before, _stdout = _stdout, sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _stdout = before


def stdout() -> TextIO:
    return _stdout or sys.stdout


def say(text: str = "") -> None:
    """A line of the result."""
    print(text, file=stdout(), flush=True)


def note(text: str) -> None:
    """A remark for people, which is no part of the result."""
    print(f"convscope: {text}", file=sys.stderr, flush=True)


def emit(value: Any) -> None:
    """The result as JSON, alone on stdout."""
    encoding = (getattr(stdout(), "encoding", None) or "utf-8").lower().replace("-", "")
    say(as_json(value, ascii_only=encoding != "utf8"))


def as_json(value: Any, *, ascii_only: bool = False) -> str:
    return json.dumps(plain(value), indent=2, ensure_ascii=ascii_only, allow_nan=False)


def plain(value: Any) -> Any:
    """Plain types for JSON, which knows no NaN and no infinity: null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Collection[str] = (), group: bool = False
) -> None:
    """Rows under a head. On a terminal a drawn table that folds; elsewhere aligned text, nothing shortened.

    ``right``: columns of numbers. ``group``: rows that share their first cell belong together.
    """
    if not rows:
        return
    if stdout() is not None and stdout().isatty():
        _drawn(head, rows, right, group)
        return
    from rich.cells import cell_len  # a Chinese character takes two places on a terminal, an accent of its own none

    widths = [max(cell_len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for row in (head, *rows):
        cells = []
        for name, cell, width in zip(head, row, widths, strict=True):
            gap = " " * (width - cell_len(cell))
            cells.append(gap + cell if name in right else cell + gap)
        say("  ".join(cells).rstrip())


def _drawn(head: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str], group: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in head:
        drawn.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for before, row in zip([None, *rows], rows, strict=False):
        same = group and before is not None and before[0] == row[0]
        if group and before is not None and not same:
            drawn.add_section()
        drawn.add_row(*(Text("" if same and i == 0 else cell) for i, cell in enumerate(row)))
    Console(file=stdout()).print(drawn)


def bytes_in_words(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(1, round(count / 1e3))} kB"


def counted(count: int, one: str) -> str:
    return f"{count:,} {one}" + ("" if count == 1 else "s")
