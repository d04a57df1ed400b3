"""Prediction: the class probabilities of photos, and the most probable classes by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from convscope.errors import UsageError
from convscope.models.classes import Classes
from convscope.types import Logits


@dataclass(frozen=True)
class Entry:
    """One class of a prediction."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class Prediction(Sequence[Any]):
    """Probabilities of one or several photos, "b classes". Indexing gives one photo's."""

    probabilities: Logits
    classes: Classes
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.probabilities)

    def __getitem__(self, row: Any) -> Prediction:
        rows = range(len(self))[row]
        kept = [rows] if isinstance(rows, int) else list(rows)
        return Prediction(self.probabilities[kept], self.classes, tuple(self.names[i] for i in kept if self.names))

    def top(self, count: int = 5) -> Any:
        """The most probable classes, best first: a list of entries for one photo, a list of such lists for several."""
        if count < 1:
            raise UsageError(f"top needs at least 1, got {count}")
        order = self.probabilities.sort(dim=1, descending=True, stable=True)
        lists = [
            [Entry(i, self.classes[i], p) for p, i in zip(values[:count], indices[:count], strict=True)]
            for values, indices in zip(order.values.tolist(), order.indices.tolist(), strict=True)
        ]
        return lists[0] if len(lists) == 1 else lists

    def __repr__(self) -> str:
        lines = []
        for i in range(len(self)):
            best = ", ".join(f"{e.name.split(',')[0]} {e.probability:.3f}" for e in self[i].top(3))
            lines.append((f"{self.names[i]}: " if self.names else "") + best)
        return "\n".join(lines)
