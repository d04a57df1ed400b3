"""What a classifier's outputs are worth: accuracy and its uncertainty, figures over classes, calibration, top losses.

Counting is torchmetrics'. What is divided or summed is done here in float64: torchmetrics divides and bins in float32,
its figures change in the eighth digit with the order of the photos, and a confidence of 1 falls into a 16th bin.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from convscope.errors import ConvscopeError, UsageError

BINS = 15
WORST = 25
Z95 = 1.959963984540054  # the normal distribution's 97.5 % point


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a share, both ends in [0, 1]."""

    low: float
    high: float


@dataclass(frozen=True)
class ClassMetrics:
    """One class: ``count`` photos of it. None is what the photos leave undefined.

    ``precision`` is undefined where nothing was taken for the class; ``recall`` and ``f1`` where it has no photo.
    """

    name: str
    count: int
    precision: float | None
    recall: float | None
    recall_interval: Interval | None
    f1: float | None


@dataclass(frozen=True)
class TopLoss:
    """A photo by its loss, and what it was taken for. ``probability`` is that of the true class."""

    name: str
    true: str
    predicted: str
    probability: float
    loss: float


@dataclass(frozen=True, eq=False)
class Metrics:
    """Figures of one set of photos. Macro figures (balanced accuracy, F1, AUROC) are over the ``present`` classes."""

    count: int
    present: int  # classes with photos
    loss: float  # mean cross-entropy, in nats
    accuracy: float
    accuracy_interval: Interval  # Wilson, 95 %
    top5: float | None  # None where there are five classes or fewer
    balanced_accuracy: float
    macro_f1: float
    auroc: float | None  # of two outputs the second's; of more the mean, each class against the rest
    calibration_error: float
    confusion: Int64[Tensor, "k k"]  # row: the true class, column: the predicted one
    per_class: tuple[ClassMetrics, ...]
    missing: tuple[str, ...]  # classes without a photo
    top_losses: tuple[TopLoss, ...]  # the largest first

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON types; None where a number is undefined or infinite."""
        return {name: _plain(value) for name, value in asdict(self).items()}

    def summary(self) -> list[tuple[str, str, str]]:
        """Rows of figure, value, and what it is over."""
        classes = f"{self.present} of {len(self.per_class)} classes" if self.missing else f"{self.present} classes"
        absent = f"; none of {listed(self.missing)}" if self.missing else ""
        rows = [
            ("photos", f"{self.count}", f"of {classes}{absent}"),
            ("accuracy", percent(self.accuracy), f"95 % interval {between(self.accuracy_interval)}"),
            ("top-5 accuracy", percent(self.top5), "the class is among the five most probable"),
            ("balanced accuracy", percent(self.balanced_accuracy), f"mean recall over {classes}"),
            ("macro F1", decimal(self.macro_f1), f"mean over {classes}"),
            ("AUROC", decimal(self.auroc), self._auroc_of(classes)),
            ("loss", decimal(self.loss), "mean cross-entropy"),
            ("calibration error", percent(self.calibration_error), f"expected, {BINS} bins"),
        ]
        return [row for row in rows if row[0] != "top-5 accuracy" or self.top5 is not None]

    def _auroc_of(self, classes: str) -> str:
        if self.auroc is None:
            return "undefined: all photos are of one class"
        if len(self.per_class) == 2:
            return f"{self.per_class[1].name} against {self.per_class[0].name}"
        return f"each class against the rest, mean over {classes}"

    def table(self) -> list[tuple[str, ...]]:
        """Rows of the classes, under a head."""
        return [
            ("class", "photos", "precision", "recall", "95 % interval", "F1"),
            *(
                (
                    c.name,
                    f"{c.count}",
                    percent(c.precision),
                    percent(c.recall),
                    between(c.recall_interval),
                    decimal(c.f1),
                )
                for c in self.per_class
            ),
        ]

    def lines(self) -> list[tuple[str, ...]]:
        """The summary's rows, an empty one, the table's head and its rows: what a terminal shows."""
        return [*self.summary(), (), *self.table()]


def measure(logits: Tensor, labels: Tensor, classes: Sequence[str], names: Sequence[str] = ()) -> Metrics:
    """Figures of logits "n k" (any float type and device) for photos with ``labels`` "n" that index ``classes``.

    ``names``: the photos', or their indices where there are none. Equal logits go to the first class, as argmax does.
    The figures do not depend on the order of the photos. UsageError for shapes, labels or names that do not fit;
    ConvscopeError for outputs that are not finite.
    """
    known: Sequence[Any] = names if len(names) else range(labels.numel())
    labels = _checked(logits, labels, classes, known)
    # Contiguous, so that a row is summed in the same way whatever the layout was.
    scores = logits.detach().cpu().double().contiguous()
    predicted = scores.argmax(1)
    log_true, log_predicted = _log_probabilities(scores, labels, predicted)
    losses = 0 - log_true  # of a sure one 0, and not -0
    confusion = _confusion(predicted, labels, len(classes))
    per_class = tuple(_of_class(name, confusion, i) for i, name in enumerate(classes))
    shown = [c for c in per_class if c.count]
    right = int(confusion.trace())
    return Metrics(
        count=len(labels),
        present=len(shown),
        loss=math.fsum(losses.tolist()) / len(labels),
        accuracy=right / len(labels),
        accuracy_interval=wilson(right, len(labels)),
        top5=_within(scores, labels, 5) if len(classes) > 5 else None,
        balanced_accuracy=math.fsum(c.recall or 0 for c in shown) / len(shown),
        macro_f1=math.fsum(c.f1 or 0 for c in shown) / len(shown),
        auroc=_auroc(scores, labels),
        calibration_error=calibration_error(log_predicted.exp(), predicted == labels),
        confusion=confusion,
        per_class=per_class,
        missing=tuple(c.name for c in per_class if not c.count),
        top_losses=_top_losses(losses, labels, predicted, classes, known),
    )


def _checked(logits: Tensor, labels: Tensor, classes: Sequence[str], names: Sequence[object]) -> Tensor:
    """The labels as int64 on the CPU, once everything fits."""
    if logits.ndim != 2 or labels.ndim != 1 or len(logits) != len(labels):
        shapes = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise UsageError(f"outputs are (photos, classes) and labels (photos,): got {shapes}")
    if not len(labels):
        raise UsageError("there are no photos to measure: give a split that has some")
    if logits.shape[1] < 2 or logits.shape[1] != len(classes):
        raise UsageError(f"a name for each of two or more outputs: got {len(classes)} for {logits.shape[1]}")
    if len(names) != len(labels):
        raise UsageError(f"a name for each of {len(labels)} photos, or none at all: got {len(names)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise UsageError(f"labels are indices of classes, whole numbers: got {labels.dtype}")
    labels = labels.detach().cpu().long()
    if len(odd := ((labels < 0) | (labels >= len(classes))).nonzero()):
        first = int(odd[0])
        raise UsageError(f"photo {names[first]} has label {int(labels[first])}: labels go from 0 to {len(classes) - 1}")
    if len(odd := (~logits.detach().isfinite()).any(1).nonzero()):
        count = f"{len(odd)} of {len(labels)} photos, first {names[int(odd[0])]}"
        raise ConvscopeError(f"the network's outputs are NaN or infinite for {count}; check its weights and the photos")
    return labels


def _log_probabilities(scores: Float64[Tensor, "n k"], *classes: Int64[Tensor, " n"]) -> list[Float64[Tensor, " n"]]:
    """Of each photo's class in each of ``classes``."""
    logs = scores.log_softmax(1)
    return [logs.gather(1, one[:, None])[:, 0] for one in classes]


def _confusion(predicted: Tensor, labels: Tensor, count: int) -> Int64[Tensor, "k k"]:
    from torchmetrics.functional.classification import multiclass_confusion_matrix  # seconds to import

    return multiclass_confusion_matrix(predicted, labels, count, validate_args=False)


def _of_class(name: str, confusion: Int64[Tensor, "k k"], i: int) -> ClassMetrics:
    right, count, taken = int(confusion[i, i]), int(confusion[i].sum()), int(confusion[:, i].sum())
    return ClassMetrics(
        name=name,
        count=count,
        precision=right / taken if taken else None,
        recall=right / count if count else None,
        recall_interval=wilson(right, count) if count else None,
        f1=2 * right / (count + taken) if count else None,
    )


def wilson(successes: float, count: float, z: float = Z95) -> Interval:
    """Score interval of a share, E. B. Wilson 1927 ("Probable inference, the law of succession").

    ``z``: how many standard deviations; the default gives 95 %. Of no trials nothing is known: [0, 1]. Of a mean over
    something else than single trials both may be effective numbers, and so not be whole.
    """
    if not 0 <= successes <= count:
        raise UsageError(f"of {count} trials from 0 to {count} can succeed, got {successes}")
    if count == 0:
        return Interval(0.0, 1.0)
    share, square = successes / count, z * z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Interval(low if successes else 0.0, high if successes < count else 1.0)  # exact, where rounding is not


def calibration_error(confidence: Float64[Tensor, " n"], right: Bool[Tensor, " n"], bins: int = BINS) -> float:
    """Expected calibration error, Guo et al. 2017 ("On calibration of modern neural networks"), in [0, 1].

    Mean over the photos of |accuracy - confidence| of their bin; the bins are equally wide, (low, high].
    """
    places = ((confidence * bins).ceil().long() - 1).clamp(0, bins - 1)
    gaps = confidence - right.double()
    return math.fsum(abs(math.fsum(gaps[places == i].tolist())) for i in range(bins)) / len(gaps)


def _within(scores: Float64[Tensor, "n k"], labels: Int64[Tensor, " n"], most: int) -> float:
    """Share of photos whose class is among the ``most`` highest; of equal scores the first class is higher."""
    own = scores.gather(1, labels[:, None])
    before = torch.arange(scores.shape[1]) < labels[:, None]
    rank = (scores > own).sum(1) + ((scores == own) & before).sum(1)
    return int((rank < most).sum()) / len(labels)


def _auroc(scores: Float64[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> float | None:
    """Of two classes: how the second is told from the first. Of more: the mean of each one present against the rest."""
    present = labels.unique().tolist()
    if len(present) < 2:
        return None
    if scores.shape[1] == 2:
        return _ranked(scores[:, 1] - scores[:, 0], labels == 1)  # the odds: a probability near 1 has few digits
    probability = scores.softmax(1)
    areas = [_ranked(probability[:, i].contiguous(), labels == i) for i in present]
    return math.fsum(areas) / len(areas)


def _ranked(scores: Float64[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """Area under the ROC curve as the chance that a positive ranks above a negative, ties half (Mann-Whitney)."""
    mine = scores[positive].sort().values  # the few are sorted, and the many looked up: classes are often small
    # For each photo the positives above it and those not below it. In whole numbers: nothing is rounded before the end.
    below = torch.searchsorted(mine, scores) + torch.searchsorted(mine, scores, right=True)
    twice = 2 * len(mine) * len(scores) - int(below.sum())
    positives, negatives = len(mine), len(scores) - len(mine)
    return (twice - positives * positives) / (2 * positives * negatives)


def _top_losses(
    losses: Tensor, labels: Tensor, predicted: Tensor, classes: Sequence[str], names: Sequence[Any]
) -> tuple[TopLoss, ...]:
    """The photos with the largest loss; equal ones in the order of their names."""
    least = losses.topk(min(WORST, len(losses))).values[-1]
    candidates = (losses >= least).nonzero()[:, 0].tolist()
    worst = sorted(candidates, key=lambda i: (-float(losses[i]), names[i]))[:WORST]
    return tuple(
        TopLoss(
            name=str(names[i]),
            true=classes[int(labels[i])],
            predicted=classes[int(predicted[i])],
            probability=math.exp(-float(losses[i])),
            loss=float(losses[i]),
        )
        for i in worst
    )


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def between(interval: Interval | None) -> str:
    return "-" if interval is None else f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names in a sentence, the first of many."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
