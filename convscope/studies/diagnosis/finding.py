"""What a check finds, what it measured, and what it looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from convscope.studies.result import Cell, Figure


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. ``what``: its kind. ``where``: layer, unit, class or photo. ``number``: what was
    measured, beyond the ``threshold`` that has this ``reason`` if it is a fault. ``change``: one thing to try.
    ``figure``: the name of the picture that shows it. ``fault``: to be mended; else a remark, which a sound network may
    have too.
    """

    what: str
    where: str
    number: float
    threshold: float
    reason: str
    change: str
    figure: str
    fault: bool = True

    def __str__(self) -> str:
        kind = "" if self.fault else " (a remark)"
        limit = f"threshold {self.threshold:.3g}: {self.reason}"
        return f"{self.what}{kind}: {self.where}: {self.number:.3g} ({limit}). Try: {self.change}."


@dataclass(frozen=True)
class Measure:
    """A number that a check took, whatever came of it. ``threshold``: beyond it, it is a finding; None: beside it."""

    where: str
    what: str
    number: float
    threshold: float | None = None


@dataclass(frozen=True, eq=False)
class Checkup:
    """What a check came to. ``seen``: what it looked at, for a clean bill; empty where it could not look.

    ``notes``: what it left out, and why.
    """

    seen: str
    findings: Sequence[Finding] = ()
    measures: Sequence[Measure] = ()
    figures: Sequence[Figure] = ()
    notes: Sequence[str] = ()

    @classmethod
    def left_out(cls, why: str) -> Checkup:
        return cls("", notes=[why])


COLUMNS = {
    "severity": "fault: to be mended; remark: a sound network may have it too",
    "check": "the check that found it",
    "finding": "what is wrong",
    "where": "layer, unit, class or photo",
    "number": "what was measured",
    "threshold": "beyond which it is a finding",
    "reason": "why that threshold",
    "change": "one thing to try",
    "figure": "the figure that shows it",
}


def as_row(check: str, found: Finding) -> tuple[Cell, ...]:
    """A finding in the order of ``COLUMNS``."""
    severity = "fault" if found.fault else "remark"
    numbers = found.number, found.threshold
    return (severity, check, found.what, found.where, *numbers, found.reason, found.change, found.figure)
