"""Transfer: what a trained network's features are worth where there are few photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import save_file

from convscope.data.cache import replacing
from convscope.errors import UsageError
from convscope.images.own import make_own
from convscope.instrument.weights import weights_key
from convscope.models.classifier import Classifier
from convscope.models.registry import RANDOM, parse
from convscope.models.run import read_settings
from convscope.settings import Counts, setting
from convscope.studies import drawing
from convscope.studies.registry import register
from convscope.studies.result import Figure, Result, Table, result
from convscope.studies.retraining.folds import Apart, keep_apart
from convscope.studies.retraining.options import TRAINING_HELP, Options, training_settings
from convscope.studies.retraining.repeats import ONCE, SEVERAL, Spread, derived, gain, points, spread
from convscope.studies.retraining.runs import BATCH, Figures, Plan, carried_out, epochs_for, told_right
from convscope.studies.subject import DataSet
from convscope.training.config import Model
from convscope.training.folder import tensors
from convscope.training.prepare import begin
from convscope.training.start import CODE

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

PRETRAINED, SCRATCH = "pretrained", "scratch"
OWN = {"epochs", "seed", "unfreeze", "freeze", "patience", "keep"}
LEARNED = 0.9  # of the training photos; below it a network has not learned what it was shown


@register("transfer", of="data", paper="Zeiler & Fergus 2013, section 5.2 and tables 4 and 5")
class Transfer:
    """Transfer: accuracy by training photos, scratch beside pretrained (Zeiler & Fergus 2013, section 5.2).

    For each number of photos of a class (the paper's tables 4 and 5, figure 6), two networks learn from the same
    photos. Pretrained: all layers but the last stay as they are, and a new softmax learns on what they give. Scratch:
    the same architecture begins with random weights and learns as a whole. Accuracy is the mean over classes of the
    share of photos that are told right.

    As in the paper at most ``test`` photos of a class are measured, and each experiment is repeated with other photos
    to learn from. Unlike in the paper, which makes new folds, the photos that are measured are the same in all: the
    data's own test photos, or some that are kept apart; copies and groups are never parted. In a repetition fewer
    photos are among the more.

    The paper does not say how long either learns. Here every head takes ``steps`` steps and every network from scratch
    ``scratch_steps``, however few photos there are: with equal epochs few photos would mean few steps, and it would not
    be the photos that were lacking. No photos are set aside to choose an epoch by: the one that is most accurate on the
    photos that it learned from counts. Each training is a run folder in ``trained``; what was done is not done again.
    """

    per_class: Counts = setting(default=(15, 30), help="photos of a class to learn from: a training for each number")
    test: int | None = setting(default=50, help="photos of a class that are measured, at most; none: all kept apart")
    repeats: int = setting(default=5, help="draws of the photos to learn from")
    steps: int = setting(default=500, help="steps that a new softmax learns on the features, at least")
    scratch_steps: int = setting(default=1000, help="steps that a network learns from scratch, at least")
    training: Options | None = setting(default=None, help=TRAINING_HELP)

    def run(self, data: DataSet, seed: int = 0) -> Result:
        classifier = data.classifier
        assert classifier is not None
        numbers = sorted(set(self.per_class))
        least = [self.repeats, self.steps, self.scratch_steps, *numbers, *([] if self.test is None else [self.test])]
        if not numbers or min(least) < 1:
            raise UsageError("per_class, test, repeats, steps and scratch_steps are at least 1")
        more = training_settings(self.training, OWN)
        starts = _starts(data, classifier)
        _check_random(starts[SCRATCH], data.listing.classes)
        apart = keep_apart(data.catalog, most=self.test, leaving=numbers[-1], seed=derived(seed, 0))
        starts[PRETRAINED]["weights"] = str(_base(data, classifier))
        jobs = [(kind, n, r) for r in range(self.repeats) for n in numbers for kind in (PRETRAINED, SCRATCH)]
        plans = [self._plan(*job, starts, apart, more, seed) for job in jobs]
        found = dict(zip(jobs, carried_out(data, plans, "networks trained"), strict=True))
        seen = _Seen(numbers, self.repeats, found, data.catalog.labels[apart.test], len(data.catalog.classes))
        figure = Figure("accuracy", CAPTION, lambda: _drawn(seen))
        title = f"What {classifier.name} has learned is worth on {data.catalog.source}"
        tables = [_summary(seen), _every(seen)]
        notes = [*data.remarks, apart.remark, SEVERAL.format(self.repeats) if self.repeats > 1 else ONCE]
        return result(self, title, seed, data, tables, [figure], _findings(seen), [*notes, *_notes(seen)])

    def _plan(
        self,
        kind: str,
        number: int,
        repeat: int,
        starts: Mapping[str, Mapping[str, Any]],
        apart: Apart,
        more: Mapping[str, Any],
        seed: int,
    ) -> Plan:
        own = derived(seed, repeat)
        rows = apart.drawn(number, own)
        steps = self.steps if kind == PRETRAINED else self.scratch_steps
        epochs = epochs_for(steps, len(rows), int(more.get("batch_size", BATCH)))
        settings = {**starts[kind], **more, "epochs": epochs, "seed": own}
        return Plan(f"{kind}-{number:03d}-{repeat}", settings, apart.split(rows), both=True)


def _starts(data: DataSet, classifier: Classifier) -> dict[str, dict[str, Any]]:
    """The settings of convscope.train with which both kinds of network begin; the first one's weights are added."""
    spec = data.model.get("spec")
    if not spec:
        raise UsageError(
            "transfer trains the model's architecture anew, so it has to know it: load the model by a name, as "
            "convscope.load does"
        )
    if classifier.framing.size is None:
        raise UsageError(f"{classifier.name} takes photos of any size, which cannot be one batch: give --canvas")
    options = _without_classes(data.model.get("options") or {})
    sees = {
        "size": list(classifier.framing.size),
        "mean": list(classifier.mean),
        "std": list(classifier.std),
        "background": classifier.background,
    }
    trained = {"model": spec, "options": options or None, **sees}
    prefix, name, _ = parse(spec)
    if prefix == "run":
        run = read_settings(Path(name).expanduser())
        spec, options = run.spec, _without_classes(run.options)
        prefix, name, _ = parse(spec)
    random = spec if prefix in CODE else f"{prefix}:{name}@{RANDOM}"
    return {PRETRAINED: trained, SCRATCH: {"model": random, "options": options or None, **sees}}


def _without_classes(options: Mapping[str, Any]) -> dict[str, Any]:
    """The number of classes is that of the photos."""
    return {name: value for name, value in options.items() if name != "num_classes"}


def _check_random(start: Mapping[str, Any], classes: tuple[str, ...]) -> None:
    """That the network can be built, and from another seed comes with other weights."""
    model = Model(
        spec=start["model"], options=start["options"] or {}, size=start["size"], mean=start["mean"], std=start["std"]
    )
    first, other = (begin(model, classes, seed).classifier.network for seed in (0, 1))
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    if all(bool((a == b).all()) for a, b in pairs if a.ndim > 1):
        raise UsageError(
            f"{start['model']} has the same weights whenever it is made, so it cannot begin at random: let its factory "
            "make a network without trained weights"
        )


def _base(data: DataSet, classifier: Classifier) -> Path:
    """The classifier's weights in a file of the study's: with them a softmax for any classes begins anew."""
    file = data.folder / f"base-{weights_key(classifier.network)[:10]}.safetensors"
    make_own(data.folder)
    if not file.exists():
        with replacing(file) as draft:
            save_file(tensors(classifier.network.state_dict()), draft)
    return file.resolve()


@dataclass(frozen=True)
class _Seen:
    """``found``: by kind, photos of a class and repetition. ``labels``: of the photos kept apart."""

    numbers: list[int]
    repeats: int
    found: dict[tuple[str, int, int], Figures]
    labels: np.ndarray
    classes: int  # that are told apart

    def values(self, kind: str, number: int) -> list[float]:
        return [self.found[kind, number, repeat].balanced for repeat in range(self.repeats)]

    def of(self, kind: str, number: int) -> Spread:
        return spread(self.right(kind, number), self.labels)

    def right(self, kind: str, number: int) -> np.ndarray:
        return told_right([self.found[kind, number, repeat] for repeat in range(self.repeats)])

    def learned(self, kind: str, number: int) -> float:
        """Accuracy on what was learned from, at the end."""
        return float(np.mean([self.found[kind, number, r].train_accuracy or 0.0 for r in range(self.repeats)]))

    def gain(self, number: int) -> Spread:
        """What pretraining is worth, paired over photos and repetitions."""
        return gain(self.right(PRETRAINED, number), self.right(SCRATCH, number), self.labels)

    @property
    def chance(self) -> float:
        return 1 / self.classes


def _summary(seen: _Seen) -> Table:
    columns = {"photos": "of a class, to learn from"}
    for kind in (SCRATCH, PRETRAINED):
        columns |= {kind: "accuracy, mean over classes, 0 to 1", f"{kind} low": "95 % interval", f"{kind} high": "to"}
    columns |= {"gain": "of pretraining", "gain low": "95 % interval", "gain high": "to"}
    columns |= {f"{kind} learned": "accuracy on the photos learned from, at the end" for kind in (SCRATCH, PRETRAINED)}
    columns["chance"] = "accuracy of guessing"
    rows = [
        (
            number,
            *seen.of(SCRATCH, number),
            *seen.of(PRETRAINED, number),
            *seen.gain(number),
            seen.learned(SCRATCH, number),
            seen.learned(PRETRAINED, number),
            seen.chance,
        )
        for number in seen.numbers
    ]
    return Table("transfer", "Accuracy by the number of training photos", columns, rows)


def _every(seen: _Seen) -> Table:
    columns = {
        "network": "pretrained or from scratch",
        "photos": "of a class, to learn from",
        "repetition": "which draw of photos",
        "accuracy": "mean over classes, 0 to 1",
        "of photos": "share of the photos kept apart that is told right",
        "measured": "photos kept apart",
        "epochs": "that it learned",
        "run": "its run folder",
    }
    rows = [
        (*job, one.balanced, one.accuracy, one.photos, one.epochs, one.folder)
        for job, one in sorted(seen.found.items())
    ]
    return Table("trainings", "Every training", columns, rows)


def _findings(seen: _Seen) -> list[str]:
    told = [
        f"from {number} photo{'s' * (number != 1)} of a class: pretrained {seen.of(PRETRAINED, number)}, scratch "
        f"{seen.of(SCRATCH, number)}; pretraining is worth {points(seen.gain(number))}"
        for number in seen.numbers
    ]
    told.append(f"guessing is right in {seen.chance:.1%}")
    most = seen.numbers[-1]
    better = (
        n for n in seen.numbers if gain(seen.right(PRETRAINED, n), seen.right(SCRATCH, most), seen.labels).low > 0
    )
    if (enough := next(better, most)) < most:
        told.append(f"pretrained, {enough} photos of a class do better than {most} from scratch")
    return told


def _notes(seen: _Seen) -> list[str]:
    told = []
    for kind, steps in ((PRETRAINED, "steps"), (SCRATCH, "scratch_steps")):
        short = {number: learned for number in seen.numbers if (learned := seen.learned(kind, number)) < LEARNED}
        if short:
            told.append(
                f"{kind}, from {', '.join(map(str, short))} photos of a class, did not come to learn what it was shown "
                f"(accuracy there {min(short.values()):.0%}): more {steps} may do better"
            )
    if before := max(one.seen for one in seen.found.values()):
        told.append(f"{before:,} of the photos measured had been learned from by the model: pretrained figures flatter")
    return told


CAPTION = (
    "Accuracy on photos kept apart, the mean over classes, by the photos of each class that were learned from: a new "
    "softmax on the trained network's features, and the same network from random weights. Bands and bars are 95 % "
    "intervals; the dotted line is guessing. After Zeiler & Fergus 2013, figure 6."
)


def _drawn(seen: _Seen) -> Drawn:
    figure, axes = drawing.panels(1, 1, width=5.0, height=3.4)
    panel = axes[0, 0]
    for number, kind in enumerate((PRETRAINED, SCRATCH)):
        means, low, high = zip(*(seen.of(kind, n) for n in seen.numbers), strict=True)
        drawing.line(panel, number, seen.numbers, means, kind, low, high)
        panel.errorbar(
            seen.numbers,
            means,
            [np.subtract(means, low), np.subtract(high, means)],
            fmt="o",
            markersize=3.5,
            capsize=2,
            linewidth=0.8,
            color=drawing.COLOURS[number],
        )
    panel.axhline(seen.chance, color=drawing.PALE, linestyle=":", label="guessing")
    panel.set_xticks(seen.numbers, [str(number) for number in seen.numbers])
    panel.set_xlim(0, seen.numbers[-1] * 1.05)
    panel.set_ylim(0, 1.02)
    drawing.plain(panel, across="training photos of a class", up="accuracy, mean over classes")
    panel.legend(fontsize=7, frameon=False, loc="best")
    return figure
