"""The process around a command: errors become one line and an exit code, signals an orderly end."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from convscope.errors import Cancelled, ConvscopeError, out_of_memory

REASONS = {"SIGINT": "interrupted", "SIGTERM": "ended by SIGTERM", "SIGHUP": "ended: the terminal was closed"}
LESS = {  # what a command can do with less memory
    "train": "try a smaller --batch-size or --size",
    "explain": "try a smaller --size, or a smaller budget, as in --set occlusion.budget=128",
    "visualize": "try a smaller --budget or --canvas",
    "atlas": "try fewer --layers, or a smaller --size",
    "check": "check the folders of photos one at a time",
}
BROKEN_PIPE = 141  # what a shell calls the end by SIGPIPE


class Ended(SystemExit):
    """A signal asks for the end. Raised wherever the program is, so that every ``finally`` on the way runs."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.reason = REASONS[signal.Signals(signum).name]


def run(args: Sequence[str]) -> int:
    """The whole command line for ``args``; the exit code. What it raises is a bug, and shows its traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # file names hold anything, terminals do not show it all
    try:
        with ended_by_signals():
            code = _invoke(args)
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
    except Ended as end:
        complain(end.reason)
        return int(str(end.code))
    except ConvscopeError as error:
        complain(f"error: {error}")
        return error.exit_code
    except BrokenPipeError:
        _forget_stdout()
        return BROKEN_PIPE
    except Exception as error:
        line = _not_a_bug(error, args)
        if line is None:
            raise
        complain(f"error: {line}")
        return getattr(error, "exit_code", 1)


def complain(line: str) -> None:
    """One line on stderr, whatever it holds."""
    with suppress(OSError):  # where nobody reads it, nothing is left to tell
        print(f"convscope: {' '.join(line.splitlines())}", file=sys.stderr, flush=True)


def _invoke(args: Sequence[str]) -> int:
    from convscope.cli.app import Invocation, app

    try:
        return int(app(list(args), prog_name="convscope", standalone_mode=False, obj=Invocation(args)) or 0)
    except SystemExit as end:
        # Click answers a broken pipe with exit 1; how it came to end is our own matter.
        if isinstance(end, Ended) or not isinstance(end.__context__, BrokenPipeError):
            raise
        raise end.__context__ from None


def _not_a_bug(error: Exception, args: Sequence[str]) -> str | None:
    """The line for what the user can mend, though it is no ConvscopeError."""
    import typer

    if isinstance(error, typer.BadParameter.__mro__[2]):  # click's own errors, whichever click typer brings
        context = getattr(error, "ctx", None)
        hint = f" (`{context.command_path} --help` explains)" if context is not None else ""
        message: Any = error.format_message()  # type: ignore[attr-defined]
        return str(message).rstrip(".") + hint
    if out_of_memory(error):
        return f"out of memory: {LESS.get(_command(args), 'try a smaller --size')}"
    if isinstance(error, OSError) and error.filename is None:  # such as a full disk behind stdout
        return f"writing failed: {error.strerror or error}"
    return None


def _command(args: Sequence[str]) -> str:
    """Which command was called; what follows it may have a command's name too, such as a folder train."""
    from convscope.cli.app import app

    names = {command.callback.__name__ for command in app.registered_commands if command.callback is not None}
    return next((arg for arg in args if arg in names), "")


def _forget_stdout() -> None:
    """Python flushes stdout once more at its end, which must not fail again."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_held = 0
_waiting: list[int] = []


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGINT, SIGTERM and SIGHUP raise ``Ended``; those that are ignored (nohup) stay so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _waiting.clear()
    before = {}
    for name in REASONS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(signum: int, _: Any) -> None:
    if _held and not (_asked and _waiting):  # who asks twice does not want to wait
        _waiting.append(signum)
    else:
        raise Ended(signum)


_asked = False


@contextmanager
def asked_to_end() -> Iterator[Callable[[], bool]]:
    """For a job that comes to an orderly end by itself: a signal makes the function true, a second one ends at once.

    The job raises ``Cancelled``; what comes out is ``Ended``.
    """
    global _held, _asked
    _held, _asked = _held + 1, True
    try:
        yield lambda: bool(_waiting)
    except Cancelled:
        if not _waiting:
            raise
        raise Ended(_waiting.pop()) from None
    finally:
        _held, _asked = _held - 1, False
    if _waiting and not _held:
        raise Ended(_waiting.pop())


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals wait until the block is done: for putting files in place and for cleaning up."""
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1
    if _waiting and not _held:
        raise Ended(_waiting.pop())
