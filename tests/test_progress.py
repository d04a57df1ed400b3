"""Progress on a terminal and elsewhere; jobs inside of jobs."""

from __future__ import annotations

import io
import re

import pytest

from convscope.errors import Cancelled
from convscope.progress import ConsoleProgress, reporting, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nested_jobs_share_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    console = ConsoleProgress(stream, patience=0)
    with reporting(console):
        for _ in track(range(2), "photos"):
            for _ in track(range(3), "occlusion"):
                pass
            assert console._bars is not None
            assert [task.description for task in console._bars.tasks] == ["photos"]
    assert console._bars is None
    shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", stream.getvalue())
    assert "photos" in shown
    assert "occlusion" in shown


def test_an_error_takes_the_bars_down() -> None:
    console = ConsoleProgress(Terminal(), patience=0)
    with pytest.raises(Cancelled), reporting(console, cancel=lambda: console._bars is not None):
        for _ in track(range(5), "photos"):
            pass
    assert console._bars is None


def test_elsewhere_there_are_plain_lines() -> None:
    stream = io.StringIO()
    with reporting(ConsoleProgress(stream, every=0)):
        for _ in track(["a", "b"], "photos"):
            pass
    first, last = stream.getvalue().splitlines()
    assert re.fullmatch(r"photos: 1/2, \d+ s left", first)
    assert re.fullmatch(r"photos: 2/2 in \d+ s", last)
