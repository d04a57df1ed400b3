"""Probes: how well the classes of a data set can be told apart, by a linear classifier, from what each layer knows."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from convscope.data.catalog import Catalog
from convscope.data.loading import Photos
from convscope.errors import UsageError
from convscope.instrument.randomised import randomised
from convscope.progress import track
from convscope.settings import setting
from convscope.studies import drawing
from convscope.studies.extra import extra
from convscope.studies.interval import FEWEST
from convscope.studies.looks import LAYERS_HELP, Layers
from convscope.studies.probes_features import Layer, features_of, layers_to_probe
from convscope.studies.registry import register
from convscope.studies.result import Figure, Result, Table, result
from convscope.studies.retraining.folds import Apart, keep_apart
from convscope.studies.retraining.repeats import SEVERAL, Spread, derived, gain, measured, points, shares, spread
from convscope.studies.subject import DataSet

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

LEARNED, SHUFFLED = "learned", "random weights"
KINDS = ("svm", "softmax")
NAMES = {"svm": "SVM", "softmax": "softmax"}
ONE_SPLIT = "intervals are of the photos measured alone: another split might come out otherwise"
STEPS = 10_000  # of a solver, at most


@register("probes", of="data", paper="Zeiler & Fergus 2013, section 5.3 and table 7")
class Probes:
    """Linear probes: an SVM and a softmax on each layer's features (Zeiler & Fergus 2013, section 5.3, table 7).

    The network stays as it is. What a layer makes of each photo is given to two linear classifiers that learn the
    classes of the data, which need not be the network's: a linear SVM (one class against the rest, squared hinge) and
    a softmax. Accuracy is the mean over classes of the share of photos that are told right, on photos kept apart; by
    guessing it is 1 / classes. Beside each layer stands the same layer of the same network with its weights shuffled:
    random features are a strong baseline.

    The data's own split is kept, its test photos measured. Without one, photos are split anew in each repetition, alike
    in every class, copies and groups never parted; as in the paper at most ``test`` photos of a class are measured and
    ``per_class`` are learned from (its tables have 30 and 60).

    The paper leaves open, or does otherwise: it feeds whole maps, here they are averaged to the finest grid that leaves
    at most ``numbers`` of a layer; each number is standardised by the training photos and divided by the root of how
    many there are, so that ``c`` means the same on every layer; ``c`` is a setting, and is not tuned.
    """

    layers: Layers = setting(default=("first", "@stages", "last"), help=LAYERS_HELP)
    per_class: int | None = setting(default=None, help="photos of a class to learn from; none: all not kept apart")
    test: int | None = setting(default=50, help="photos of a class that are measured, at most; none: all kept apart")
    repeats: int = setting(default=5, help="random splits, or draws of photos to learn from")
    numbers: int = setting(default=4096, help="maps of a layer are averaged to a grid that leaves at most so many")
    c: float = setting(default=10.0, help="how much an error costs against large weights: C of both classifiers")
    random: bool = setting(default=True, help="also probe the network with its weights shuffled")

    def run(self, data: DataSet, seed: int = 0) -> Result:
        classifier = data.classifier
        assert classifier is not None
        if self.c <= 0 or min([self.repeats, *(one for one in (self.per_class, self.test) if one is not None)]) < 1:
            raise UsageError("repeats, per_class and test are at least 1, and c is more than 0")
        if classifier.framing.size is None:
            raise UsageError(f"{classifier.name} takes photos of any size, which cannot be one batch: give --canvas")
        extra("sklearn.svm")
        layers = layers_to_probe(classifier, self.layers, self.numbers)
        found = data.catalog
        folds = self._folds(found, seed)
        networks = {LEARNED: classifier} | ({SHUFFLED: randomised(classifier, seed)} if self.random else {})
        rows = np.unique(np.concatenate([part for train, test in folds.parts for part in (train, test)]))
        photos = Photos(found, classifier.framing, classifier.channels, background=classifier.background)
        values, read = features_of(networks, photos, rows, layers, data.machine.get("workers"))
        jobs = [(name, layer, fold) for name in networks for layer in layers for fold in range(len(folds.parts))]
        right: dict[tuple[str, str, str], np.ndarray] = {}
        unsettled = 0
        for name, layer, fold in track(jobs, "probes"):
            train, test = (np.flatnonzero(np.isin(read, part)) for part in folds.parts[fold])
            x, y = values[name, layer.key], found.labels[read]
            for kind in KINDS:
                guessed, settled = probe(kind, x[train], y[train], x[test], self.c, derived(seed, fold))
                told = right.setdefault((name, layer.key, kind), np.full((len(folds.parts), len(read)), np.nan))
                told[fold, test] = guessed == y[test]
                unsettled += not settled
        seen = _Scores(layers, right, found.labels[read], 1 / len(np.unique(found.labels[folds.parts[0][0]])))
        figure = Figure("depth", _caption(self, seen), lambda: _drawn(seen))
        title = f"What a linear classifier reads off the layers of {classifier.name}, on {found.source}"
        notes = [*data.remarks, *folds.remarks, SEVERAL.format(len(folds.parts)) if len(folds.parts) > 1 else ONE_SPLIT]
        if unsettled:
            notes.append(f"{unsettled} of {2 * len(jobs)} probes had not settled after {STEPS:,} steps: try a lower c")
        wide = [layer.key for layer in layers if layer.width > self.numbers]
        if wide:
            notes.append(f"{', '.join(wide)} cannot be averaged to {self.numbers:,} numbers and has more")
        tables = [_summary(seen), _every(seen)]
        return result(self, title, seed, data, tables, [figure], _findings(seen), notes)

    def _folds(self, found: Catalog, seed: int) -> _Folds:
        first = keep_apart(found, most=self.test, leaving=self.per_class, seed=derived(seed, 0))
        remarks = [first.remark]
        repeats = self.repeats
        if first.own and self.per_class is None:
            repeats = 1
            remarks.append("all of its training photos are learned from, so there is one split: per_class draws some")
        parts = []
        for repeat in range(repeats):
            own = derived(seed, repeat)
            apart: Apart = (
                first
                if first.own or repeat == 0
                else keep_apart(found, most=self.test, leaving=self.per_class, seed=own)
            )
            parts.append((apart.drawn(self.per_class, own), apart.test))
        return _Folds(parts, remarks)


@dataclass(frozen=True)
class _Folds:
    """Of each repetition the rows to learn from and those to measure on."""

    parts: list[tuple[np.ndarray, np.ndarray]]
    remarks: list[str]


def probe(
    kind: str, train: np.ndarray, labels: np.ndarray, test: np.ndarray, c: float, seed: int = 0
) -> tuple[np.ndarray, bool]:
    """What a linear classifier that learned from ``train`` "n d" takes the photos ``test`` "m d" for; whether its
    solver had settled.

    Of fewer photos than numbers the weights lie in the photos' span: there the same problem has n numbers.
    """
    scaler = extra("sklearn.preprocessing").StandardScaler().fit(train.astype(np.float64))
    x, seen = (scaler.transform(part.astype(np.float64)) / np.sqrt(train.shape[1]) for part in (train, test))
    if len(x) < x.shape[1]:
        basis, _ = np.linalg.qr(x.T)
        x, seen = x @ basis, seen @ basis
    if kind == "svm":
        model = extra("sklearn.svm").LinearSVC(C=c, random_state=seed % 2**31, max_iter=STEPS)
    else:
        model = extra("sklearn.linear_model").LogisticRegression(C=c, max_iter=STEPS)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", extra("sklearn.exceptions").ConvergenceWarning)
        guessed: np.ndarray = model.fit(x, labels).predict(seen)
    unsettled = any(issubclass(one.category, extra("sklearn.exceptions").ConvergenceWarning) for one in told)
    return guessed, not unsettled


@dataclass(frozen=True)
class _Scores:
    """``right``: by network, layer and kind, "repetitions photos", NaN of photos that were not measured."""

    layers: list[Layer]
    right: dict[tuple[str, str, str], np.ndarray]
    labels: np.ndarray
    chance: float

    def of(self, layer: Layer, kind: str, network: str = LEARNED) -> Spread | None:
        found = self.right.get((network, layer.key, kind))
        return None if found is None else spread(found, self.labels)

    def gain(self, layer: Layer, kind: str = "svm") -> Spread | None:
        """What was learned is worth so much, paired over photos and repetitions."""
        random = self.right.get((SHUFFLED, layer.key, kind))
        return None if random is None else gain(self.right[LEARNED, layer.key, kind], random, self.labels)


def _summary(seen: _Scores) -> Table:
    columns = {"layer": "in the order in which they run", "shape": "of its output", "numbers": "that are learned from"}
    for name in NAMES.values():
        columns |= {name: f"mean accuracy of the {name}, 0 to 1", f"{name} low": "95 % interval", f"{name} high": "to"}
    for name in NAMES.values():
        columns |= {f"random {name}": "the same, of the network with its weights shuffled"}
    columns |= {"gain": "of the SVM over random weights", "gain low": "95 % interval", "gain high": "to"}
    columns["chance"] = "accuracy of guessing"
    rows = []
    for layer in seen.layers:
        row: list[float | int | str | None] = [layer.key, "x".join(map(str, layer.shape)), layer.width]
        for kind in KINDS:
            row += list(seen.of(layer, kind) or ())
        row += [found.mean if (found := seen.of(layer, kind, SHUFFLED)) else None for kind in KINDS]
        row += [*(seen.gain(layer) or (None, None, None)), seen.chance]
        rows.append(row)
    return Table("layers", "What a linear classifier reads off each layer", columns, rows)


def _every(seen: _Scores) -> Table:
    columns = {
        "network": "as it is, or with its weights shuffled",
        "layer": "the layer",
        "probe": "the linear classifier",
        "repetition": "which split",
        "accuracy": "mean over classes, 0 to 1",
    }
    rows = [
        (network, layer, NAMES[kind], repeat, accuracy)
        for (network, layer, kind), right in seen.right.items()
        for repeat, accuracy in enumerate(shares(right, seen.labels))
    ]
    return Table("probes", "Every probe", columns, rows)


def _findings(seen: _Scores) -> list[str]:
    told = []
    for kind, name in NAMES.items():
        spreads = {layer.key: found for layer in seen.layers if (found := seen.of(layer, kind))}
        best = max(spreads, key=lambda key: spreads[key].mean)
        told.append(f"the {name} tells most by {best}, {spreads[best]}, where guessing is right in {seen.chance:.1%}")
    if any(seen.gain(layer) for layer in seen.layers):
        gains = {layer.key: gain for layer in seen.layers if (gain := seen.gain(layer))}
        most = max(gains, key=lambda key: gains[key].mean)
        if gains[most].low > 0:
            told.append(f"what was learned is worth most at {most}: {points(gains[most])} over random weights")
        enough = measured(next(iter(seen.right.values()))) >= FEWEST
        if enough and (no := [key for key, gain in gains.items() if gain.low <= 0]):
            told.append(f"not surely better than with random weights: {', '.join(no)}")
    return told


def _caption(study: Probes, seen: _Scores) -> str:
    return (
        "Accuracy, the mean over classes, of a linear SVM and a softmax on what each layer makes of the photos, from "
        "the first layer on the left to the last; bands are 95 % intervals. Below them the same of the network with "
        "its weights shuffled: the distance between the two is what was learned. The dotted line is guessing. After "
        "Zeiler & Fergus 2013, table 7."
    )


def _drawn(seen: _Scores) -> Drawn:
    wide = max(2.2, 0.42 * len(seen.layers) + 1.2)
    figure, axes = drawing.panels(1, 1, width=max(5.0, wide), height=3.6)
    panel, across = axes[0, 0], list(range(len(seen.layers)))
    number = 0
    for network, told in ((LEARNED, ""), (SHUFFLED, ", random weights")):
        for kind in KINDS:
            spreads = [found for layer in seen.layers if (found := seen.of(layer, kind, network))]
            if not spreads:
                continue
            means, low, high = zip(*spreads, strict=True)
            drawing.line(panel, number, across, means, f"{NAMES[kind]}{told}", low, high)
            panel.plot(across, means, ".", color=drawing.COLOURS[number])
            number += 1
    panel.axhline(seen.chance, color=drawing.PALE, linestyle=":", label="guessing")
    panel.set_xticks(across, [drawing.shortened(layer.key) for layer in seen.layers], rotation=30, ha="right")
    panel.set_ylim(0, 1.02)
    drawing.plain(panel, across="layer", up="accuracy, mean over classes")
    panel.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure
