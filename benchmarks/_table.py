"""The table a benchmark prints: what is demanded, what was measured, ok or MISSED; and what each script is told."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field


def options(question: str) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    parser = argparse.ArgumentParser(description=question)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and cases, for a first look")
    return parser


@dataclass
class Table:
    """Lines of a benchmark, printed as they come. ``finish`` ends the script, with 1 where a demand was missed."""

    question: str
    width: int = 58
    missed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        print(f"\n{self.question}")
        print(f"{'':{self.width}}{'measured':>14}  demand")

    def at_most(self, what: str, measured: float, bound: float, unit: str = "x") -> None:
        """A measured number that must not pass ``bound``."""
        self._demand(what, measured, f"at most {bound:g} {unit}", measured <= bound, unit)

    def at_least(self, what: str, measured: float, bound: float, unit: str = "x") -> None:
        """A measured number that must reach ``bound``."""
        self._demand(what, measured, f"at least {bound:g} {unit}", measured >= bound, unit)

    def note(self, what: str, measured: float | str, unit: str = "x") -> None:
        """A number without a demand: a peer's, or one for orientation."""
        self._line(what, measured, unit, "")

    def _demand(self, what: str, measured: float, demand: str, met: bool, unit: str) -> None:
        if not met:
            self.missed.append(what)
        self._line(what, measured, unit, f"{demand:22}{'ok' if met else 'MISSED'}")

    def _line(self, what: str, measured: float | str, unit: str, demand: str) -> None:
        value = measured if isinstance(measured, str) else f"{measured:.{2 if measured < 100 else 0}f} {unit}"
        print(f"{what:{self.width}}{value:>14}  {demand}".rstrip(), flush=True)

    def finish(self) -> None:
        if self.missed:
            print(f"\n{len(self.missed)} missed: " + "; ".join(self.missed))
            sys.exit(1)
        print("\nevery demand is met")
