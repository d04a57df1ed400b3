"""Progress and cancelling of long jobs: in order, always ended, quiet where nobody waits."""

import io
import os
import pty
import re

import pytest

from convscope.errors import Cancelled
from convscope.progress import ConsoleProgress, reporting, reporting_unless_listened, track


class Notes:
    """Writes down what it is told."""

    def __init__(self):
        self.said = []

    def begin(self, label, total):
        self.said.append(("begin", label, total))

    def advance(self, done):
        self.said.append(("advance", done))

    def end(self):
        self.said.append("end")


def test_told_in_order():
    notes = Notes()
    with reporting(notes):
        assert list(track(["a", "bb"], "job", weigh=len)) == ["a", "bb"]
    assert notes.said == [("begin", "job", 3), ("advance", 1), ("advance", 2), "end"]


def test_an_item_is_done_when_the_next_is_asked_for():
    notes = Notes()
    with reporting(notes):
        for i in track(range(2), "job"):
            assert notes.said.count(("advance", 1)) == i


def test_nobody_listens():
    assert list(track(range(3), "job")) == [0, 1, 2]
    notes = Notes()
    with reporting(notes):
        pass
    assert list(track(range(3), "job")) == [0, 1, 2]
    assert notes.said == []


def test_jobs_nest():
    notes = Notes()
    with reporting(notes):
        for _ in track(range(2), "outer"):
            for _ in track([0], "inner"):
                pass
    inner = [("begin", "inner", 1), ("advance", 1), "end", ("advance", 1)]
    assert notes.said == [("begin", "outer", 2), *inner, *inner, "end"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_end_comes_also_after_an_error(error):
    notes = Notes()

    def work():
        for i in track(range(3), "outer"):
            for _ in track(range(3), "inner"):
                if i == 1:
                    raise error

    with reporting(notes), pytest.raises(error):
        work()
    assert notes.said[-5:] == ["end", ("advance", 1), ("begin", "inner", 3), "end", "end"]
    assert list(track([1], "after")) == [1]
    assert notes.said[-1] == "end"


def test_the_end_comes_when_the_rest_is_left():
    notes = Notes()
    with reporting(notes):
        for _ in track(range(3), "job"):
            break
    assert notes.said == [("begin", "job", 3), "end"]


def test_cancelling():
    notes, done = Notes(), []

    def work():
        for i in track(range(5), "masks"):
            done.append(i)

    with reporting(notes, cancel=lambda: len(done) == 2), pytest.raises(Cancelled, match=r"^masks was cancelled$"):
        work()
    assert done == [0, 1]
    assert notes.said == [("begin", "masks", 5), ("advance", 1), ("advance", 1), "end"]
    work()
    assert len(done) == 7, "cancelling went on after its block"


def test_cancelling_reaches_nested_jobs_and_needs_no_listener():
    stop = []

    def work():
        for _ in track(range(2), "outer"):
            stop.append(1)
            list(track(range(2), "inner"))

    with reporting(cancel=lambda: bool(stop)), pytest.raises(Cancelled, match="inner"):
        work()
    with reporting(cancel=lambda: True), pytest.raises(Cancelled, match="outer"):
        work()


def test_listeners_are_restored():
    outer, inner = Notes(), Notes()
    with reporting(outer):
        with reporting(inner):
            list(track([1], "one"))
        list(track([1], "two"))
    assert inner.said[0] == ("begin", "one", 1)
    assert outer.said[0] == ("begin", "two", 1)


# --- the console


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("convscope.progress.time.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def run(clock, stream, seconds, items=10):
    with reporting(ConsoleProgress(stream)):
        for _ in track(range(items), "occlusion"):
            clock.now += seconds / items


def test_lines_where_there_is_no_terminal(clock):
    stream = io.StringIO()
    run(clock, stream, 20)
    assert stream.getvalue().splitlines() == [
        "occlusion: 3/10, 14 s left",
        "occlusion: 6/10, 8 s left",
        "occlusion: 9/10, 2 s left",
        "occlusion: 10/10 in 20 s",
    ]
    assert not re.search(r"[\x1b\r]", stream.getvalue())


@pytest.mark.parametrize("seconds", [0.0, 0.9])
def test_short_jobs_say_nothing(clock, seconds):
    stream = io.StringIO()
    run(clock, stream, seconds)
    assert stream.getvalue() == ""


def test_items_without_weight(clock):
    stream = io.StringIO()
    with reporting(ConsoleProgress(stream)):
        for _ in track([0, 0, 1], "job", weigh=lambda item: item):
            clock.now += 10
    assert stream.getvalue() == "job: 1/1 in 30 s\n"


def terminal(clock, seconds, work=run):
    """What a terminal is sent."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        assert stream.isatty()
        work(clock, stream, seconds)
    sent = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            part = b""
        if not part:
            break
        sent += part
    os.close(ours)
    return sent.decode()


def test_a_bar_on_a_terminal(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    sent = terminal(clock, 20)
    assert "occlusion" in sent
    assert re.search(r"\d+/10", sent)
    assert sent.count("\x1b[?25l") == sent.count("\x1b[?25h") == 1, "the cursor was hidden and not shown again"
    assert terminal(clock, 0.9) == ""


def test_bars_nest(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")

    def work(clock, stream, seconds):
        with reporting(ConsoleProgress(stream)):
            for _ in track(range(3), "photos"):
                for _ in track(range(3), "masks"):
                    clock.now += seconds

    sent = terminal(clock, 2, work)
    assert "photos" in sent
    assert "masks" in sent
    assert sent.count("\x1b[?25l") == sent.count("\x1b[?25h")


def test_a_bar_is_taken_down_after_an_error(clock, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")

    def fail(clock, seconds):
        for i in track(range(3), "photos"):
            clock.now += seconds
            _ = 1 // (2 - i)

    def work(clock, stream, seconds):
        with reporting(ConsoleProgress(stream)), pytest.raises(ZeroDivisionError):
            fail(clock, seconds)

    sent = terminal(clock, 2, work)
    assert sent.count("\x1b[?25l") == sent.count("\x1b[?25h") == 1


def test_the_console_listens_unless_someone_does(clock, capsys):
    with reporting_unless_listened():
        for _ in track(range(2), "job"):
            clock.now += 4
    assert capsys.readouterr().err == "job: 2/2 in 8 s\n"
    notes = Notes()
    with reporting(notes), reporting_unless_listened():
        for _ in track(range(2), "job"):
            clock.now += 4
    assert len(notes.said) == 4
    assert capsys.readouterr().err == ""
