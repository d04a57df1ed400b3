"""What a user adds to what a source says of itself, and how it is applied: the same way for every kind of source."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from convscope.data.listing import NONE, WORDS, Listing, Refused
from convscope.data.sources.entries import some
from convscope.data.store import Store
from convscope.errors import UsageError, unknown
from convscope.images.read import printable

ROLES = ("path", "label", "group", "split")
INTEGER = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source. Each is of use for some kinds of source, and refused for the others.

    ``columns`` names a table's columns by what they hold (path, label, group, split); ``root`` is where a list's paths
    begin, or a named set lies; ``group`` is a regular expression that is searched in each photo's name (its path below
    the source): photos of which its first group that takes part, or without groups the whole match, is the same belong
    together; ``classes`` are the names in the order of the labels; ``download`` fetches a named set that is not there.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    root: Path | None = None
    group: str | None = None
    classes: tuple[str, ...] | None = None
    download: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> SourceOptions:
        """From keywords of Python's, of which a path may be a text and the classes any sequence."""
        known = {one.name for one in fields(cls)}
        for name in given:
            if name not in known:
                raise unknown("option of a source", name, known)
        made = {name: value for name, value in given.items() if value is not None}
        if "root" in made:
            made["root"] = Path(made["root"])
        if isinstance(made.get("classes"), str):
            raise UsageError(f"classes are a list of names, not the text {made['classes']!r}")
        if "classes" in made:
            made["classes"] = tuple(map(str, made["classes"]))
        return cls(**made)

    def __post_init__(self) -> None:
        for role in self.columns:
            if role not in ROLES:
                raise unknown("column", role, ROLES)
        if self.group is not None:
            if "group" in self.columns:
                raise UsageError("what belongs together is said by a column or by a regular expression, not by both")
            try:
                re.compile(self.group)
            except re.error as error:
                raise UsageError(f"the group {self.group!r} is no regular expression: {error}") from None
        if self.classes is not None and (not self.classes or not all(name.strip() for name in self.classes)):
            raise UsageError("classes are names, none of them empty")
        if self.classes is not None and len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise UsageError(f"the class {twice!r} is named twice")


PLAIN = SourceOptions()


def listed(
    source: str,
    kind: str,
    store: Store,
    labels: Iterable[str | None],
    options: SourceOptions = PLAIN,
    *,
    splits: Sequence[str | None] | None = None,
    groups: Sequence[str] | None = None,
    refused: Sequence[Refused] = (),
    remarks: Sequence[str] = (),
    classes: Sequence[str] | None = None,
) -> Listing:
    """A listing from what a source says in words, to which the options were applied.

    ``classes``: the names in order, where the source gives them; the user's go before. Otherwise they are those that
    occur, in the order of numbers if all are numbers, else of the alphabet. UsageError if no photo is in it, a label is
    not among the classes, or a class has no proper name.
    """
    shown = printable(source)
    if not len(store):
        raise UsageError(f"{shown}: no photo is left{_first(refused)}")
    notes = list(remarks)
    if options.group is not None:
        groups, remark = _belonging(source, store.names, options.group)
        notes += remark
    words = list(labels)
    known = _known({word for word in words if word is not None}, options.classes or classes, shown)
    index: dict[str | None, int] = {name: i for i, name in enumerate(known)} | {None: -1}
    given = np.full(len(words), NONE, np.int8)
    if splits is not None:
        given = np.array([NONE if split is None else _split(split, shown) for split in splits], np.int8)
    numbers: dict[str, int] = {}
    return Listing(
        shown,
        kind,
        store,
        known,
        np.array([index[word] for word in words], np.int32),
        given,
        None if groups is None else np.array([numbers.setdefault(g, len(numbers)) for g in groups], np.int64),
        tuple(refused),
        tuple(notes),
    )


def _known(found: set[str], classes: Sequence[str] | None, source: str) -> tuple[str, ...]:
    """The classes in their order. UsageError if a label is none of them, or one has no proper name."""
    known = tuple(classes) if classes is not None else tuple(_ordered(found))
    if strange := sorted(found - set(known)):
        more = ", ...)" if len(known) > 6 else ")"
        raise UsageError(
            f"{source}: {strange[0]!r} is not among the {len(known)} classes ({', '.join(known[:6])}{more}"
        )
    if broken := [name for name in known if not decoded(name)]:
        raise UsageError(f"{source}: the class {printable(broken[0])} is not UTF-8 text; rename it")
    return known


def _ordered(names: Iterable[str]) -> list[str]:
    """In the order of numbers if all are, else of the alphabet: the same in every process."""
    names = sorted(names)
    if all(name.isascii() and name.isdecimal() and len(name) < 19 for name in names):
        names.sort(key=int)
    return names


def _split(word: str, source: str) -> int:
    if word.strip().casefold() not in WORDS:
        raise UsageError(f"{source}: {word!r} is no split: train, val or test")
    return WORDS[word.strip().casefold()]


def _first(refused: Sequence[Refused]) -> str:
    if not refused:
        return ""
    name, reason, _ = refused[0]
    return f" of {len(refused):,}; the first, {printable(name)}: {reason}"


def _belonging(source: str, names: Iterable[str], pattern: str) -> tuple[list[str], list[str]]:
    """Which group each name is in, by the regular expression, and a remark on those that stand alone."""
    search = re.compile(pattern).search
    groups: list[str] = []
    alone: list[str] = []
    for i, name in enumerate(names):
        match = search(name)
        taking_part = [text for text in match.groups() if text is not None] if match else []
        found = (taking_part or [match[0]])[0] if match else ""
        if not found:
            alone.append(name)
        groups.append(found or f"\0{i}")  # no name holds a null
    if len(alone) == len(groups):
        raise UsageError(
            f"{printable(source)}: the group {pattern!r} matches none of {len(groups):,} names, such as "
            f"{printable(alone[0])}"
        )
    return groups, [f"{len(alone):,} names do not match the group and stand alone: {some(alone, 3)}"] if alone else []


def by_index(source: str, labels: Iterable[str | None], options: SourceOptions) -> tuple[list[str | None], list[str]]:
    """Labels by the names that the user gives; where all are integers, they index into these, as a remark says.

    If all labels are names already, they stay, so that a class may be called "7". UsageError for an index out of range.
    """
    words = list(labels)
    found = set(words) - {None}
    classes = options.classes
    if classes is None or found <= set(classes) or not all(INTEGER.fullmatch(str(word)) for word in found):
        return words, []  # `listing` says which name is not among the classes
    index = {word: int(str(word)) for word in found}
    strange = [word for word in dict.fromkeys(words) if word is not None and not 0 <= index[word] < len(classes)]
    if strange:
        raise UsageError(
            f"{printable(source)}: label {strange[0]} is out of range: {len(classes)} classes are named, "
            f"for labels 0 to {len(classes) - 1}"
        )
    remark = f"integer labels are indices: {min(index.values())} is {classes[min(index.values())]}"
    return [None if word is None else classes[index[word]] for word in words], [remark] if found else []


def decoded(text: str) -> bool:
    """Whether a text is free of bytes that are no UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)
