"""The registry of checks. A check is one function in one file, registered under its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from convscope.errors import UsageError, unknown

if TYPE_CHECKING:
    from convscope.studies.diagnosis.finding import Checkup
    from convscope.studies.diagnosis.patient import Patient

Examine: TypeAlias = "Callable[[Patient], Checkup]"


@dataclass(frozen=True)
class Check:
    """``labels``: it needs photos whose class is known. ``answers``: it asks what the network makes of photos, so there
    is nothing to see in one that answers the same to all."""

    name: str
    run: Examine
    labels: bool = False
    answers: bool = False


CHECKS: dict[str, Check] = {}


def check(name: str, *, labels: bool = False, answers: bool = False) -> Callable[[Examine], Examine]:
    """Make a function the check called ``name``."""

    def enter(run: Examine) -> Examine:
        CHECKS[name] = Check(name, run, labels, answers)
        return run

    return enter


def chosen(names: Sequence[str]) -> list[Check]:
    """The checks of these names; all where none is named."""
    for name in names:
        if name not in CHECKS:
            raise unknown("check", name, CHECKS)
    if len(set(names)) < len(names):
        raise UsageError(f"checks names one twice: {', '.join(names)}")
    return [CHECKS[name] for name in names or CHECKS]
