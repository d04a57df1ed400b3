"""Ablation: what each part of an architecture is worth, by training without it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from convscope.data.listing import TEST
from convscope.errors import UsageError
from convscope.settings import setting
from convscope.studies import drawing
from convscope.studies.ablation_variants import WHOLE, Variant, titled, variants_to_train
from convscope.studies.interval import FEWEST
from convscope.studies.registry import register
from convscope.studies.result import Figure, Result, Table, in_words, result
from convscope.studies.retraining.folds import keep_apart
from convscope.studies.retraining.options import TRAINING_HELP, Options, Variants, training_settings
from convscope.studies.retraining.repeats import ONCE, SEVERAL, Spread, derived, gain, measured, points, spread
from convscope.studies.retraining.runs import Figures, Plan, carried_out, told_right
from convscope.studies.subject import DataSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

OWN = {"epochs", "lr", "seed", "patience", "keep", "unfreeze", "freeze"}
LEARNED = 0.5  # train error above which the whole network has not
VARIANTS_HELP = (
    "what is changed, between semicolons, by options of the architecture or by layers that do nothing: "
    "'without=3,4; fc=2048 conv=512,1024,512; remove=features.3'; none: the rows of table 3"
)


@register("ablation", of="architecture", paper="Zeiler & Fergus 2013, section 5.1 and table 3")
class Ablation:
    """Ablation: layers removed or resized, trained again and compared (Zeiler & Fergus 2013, section 5.1, table 3).

    The whole network and each of its variants are trained from random weights in the same way, on the same photos and
    in the same order, and their errors compared: on the photos that they learned from, and on photos kept apart (the
    data's own test photos, or validation photos where it has no test; else three of ten). An error is the share of
    photos that are told wrong; top-5, the share whose class is not among the five most probable.

    A variant changes options of the architecture, as ``without=3,4`` or ``fc=2048`` of zfnet, or takes out any layer
    that gives the shape it takes, ``remove=LAYER``: it hands on what it is given. By default the rows of table 3 that
    the architecture has options for, at its own scale: without layers 3 and 4, 7, 6 and 7, or all four; linear layers
    of half and twice the width; convolutions 3 to 5 widened as there.

    With ``repeats`` each is trained so often, from other weights and in another order but on the same photos, and the
    interval is of the mean; of one training it is of the photos. The paper trains once, as long as the error falls;
    here all learn for the same ``epochs``, so that a variant that learns more slowly is not told from one that can do
    less: the training error helps to. The epoch that is most accurate on the photos learned from counts.
    """

    variants: Variants | None = setting(default=None, help=VARIANTS_HELP)
    base: Options | None = setting(default=None, help="options of the whole network and all variants: 'fc=256'")
    size: int | None = setting(default=None, help="side of the network's canvas; none: what it is made for")
    per_class: int | None = setting(default=None, help="photos of a class to learn from; none: all not kept apart")
    test: int | None = setting(default=None, help="photos of a class that are measured, at most; none: all kept apart")
    repeats: int = setting(default=1, help="trainings of each variant, from other random weights")
    epochs: int = setting(default=30, help="of each training")
    lr: float | None = setting(default=None, help="learning rate; none: the optimiser's usual one")
    training: Options | None = setting(default=None, help=TRAINING_HELP)

    def run(self, data: DataSet, seed: int = 0) -> Result:
        least = [self.repeats, self.epochs, *(one for one in (self.size, self.per_class, self.test) if one is not None)]
        if min(least) < 1 or (self.lr is not None and self.lr <= 0):
            raise UsageError("repeats, epochs, size, per_class and test are at least 1, and lr is more than 0")
        more: dict[str, Any] = training_settings(self.training, OWN)
        spec, classes = str(data.model["spec"]), data.listing.classes
        variants = variants_to_train(spec, self.base or {}, self.variants, self.size, classes)
        found = data.catalog
        apart = keep_apart(found, most=self.test, leaving=self.per_class, seed=derived(seed, 0))
        of = apart.split(apart.drawn(self.per_class, derived(seed, 0)))
        how = {**more, "epochs": self.epochs, "lr": self.lr}
        jobs = [(variant, repeat) for repeat in range(self.repeats) for variant in variants]
        plans = [
            Plan(f"{variant.name}.{repeat}", {**variant.model, **how, "seed": derived(seed, repeat)}, of, both=True)
            for variant, repeat in jobs
        ]
        done = carried_out(data, plans, "networks trained")
        figures = {(v.name, r): one for (v, r), one in zip(jobs, done, strict=True)}
        seen = _Seen(variants, self.repeats, figures)
        settled = replace(self, variants={variant.name: dict(variant.change) for variant in variants[1:]})
        chart = Figure("errors", CAPTION, lambda: _drawn(seen))
        learned = int((of >= 0).sum() - (of == TEST).sum())
        network = f"{spec} ({titled(self.base)})" if self.base else spec
        title = f"What the parts of {network} are worth on {found.source}"
        notes = [
            *data.remarks,
            apart.remark,
            f"{learned:,} photos learned from, {int((of == TEST).sum()):,} measured",
            SEVERAL.format(self.repeats) if self.repeats > 1 else ONCE,
        ]
        return result(settled, title, seed, data, [_summary(seen), _every(seen)], [chart], _findings(seen), notes)


@dataclass(frozen=True)
class _Seen:
    """``found``: by a variant's name and repetition."""

    variants: list[Variant]
    repeats: int
    found: dict[tuple[str, int], Figures]

    def errors(self, name: str) -> list[float]:
        return [1 - self.found[name, repeat].accuracy for repeat in range(self.repeats)]

    def error(self, name: str) -> Spread:
        return spread(1 - self.right(name))

    def right(self, name: str) -> np.ndarray:
        return told_right([self.found[name, repeat] for repeat in range(self.repeats)])

    def train_error(self, name: str) -> float:
        return float(np.mean([1 - (self.found[name, r].train_accuracy or 0.0) for r in range(self.repeats)]))

    def top5(self, name: str) -> float | None:
        found = [top5 for r in range(self.repeats) if (top5 := self.found[name, r].top5) is not None]
        return 1 - float(np.mean(found)) if found else None

    def change(self, name: str) -> Spread:
        """In error against the whole network, paired over photos and repetitions."""
        return gain(self.right(WHOLE), self.right(name))


def _summary(seen: _Seen) -> Table:
    columns = {
        "variant": "what is changed",
        "parameters": "of the network",
        "train error": "share of the photos learned from that is told wrong, 0 to 1",
        "error": "share of the photos kept apart that is told wrong (the paper's val top-1)",
        "low": "95 % interval",
        "high": "to",
        "top-5 error": "share of them whose class is not among the five most probable; none of five classes or fewer",
        "change": "of the error against the whole network",
        "change low": "95 % interval",
        "change high": "to",
    }
    rows = [
        (
            *(variant.name, variant.parameters, seen.train_error(variant.name)),
            *(*seen.error(variant.name), seen.top5(variant.name)),
            *(seen.change(variant.name) if variant.name != WHOLE else (None, None, None)),
        )
        for variant in seen.variants
    ]
    return Table("variants", "Errors of the whole network and its variants", columns, rows)


def _every(seen: _Seen) -> Table:
    columns = {
        "variant": "what is changed",
        "repetition": "which training",
        "train error": "share of the photos learned from that is told wrong",
        "error": "share of the photos kept apart that is told wrong",
        "top-5 error": "their class is not among the five most probable",
        "measured": "photos kept apart",
        "run": "its run folder",
    }
    rows = []
    for (name, repeat), one in seen.found.items():
        train = None if one.train_accuracy is None else 1 - one.train_accuracy
        top5 = None if one.top5 is None else 1 - one.top5
        rows.append((name, repeat, train, 1 - one.accuracy, top5, one.photos, one.folder))
    return Table("trainings", "Every training", columns, rows)


def _findings(seen: _Seen) -> list[str]:
    whole = seen.error(WHOLE)
    told = [f"whole: {seen.variants[0].parameters:,} parameters, error {whole}, train {seen.train_error(WHOLE):.1%}"]
    for variant in seen.variants[1:]:
        error, name = seen.error(variant.name), variant.name
        told.append(
            f"{name}: {variant.parameters:,} parameters, error {error}, train {seen.train_error(name):.1%}; "
            f"{points(seen.change(name))} against the whole"
        )
    if (wrong := seen.train_error(WHOLE)) > LEARNED:
        told.append(
            f"the whole network has not learned what it was shown (train error {wrong:.0%}), so this says little: more "
            "epochs, or another lr, may do better"
        )
    changes = {variant.name: seen.change(variant.name) for variant in seen.variants[1:]}
    if (photos := measured(seen.right(WHOLE))) < FEWEST:
        return [*told, f"{photos} photos measured are too few to say what was needed (at least {FEWEST})"]
    worse = [name for name, change in changes.items() if change.low > 0]
    better = [name for name, change in changes.items() if change.high < 0]
    once = ", as far as one training each tells" if seen.repeats == 1 else ""
    if worse:
        needed = "" if once else "; what they change was needed"
        told.append(f"worse than the whole network{once}: {', '.join(worse)}{needed}")
    if better:
        told.append(f"better than the whole network{once}: {', '.join(better)}")
    if changes and not worse and not better:
        told.append("no variant does otherwise than the whole network, as far as can be told")
    return told


CAPTION = (
    "Error on photos kept apart, with its 95 % interval, of the whole network and each variant, trained alike; "
    "the open mark is the error on the photos learned from, the dotted line the whole network's. Left of a bar the "
    "variant, and how many parameters it has. After Zeiler & Fergus 2013, table 3."
)


def _drawn(seen: _Seen) -> Drawn:
    names = " ".join(variant.name for variant in seen.variants)
    height = 0.34 * len(seen.variants) + 1.0
    figure, axes = drawing.panels(1, 1, width=6.0, height=height, names=names)
    panel, up = axes[0, 0], np.arange(len(seen.variants))[::-1]
    means, low, high = (np.array(part) for part in zip(*(seen.error(v.name) for v in seen.variants), strict=True))
    colours = [drawing.COLOURS[0], *[drawing.COLOURS[5]] * (len(seen.variants) - 1)]
    panel.barh(up, means, color=colours, height=0.62)
    reach = [np.maximum(means - low, 0), np.maximum(high - means, 0)]
    panel.errorbar(means, up, xerr=reach, fmt="none", ecolor=drawing.INK, capsize=2.5, linewidth=1)
    train = [seen.train_error(variant.name) for variant in seen.variants]
    panel.plot(
        train,
        up,
        "o",
        markersize=4.5,
        markerfacecolor="white",
        color=drawing.COLOURS[1],
        label="train error",
        clip_on=False,
    )
    panel.axvline(float(means[0]), color=drawing.PALE, linestyle=":", linewidth=1)
    labels = [f"{drawing.shortened(v.name, 32)}  ({_short(v.parameters)})" for v in seen.variants]
    panel.set_yticks(up, labels)
    panel.set_xlim(0, min(1.0, 1.1 * float(max(*high, *train))) or 1.0)
    drawing.plain(panel, across="error", up="")
    panel.legend(fontsize=7, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _short(count: int) -> str:
    for unit, word in ((1_000_000, "M"), (1_000, "k")):
        if count >= unit:
            return f"{in_words(count / unit)}{word}"
    return str(count)
