"""Which photos train, which choose the model and which test it: alike in every class, and never parting a group."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convscope.data.cache import replacing
from convscope.data.listing import NONE, SPLITS, TEST, TRAIN, VAL, WORDS
from convscope.data.quotas import apportion, dense, divide, seeded, units
from convscope.errors import UsageError

COLUMNS = ["photo", "label", "split"]
NOTICED = 0.02  # of the photos; groups shift the shares by less than this nearly always
NAMED = 4  # classes that a remark names before it says "..."


@dataclass(frozen=True)
class Plan:
    """What is asked: ``fractions`` for train, val and test, or a ``subset``, so many photos of every class for each."""

    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    subset: tuple[int, int, int] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        shares = self.fractions
        if not (len(shares) == 3 and abs(sum(shares) - 1) < 1e-6 and min(shares) >= 0 and shares[TRAIN] > 0):
            raise UsageError(f"train, val and test are fractions of 1, and train is not 0: got {_slashes(shares)}")
        if self.subset is not None and not (min(self.subset) >= 0 and self.subset[TRAIN] > 0):
            raise UsageError(f"a subset has at least one photo a class for train: got {_slashes(self.subset)}")

    @property
    def weights(self) -> np.ndarray:
        """int64 "3": the fractions as whole numbers, so that quotas are exact; the counts of a subset."""
        if self.subset is not None:
            return np.array(self.subset, np.int64)
        return np.rint(np.array(self.fractions) * 1e9).astype(np.int64)


def plan(split: str | None, subset: str | None, seed: int) -> Plan:
    """A Plan from a user's words: ``split`` as "70/15/15", ".8/.1/.1" or "80/20", ``subset`` as "1000/500/500". Two
    numbers are train and val."""
    if split is not None and subset is not None:
        raise UsageError(f"a split ({split}) is of all photos and a subset ({subset}) of some: give one of them")
    if subset is not None:
        counts = _three(subset)
        if counts is None or any(count % 1 for count in counts):
            raise UsageError(f"subset {subset!r}: expected photos a class, such as 1000/500/500 or 1000/500 (no test)")
        return Plan(subset=(int(counts[0]), int(counts[1]), int(counts[2])), seed=seed)
    if split is None:
        return Plan(seed=seed)
    shares = _three(split)
    total = sum(shares or ())
    if shares is None or min(abs(total - 1), abs(total / 100 - 1)) > 0.002:  # 33.3/33.3/33.3 is meant well
        wrong = "" if shares is None else f" that make 100 or 1 (these make {total:g})"
        raise UsageError(f"split {split!r}: expected shares{wrong}, such as 70/15/15 or 80/20 (no test)")
    return Plan((shares[0] / total, shares[1] / total, shares[2] / total), seed=seed)


def _three(text: str) -> list[float] | None:
    try:
        numbers = [float(part) for part in text.split("/")]
    except ValueError:
        return None
    if len(numbers) not in (2, 3) or not all(0 <= number < math.inf for number in numbers):
        return None
    return [*numbers, 0.0][:3]


@dataclass(frozen=True, eq=False)
class Assignment:
    """Where each photo goes, and what a person must know about it."""

    of: np.ndarray  # int8 "n": NONE (not used), TRAIN, VAL or TEST
    remarks: tuple[str, ...] = ()


def split(
    labels: np.ndarray,
    classes: Sequence[str],
    plan: Plan,
    *,
    given: np.ndarray,
    groups: np.ndarray | None = None,
    hashes: np.ndarray | None = None,
) -> Assignment:
    """Divide photos by the plan, class by class (largest remainders), keeping the source's own split.

    ``labels`` int32 "n", -1 without one (such photos are not used); ``given`` int8 "n", the source's own split;
    ``groups`` int64 "n", equal numbers stay together, negative ones stand alone; ``hashes`` uint64 "n 2" of the
    content, equal ones stay together. With hashes the result does not depend on the order of the photos. Of a group
    too large for a subset the rest is not used. UsageError: nothing to train on, or a subset larger than a class.
    """
    labelled = labels >= 0
    if not labelled.any():
        raise UsageError(f"of {_photos(len(labels))} none has a label: there is nothing to train on")
    order, content = seeded(plan.seed, hashes, len(labels))
    groups = None if groups is None else dense(groups)
    unit = units(content, groups)
    own = np.where(labelled, given, NONE).astype(np.int8)
    pools = _pools(own)
    told = own if NONE not in pools or len(pools) == 1 else _joined(own, unit, labelled)
    if plan.subset is not None:
        _refuse_small(labels, told, classes, plan.subset, pools)

    of = np.full(len(labels), NONE, np.int8)
    asked, got = np.zeros((2, len(classes), 3), np.int64)
    for start, allowed in pools.items():
        rows = order[(labelled & (told == start))[order]]
        if len(allowed) == 1 and plan.subset is None:
            of[rows] = allowed[0]
            continue
        weights = plan.weights * np.isin((TRAIN, VAL, TEST), allowed)
        counts = np.bincount(labels[rows], minlength=len(classes))
        aim = np.where(counts[:, None] > 0, weights, 0)
        if plan.subset is None:
            aim = apportion(counts, aim, aim > 0)
        of[rows] = divide(labels[rows], unit[rows], aim, exact=plan.subset is not None)
        asked += aim
        got += _count(labels[rows], of[rows], len(classes))
    if not (of == TRAIN).any():
        raise UsageError("the source gives all its photos to val or test: there is nothing to train on")
    remarks = [
        *_about_given(own, told, of, pools, labelled),
        *_about_units(own, content, groups, pools, labelled),
        *_about_groups(asked, got, classes, plan),
        *_about_missing(_count(labels, of, len(classes)), classes, plan, pools),
    ]
    return Assignment(of, tuple(remarks))


def _pools(own: np.ndarray) -> dict[int, tuple[int, ...]]:
    """Where a photo may go, by where the source puts it. At most one kind of photo has a choice."""
    has = {int(kind) for kind in np.unique(own)} - {NONE}
    if has == {TRAIN}:
        return {TRAIN: (TRAIN, VAL, TEST)}
    kept: dict[int, tuple[int, ...]] = {kind: (kind,) for kind in sorted(has)}
    if TRAIN not in has:
        return kept | {NONE: tuple(kind for kind in (TRAIN, VAL, TEST) if kind not in has)}
    return kept if VAL in has else kept | {TRAIN: (TRAIN, VAL)}


def _joined(own: np.ndarray, unit: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """The source's split, followed by photos it puts nowhere that belong to some it puts somewhere."""
    last = np.full(unit.max() + 1, NONE, np.int8)
    np.maximum.at(last, unit, own)
    return np.where(labelled & (own == NONE), last[unit], own)


def _refuse_small(
    labels: np.ndarray,
    told: np.ndarray,
    classes: Sequence[str],
    subset: tuple[int, int, int],
    pools: dict[int, tuple[int, ...]],
) -> None:
    for start, allowed in pools.items():
        asked = sum(subset[kind] for kind in allowed)
        counts = np.bincount(labels[(labels >= 0) & (told == start)], minlength=len(classes))
        if short := int((counts < asked).sum()):
            few = int(counts.argmin())
            where = "" if start == NONE else f" in the source's {SPLITS[start]}"
            others = f" ({short - 1:,} more classes have too few)" if short > 1 else ""
            wish = _slashes([subset[kind] for kind in allowed])
            raise UsageError(
                f"class {classes[few]!r} has {_photos(int(counts[few]))}{where}, {asked:,} ({wish}) are asked for: "
                f"ask for fewer{others}"
            )
    for kind in (VAL, TEST):
        if subset[kind] and not any(kind in allowed for allowed in pools.values()):
            wish = f"{_photos(subset[kind])} a class are asked for {SPLITS[kind]}"
            raise UsageError(f"{wish}, and the source's own split has no {SPLITS[kind]}: ask for 0")


# --- what a person must know


def _about_given(
    own: np.ndarray, told: np.ndarray, of: np.ndarray, pools: dict[int, tuple[int, ...]], labelled: np.ndarray
) -> Iterable[str]:
    if missing := int((~labelled).sum()):
        yield f"{_photos(missing)} without a label: not used"
    if set(pools) == {NONE}:
        return
    parts = []
    if kept := [kind for kind, allowed in pools.items() if allowed == (kind,)]:
        parts.append(f"{_and(kept)} {'are' if len(kept) > 1 else 'is'} the source's own")
    for start in pools.keys() - set(kept):
        rows = labelled & (told == start)
        found = [kind for kind in pools[start] if (of[rows] == kind).any()]
        what = "photos that the source gives no split" if start == NONE else f"photos of the source's {SPLITS[start]}"
        if found:
            parts.append(f"{_and(found)} {'come' if len(found) > 1 else 'comes'} from the {rows.sum():,} {what}")
    if followed := int((told != own).sum()):
        parts.append(f"{_photos(followed)} that the source gives no split: where their group or copy is")
    if set(pools) == {TRAIN, VAL}:
        parts.append("there is no test")
    if NONE not in pools and (lost := int((labelled & (own == NONE)).sum())):
        parts.append(f"{_photos(lost)} that the source gives no split: not used")
    yield "; ".join(parts)


def _about_units(
    own: np.ndarray,
    content: np.ndarray,
    groups: np.ndarray | None,
    pools: dict[int, tuple[int, ...]],
    labelled: np.ndarray,
) -> Iterable[str]:
    if leaks := _straddling(content, own):
        yield f"{_photos(leaks)} in more than one of the source's splits (same content): nothing was moved"
    if groups is not None and (leaks := _straddling(groups, own)):
        yield f"{leaks:,} groups in more than one of the source's splits: nothing was moved"
    for start, allowed in pools.items():
        free = content[labelled & (own == start)]
        if len(allowed) > 1 and (copies := len(free) - np.count_nonzero(np.bincount(free))):
            yield f"{_photos(int(copies))} with the same content as another: copies are kept together"


def _straddling(ids: np.ndarray, own: np.ndarray) -> int:
    """How many of the ids occur in more than one of the source's splits."""
    low, high = np.full(ids.max() + 1, TEST, np.int8), np.full(ids.max() + 1, TRAIN, np.int8)
    placed = own != NONE
    np.minimum.at(low, ids[placed], own[placed])
    np.maximum.at(high, ids[placed], own[placed])
    return int((low < high).sum())


def _about_groups(asked: np.ndarray, got: np.ndarray, classes: Sequence[str], plan: Plan) -> Iterable[str]:
    if plan.subset is not None:
        texts = [
            f"class {classes[c]!r} has {got[c, kind]:,} of {asked[c, kind]:,} for {SPLITS[kind]}"
            for c, kind in np.argwhere(got < asked)
        ]
        if texts:
            yield f"photos that stay together leave too few: {_some(texts)}"
        return
    wish, has = asked.sum(0), got.sum(0)
    if np.abs(wish - has).max() > NOTICED * wish.sum():
        kinds = np.flatnonzero(wish + has)
        shares = ["/".join(f"{100 * n / wish.sum():.0f}" for n in counts[kinds]) for counts in (has, wish)]
        names = "/".join(SPLITS[kind] for kind in kinds)
        yield f"photos that stay together: {names} are {shares[0]} % of the photos, not {shares[1]} %"


def _about_missing(
    counts: np.ndarray, classes: Sequence[str], plan: Plan, pools: dict[int, tuple[int, ...]]
) -> Iterable[str]:
    """Classes that a split lacks, of the splits that there are."""
    there = [
        kind
        for kind in (TRAIN, VAL, TEST)
        if counts[:, kind].any() or (plan.weights[kind] and any(kind in allowed for allowed in pools.values()))
    ]
    lacks = counts[:, there] == 0
    for pattern in np.unique(lacks[lacks.any(1)], axis=0):
        found = np.flatnonzero((lacks == pattern).all(1))
        without = _and([kind for kind, lack in zip(there, pattern, strict=True) if lack])
        names = [repr(classes[c]) for c in found[: NAMED + 1]]
        total = int(counts[found[0]].sum())
        if len(found) > 1:
            yield f"{len(found):,} classes have no photo in {without}: {_some(names, len(found))}"
        elif total:
            having = [kind for kind, lack in zip(there, pattern, strict=True) if not lack]
            yield (
                f"class {names[0]} has {_photos(total)}: {_and(having)} {'has' if len(having) == 1 else 'have'} "
                f"{'it' if total == 1 else 'them'}, {without} {'does' if pattern.sum() == 1 else 'do'} not"
            )
        else:
            yield f"class {names[0]} has no photo in {without}"


def _count(labels: np.ndarray, of: np.ndarray, classes: int) -> np.ndarray:
    """int64 "classes 3": how many photos of each class each split has."""
    return np.bincount(labels[of >= 0] * 3 + of[of >= 0], minlength=classes * 3).reshape(classes, 3)


def _slashes(numbers: Iterable[float]) -> str:
    return "/".join(f"{number:g}" for number in numbers)


def _photos(count: int) -> str:
    return f"{count:,} photo" + ("" if count == 1 else "s")


def _and(kinds: Sequence[int]) -> str:
    names = [SPLITS[kind] for kind in kinds]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _some(texts: Sequence[str], count: int | None = None) -> str:
    return ", ".join(texts[:NAMED]) + (", ..." if (count or len(texts)) > NAMED else "")


# --- the file


def write_split(
    path: str | os.PathLike[str],
    names: Iterable[str],
    labels: np.ndarray,
    classes: Sequence[str],
    assignment: Assignment,
) -> None:
    """Write ``split.csv``: photo, label and split of every photo, both empty where there is none. All of it or nothing
    is written."""
    with (
        replacing(Path(path)) as draft,
        open(draft, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        plain = csv.writer(file, lineterminator="\n")
        quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        plain.writerow(COLUMNS)
        for name, label, kind in zip(names, labels.tolist(), assignment.of.tolist(), strict=True):
            row = (name, classes[label] if label >= 0 else "", SPLITS[kind] if kind >= 0 else "")
            (quoted if "\r" in name or "\r" in row[1] else plain).writerow(row)  # csv leaves a lone \r bare


def read_split(path: str | os.PathLike[str]) -> tuple[list[str], list[str], np.ndarray]:
    """Names, labels ("" without one) and splits (int8 "n": NONE, TRAIN, VAL or TEST) of a file of write_split, edited
    by hand perhaps. UsageError: it cannot be read, or a line says something else."""
    names, labels, of = [], [], []
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = csv.reader(file, strict=True)
            if next(lines, None) != COLUMNS:
                raise UsageError(f"split {path}: the first line is not {','.join(COLUMNS)}")
            for line in filter(None, lines):
                word = line[2].strip().casefold() if len(line) == 3 else "?"
                if word and word not in WORDS:
                    wanted = "photo,label,split, the last train, val, test or empty"
                    raise UsageError(f"split {path}, line {lines.line_num}: expected {wanted}")
                names.append(line[0])
                labels.append(line[1])
                of.append(WORDS.get(word, NONE))
    except OSError as error:
        raise UsageError(f"split {path}: cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise UsageError(f"split {path}, line {lines.line_num}: not CSV ({error})") from None
    return names, labels, np.array(of, np.int8)


def assigned_by(path: str | os.PathLike[str], names: Sequence[str]) -> Assignment:
    """The split that a file of write_split gives to these photos, by their names; what it does not name is not used.

    UsageError: it names none of them, or none to train on.
    """
    listed, _, of = read_split(path)
    place = dict(zip(listed, of.tolist(), strict=True))
    found = np.array([place.get(name, NONE) for name in names], np.int8)
    if not (found == TRAIN).any():
        raise UsageError(f"split {path}: it gives none of these photos to train: is it of others?")
    absent = sum(name not in place for name in names)
    return Assignment(found, (f"{_photos(absent)} that {path} does not name: not used",) if absent else ())
