"""One progress and cancel contract for every long job.

A job writes ``for item in track(items, "occlusion")`` and knows nothing of terminals. Whoever started it may listen
with ``with reporting(ConsoleProgress()):`` or stop it with ``reporting(cancel=...)``; without a listener it is silent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Protocol, TextIO, TypeVar

from convscope.errors import Cancelled

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Items(Protocol[T_co]):
    """What a job goes through: once, unless it is weighed."""

    def __iter__(self) -> Iterator[T_co]: ...

    def __len__(self) -> int: ...


class Progress(Protocol):
    """Who listens to a job. Jobs may nest; ``end`` always comes, also after an exception."""

    def begin(self, label: str, total: int) -> None: ...

    def advance(self, done: int) -> None: ...

    def end(self) -> None: ...


_listener: ContextVar[tuple[Progress | None, Callable[[], bool] | None]] = ContextVar("listener", default=(None, None))


@contextmanager
def reporting(progress: Progress | None = None, *, cancel: Callable[[], bool] | None = None) -> Iterator[None]:
    """Let ``progress`` listen to the jobs inside, and end them with ``Cancelled`` once ``cancel()`` is true."""
    token = _listener.set((progress, cancel))
    try:
        yield
    finally:
        _listener.reset(token)


@contextmanager
def reporting_unless_listened() -> Iterator[None]:
    """Show long jobs on the console, unless someone listens already."""
    if _listener.get() != (None, None):
        yield
        return
    with reporting(ConsoleProgress()):
        yield


def shown(wanted: bool) -> AbstractContextManager[None]:
    """As ``reporting_unless_listened``, if that is wanted."""
    return reporting_unless_listened() if wanted else nullcontext()


@contextmanager
def unheard() -> Iterator[None]:
    """Of many jobs inside one that is shown already: nobody is told of them, but they can be cancelled."""
    token = _listener.set((None, _listener.get()[1]))
    try:
        yield
    finally:
        _listener.reset(token)


def cancelled() -> bool:
    """Whether the listener wants the job to end: for one that has something to put in order before it does."""
    cancel = _listener.get()[1]
    return cancel is not None and cancel()


def track(
    items: Items[T], label: str, *, weigh: Callable[[T], int] | None = None, stoppable: bool = True
) -> Iterator[T]:
    """Yield ``items``, telling the listener after each how many of ``weigh``'s units are done.

    ``stoppable``: False for a job that looks at ``cancelled`` itself.
    """
    progress, cancel = _listener.get()
    cancel = cancel if stoppable else None
    if progress is None and cancel is None:
        yield from items
        return
    if progress is not None:
        progress.begin(label, len(items) if weigh is None else sum(weigh(item) for item in items))
    try:
        for item in items:
            if cancel is not None and cancel():
                raise Cancelled(f"{label} was cancelled")
            yield item
            if progress is not None:
                progress.advance(1 if weigh is None else weigh(item))
    finally:
        if progress is not None:
            progress.end()


class ConsoleProgress:
    """A bar with time left on a terminal, a plain line every few seconds elsewhere; jobs under a second say nothing."""

    def __init__(self, stream: TextIO | None = None, *, patience: float = 1.0, every: float = 5.0) -> None:
        self.stream = stream or sys.stderr
        self.patience = patience
        self.every = every
        self._jobs: list[_Job] = []
        self._bars: Any = None

    def begin(self, label: str, total: int) -> None:
        job = _TerminalJob if self.stream.isatty() else _PlainJob
        self._jobs.append(job(self, label, total))

    def advance(self, done: int) -> None:
        self._jobs[-1].advance(done)

    def end(self) -> None:
        self._jobs.pop().end()
        if not self._jobs and self._bars is not None:
            self._bars.stop()
            self._bars = None

    def open_bars(self) -> None:
        """A bar for each job there is: a terminal shows nested jobs together, the outermost first."""
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=Console(file=self.stream), transient=True)
            self._bars.start()
        for job in self._jobs:
            job.open(self._bars)


class _Job:
    def __init__(self, console: ConsoleProgress, label: str, total: int) -> None:
        self.console, self.label, self.total = console, label, total
        self.done = 0
        self.start = time.monotonic()

    def advance(self, done: int) -> None:
        self.done += done
        self.show(time.monotonic() - self.start)

    def show(self, seconds: float) -> None:
        raise NotImplementedError

    def open(self, bars: Any) -> None:
        """Join the bars of a terminal; plain lines have none."""

    def end(self) -> None:
        raise NotImplementedError


class _PlainJob(_Job):
    def __init__(self, console: ConsoleProgress, label: str, total: int) -> None:
        super().__init__(console, label, total)
        self.next = console.every

    def show(self, seconds: float) -> None:
        if seconds >= self.next and 0 < self.done < self.total:
            left = seconds / self.done * (self.total - self.done)
            print(f"{self.label}: {self.done}/{self.total}, {left:.0f} s left", file=self.console.stream, flush=True)
            self.next = seconds + self.console.every

    def end(self) -> None:
        seconds = time.monotonic() - self.start
        if seconds >= self.console.every:
            how = "in" if self.done >= self.total else "and stopped, after"
            line = f"{self.label}: {self.done}/{self.total} {how} {seconds:.0f} s"
            print(line, file=self.console.stream, flush=True)


class _TerminalJob(_Job):
    def __init__(self, console: ConsoleProgress, label: str, total: int) -> None:
        super().__init__(console, label, total)
        self.bars: Any = None

    def show(self, seconds: float) -> None:
        if self.bars is None and seconds >= self.console.patience:
            self.console.open_bars()
        if self.bars is not None:
            self.bars.update(self.task, completed=self.done)

    def open(self, bars: Any) -> None:
        if self.bars is None:
            self.bars = bars
            self.task = bars.add_task(self.label, total=self.total, completed=self.done)

    def end(self) -> None:
        if self.bars is not None:
            self.bars.remove_task(self.task)
