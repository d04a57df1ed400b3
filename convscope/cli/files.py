"""Output files: written beside their place, put there whole once all went well; a failure leaves what was there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from convscope.cli.output import counted, note
from convscope.cli.process import uninterrupted
from convscope.errors import ConvscopeError, UsageError
from convscope.images.own import MARK, make_own

DRAFT = ".convscope-"
PICTURES = (".png", ".jpg", ".jpeg", ".webp")
LAST = ("report.html", "summary.json")  # what speaks of the other files comes after them


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder to write into. At the end each file takes its place in ``out``, over one of the same name."""
    made: list[Path] = []
    draft: Path | None = None
    try:
        with _writing(out):
            if out.exists() and not out.is_dir():
                raise UsageError(f"--out {out} is a file; name a folder")
            made = _missing(out)
            make_own(out)
            # Inside of the folder, so that it is the same file system and no more rights are needed.
            _sweep(out)
            draft = Path(tempfile.mkdtemp(prefix=f"{DRAFT}{os.getpid()}-", dir=out))
            with _by_its_place(draft, out):
                yield draft
            with uninterrupted():
                _put_in_place(draft, out)
    finally:
        with uninterrupted():
            if draft is not None:
                shutil.rmtree(draft, ignore_errors=True)
            for folder in made:
                _remove_if_empty(folder)


@contextmanager
def placed(out: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``out`` at the end."""
    made: list[Path] = []
    draft: Path | None = None
    try:
        with _writing(out):
            if out.is_dir():
                raise UsageError(f"--out {out} is a folder; name a file")
            made = _missing(out.parent)
            out.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=".convscope-", suffix=out.suffix, dir=out.parent)
            os.close(handle)
            draft = Path(name)
            with _by_its_place(draft, out):
                yield draft
            _give_usual_rights(draft)
            os.replace(draft, out)
    finally:
        with uninterrupted():
            if draft is not None:
                draft.unlink(missing_ok=True)
            for folder in made:
                _remove_if_empty(folder)


def only(draft: Path, folders: Collection[str]) -> None:
    """Take out of a draft the folders of photos that did not come to their end."""
    for place in draft.iterdir():
        if place.is_dir() and place.name not in folders:
            shutil.rmtree(place)


def _sweep(out: Path) -> None:
    """Remove the drafts of processes that were killed."""
    for place in out.glob(f"{DRAFT}*"):
        owner = place.name.removeprefix(DRAFT).partition("-")[0]
        if owner.isdigit() and not _runs(int(owner)):
            shutil.rmtree(place, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is somebody else's
        pass
    return True


def files_in(draft: Path) -> set[Path]:
    """The files of this run, as they will lie in its folder."""
    return {file.relative_to(draft) for file in draft.rglob("*") if file.is_file()}


def remark_left_over(out: Path, own: set[Path]) -> None:
    """Say what earlier runs left beside this one's files."""
    if old := left_over(out, own):
        note(f"{out} also holds {counted(len(old), 'result')} of earlier runs, such as {old[0]}")


def left_over(out: Path, own: set[Path]) -> list[Path]:
    """What earlier runs left in ``out``: folders ``index-class``, or parts of them, that hold no file of this run."""
    used = {parent for file in own for parent in (file, *file.parents)}
    found = (place.relative_to(out) for pattern in ("", "/*") for place in out.glob(f"[0-9][0-9][0-9]*-*{pattern}"))
    return sorted(place for place in found if place not in used and (place.parent in used or not place.parent.name))


def _put_in_place(draft: Path, out: Path) -> None:
    files = files_in(draft)
    for file in files:  # nothing is moved unless everything can be
        folders = [out / parent for parent in file.parents]
        wrong = [place for place in folders if place.exists() and not place.is_dir()]
        wrong += [out / file] if (out / file).is_dir() else []
        if wrong:
            raise ConvscopeError(f"{wrong[0]} is in the way: move it, or choose another --out")
    for file in sorted(files, key=lambda file: (file.name in LAST, str(file))):
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        _give_usual_rights(draft / file)
        os.replace(draft / file, out / file)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, BrokenPipeError) or not _concerns(out, error.filename):
            raise
        blocked = isinstance(error, (FileExistsError, NotADirectoryError))
        reason = "a file is where a folder should be" if blocked else error.strerror or error
        raise ConvscopeError(f"cannot write {out}: {reason}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # its name for a full disk
            raise
        raise ConvscopeError(f"cannot write {out}: {error}") from error


@contextmanager
def _by_its_place(draft: Path, out: Path) -> Iterator[None]:
    """Errors name the place that the user gave, not the draft."""
    try:
        yield
    except ConvscopeError as error:
        error.args = (str(error).replace(str(draft), str(out)),)
        raise


def _concerns(out: Path, name: object) -> bool:
    """Whether a file that could not be written is of ``out``, on the way to it or a draft beside it."""
    if not isinstance(name, (str, Path)):
        return name is None  # a full disk names no file
    place, goal = Path(name).absolute(), out.absolute()
    return place.is_relative_to(goal.parent) or goal.is_relative_to(place)


def _missing(folder: Path) -> list[Path]:
    """The folders on the way that are not there yet, the deepest first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


def _remove_if_empty(folder: Path) -> None:
    """A mark alone is nothing."""
    with suppress(OSError):
        if [place.name for place in folder.iterdir()] == [MARK]:
            (folder / MARK).unlink()
        folder.rmdir()


def _give_usual_rights(file: Path) -> None:
    """Temporary files, and those of safetensors, are their owner's alone; results are as readable as any new file."""
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)
