"""The errors a user can cause or meet. Each is one line that says what was wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class ConvscopeError(Exception):
    """Something failed that is not a bug; the command line prints it as one line and exits with ``exit_code``."""

    exit_code = 1


class UsageError(ConvscopeError):
    """What was asked cannot be meant: an unknown name, a value out of range, options that contradict each other."""

    exit_code = 2


class ModelError(ConvscopeError):
    """A model or its weights could not be loaded, or it does not behave as a classifier."""


class ImageError(ConvscopeError):
    """A photo could not be read."""


class Inapplicable(UsageError):
    """A method cannot explain this target by this layer; another may."""


class RuleError(ConvscopeError):
    """A backward rule could not be applied to the whole network, so its result would silently be something else."""


class Cancelled(ConvscopeError):
    """A long job was cancelled through its progress. ``on``: how to go on with it, where that can be."""

    exit_code = 130

    def __init__(self, told: str, on: str = "") -> None:
        super().__init__(f"{told}; {on}" if on else told)
        self.on = on


def first_line(error: Exception) -> str:
    """What torch or a network says, in one line."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def out_of_memory(error: Exception) -> bool:
    """Python's, a GPU's, or torch's on the CPU, which has no type of its own."""
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    return named or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def some(names: Sequence[str], most: int = 6) -> str:
    """The first of many names, in one line."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def unknown(kind: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """A UsageError for an unknown ``name``, with the nearest known ones."""
    names = [str(n) for n in known]
    lowered = {n.lower(): n for n in names}
    near = [lowered[n] for n in difflib.get_close_matches(name.lower(), list(lowered), n=4, cutoff=0.5)]
    near += [n for n in names if name and name.lower() in n.lower() and n not in near][: 4 - len(near)]
    if near:
        found = f"; nearest: {', '.join(near)}"
    elif len(names) <= 12:
        found = f"; known: {', '.join(names)}" if names else "; there are none"
    else:
        found = ""
    return UsageError(f"unknown {kind} {name!r}{found}" + (f" ({hint})" if hint else ""))
