"""A batch of photos, one by one: a bad one is skipped, remembered, and told of at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from convscope.cli.output import counted, note
from convscope.cli.process import Ended, uninterrupted
from convscope.errors import Cancelled, ConvscopeError, UsageError

if TYPE_CHECKING:
    from convscope.images.read import Photo
    from convscope.scope import Scope

T = TypeVar("T")


@dataclass(frozen=True)
class Failure:
    """A photo that could not be done (or one method on it), and why."""

    photo: str
    reason: str
    method: str | None = None


@dataclass
class Batch:
    """The photos that names, folders and globs mean.

    ``alone``: the error of an only photo is the command's own; otherwise it is told like that of any other.
    """

    scope: Scope
    sources: Sequence[str]
    alone: bool = True
    failures: list[Failure] = field(default_factory=list)
    total: int = 0
    ended: Ended | None = None

    def each(self, work: Callable[[int, Photo], T]) -> Iterator[T]:
        """``work(index, photo)`` for each photo that can be read."""
        from convscope.images.read import read_photo
        from convscope.progress import track

        found = list(self._found())
        self.total = len(found)
        for index, (name, place) in enumerate(track(found, "photos") if self.total > 1 else found):
            try:
                if isinstance(place, ConvscopeError):
                    raise place
                done = self._worked(work, index, read_photo(place, background=self.scope.background))
            except ConvscopeError as error:
                if (self.total == 1 and self.alone) or isinstance(error, (Cancelled, _Everywhere)):
                    raise
                self.failures.append(Failure(name, str(error)))
                continue
            yield done

    def all(self, work: Callable[[int, Photo], T], keep: Callable[[T], None] = lambda _: None) -> list[T]:
        """``each``, as far as it comes: a signal ends it, and what is done by then is kept."""
        found = []
        try:
            for done in self.each(work):
                with uninterrupted():
                    keep(done)
                    found.append(done)
        except Ended as end:
            if not found:
                raise
            self.ended = end
        return found

    def _worked(self, work: Callable[[int, Photo], T], index: int, photo: Photo) -> T:
        fixed = self.scope.classifier.framing.size is not None
        try:
            with explained_size(self.scope, photo):
                return work(index, photo)
        except UsageError as error:
            if fixed:  # on canvases that are all alike, what cannot be meant for one cannot for any
                raise _Everywhere(str(error)) from None
            raise

    def _found(self) -> Iterator[tuple[str, Path | ConvscopeError]]:
        """The photos by name, each once; for a name that means none, why."""
        from convscope.images.read import find_photos

        seen: set[Path] = set()
        for source in self.sources:
            try:
                photos = find_photos([source])
            except ConvscopeError as error:
                yield source, error
                continue
            yield from ((str(photo), photo) for photo in photos if photo not in seen)
            seen.update(photos)

    def tell(self) -> int:
        """Say what failed and why; the exit code."""
        from convscope.images.read import printable

        for failure in self.failures:
            name = printable(failure.photo)
            where = f"{name}: " if name not in failure.reason else ""
            note(where + (f"{failure.method}: " if failure.method else "") + failure.reason)
        lost = {failure.photo for failure in self.failures if failure.method is None}
        if lost:
            note(f"{len(lost)} of {counted(self.total, 'photo')} failed")
        if self.ended is not None:
            note(f"stopped before the end of {counted(self.total, 'photo')}; what was done by then is kept")
            raise self.ended
        return 1 if self.failures else 0


class _Everywhere(UsageError):
    """A usage error that every photo would meet."""


@contextmanager
def explained_size(scope: Scope, photo: Photo | None = None, option: str = "--size") -> Iterator[None]:
    """A network whose input size nobody said often breaks on the first photo: say that instead of torch's words.

    It is asked once more, with a blank of that size: what does not come of it is a bug, and stays.
    """
    from convscope.instrument.canvas import REFUSALS, check_canvas

    try:
        yield
    except REFUSALS:
        own = scope.classifier.framing.size
        seen = (photo.image.height, photo.image.width) if photo is not None and own is None else None
        check_canvas(scope.classifier, seen, f"{option} sets the canvas")
        raise
