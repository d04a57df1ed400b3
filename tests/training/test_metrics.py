"""Figures are those of slow derivations in plain Python and of scikit-learn, whatever the order of the photos."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchmetrics.functional.classification as tm
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from convscope.errors import ConvscopeError, UsageError
from convscope.training.metrics import Interval, Metrics, calibration_error, measure, wilson


def named(count):
    return [f"class {i}" for i in range(count)]


def outputs(n, k, seed=0, *, whole=False, labels=None):
    """Logits that know something of the labels; ``whole`` ones are often equal."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(k, (n,), generator=draw) if labels is None else torch.tensor(labels)
    logits = 2 * torch.randn(n, k, generator=draw, dtype=torch.float64)
    logits[torch.arange(n), labels] += 1.5
    return logits.round() if whole else logits, labels


def repeated(n, k, seed, distinct=20):
    """Logits of a few distinct photos, again and again under other labels; half of them have two equal largest."""
    logits, labels = outputs(n, k, seed)
    logits = logits[torch.arange(n) % distinct]
    logits[::2, :2] = logits[::2].amax(1, keepdim=True)
    return logits, labels


CASES = {
    "three classes": outputs(200, 3),
    "two classes": outputs(150, 2, 1),
    "two classes with ties": outputs(150, 2, 2, whole=True),
    "ten classes with ties": repeated(300, 10, 3),
    "absent classes": outputs(60, 7, 4, labels=[1, 3, 3, 6] * 15),
    "one class present": outputs(20, 4, 5, labels=[2] * 20),
    "one photo": outputs(1, 3, 6),
    "all equal": (torch.zeros(20, 8, dtype=torch.float64), torch.arange(20) % 7),
    "many classes": outputs(120, 1000, 7),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


# Slow derivations


def softmax(row):
    top = max(row)
    parts = [math.exp(value - top) for value in row]
    return [part / math.fsum(parts) for part in parts]


def slow(logits, labels):
    """Every figure from its definition, photo by photo and pair by pair."""
    rows, labels, k = logits.tolist(), labels.tolist(), logits.shape[1]
    probabilities = [softmax(row) for row in rows]
    predicted = [row.index(max(row)) for row in rows]
    present = [c for c in range(k) if c in labels]
    pairs = list(zip(labels, predicted, strict=True))
    recall = {c: sum(p == c for y, p in pairs if y == c) / labels.count(c) for c in present}
    precision = {c: sum(y == c for y, p in pairs if p == c) / predicted.count(c) for c in set(predicted)}

    def f1(c):
        both = precision.get(c, 0) + recall[c]
        return 2 * precision.get(c, 0) * recall[c] / both if both else 0

    def area(c):
        mine = [p[c] for p, y in zip(probabilities, labels, strict=True) if y == c]
        rest = [p[c] for p, y in zip(probabilities, labels, strict=True) if y != c]
        return sum((a > b) + (a == b) / 2 for a in mine for b in rest) / len(mine) / len(rest)

    bins = [[] for _ in range(15)]
    for (y, p), row in zip(pairs, probabilities, strict=True):
        place = next(i for i in range(15) if row[p] <= (i + 1) / 15 or i == 14)
        bins[place].append((row[p], y == p))
    gaps = [abs(sum(q for q, _ in b) / len(b) - sum(r for _, r in b) / len(b)) * len(b) for b in bins if b]
    best = [sorted(range(k), key=lambda c: -row[c])[:5] for row in rows]  # stable: of equal ones the first
    return {
        "loss": sum(-math.log(p[y]) for p, y in zip(probabilities, labels, strict=True)) / len(labels),
        "accuracy": sum(y == p for y, p in pairs) / len(labels),
        "top5": sum(y in b for y, b in zip(labels, best, strict=True)) / len(labels) if k > 5 else None,
        "balanced_accuracy": sum(recall.values()) / len(present),
        "macro_f1": sum(map(f1, present)) / len(present),
        "auroc": None if len(present) < 2 else area(1) if k == 2 else sum(map(area, present)) / len(present),
        "calibration_error": sum(gaps) / len(labels),
    }


def test_figures_are_those_of_the_definitions(case):
    found = measure(*case, named(case[0].shape[1]))
    for name, expected in slow(*case).items():
        assert getattr(found, name) == (expected if expected is None else pytest.approx(expected, abs=1e-12)), name


def test_the_confusion_matrix_counts_true_classes_in_rows(case):
    logits, labels = case
    counted = np.zeros((logits.shape[1],) * 2, dtype=int)
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        counted[label, row.index(max(row))] += 1
    found = measure(logits, labels, named(logits.shape[1])).confusion
    assert found.dtype == torch.int64
    assert np.array_equal(found.numpy(), counted)


# Other people's


def test_scikit_learn_agrees(case):
    logits, labels = case
    k, y, p = logits.shape[1], labels.numpy(), logits.argmax(1).numpy()
    found = measure(logits, labels, named(k))
    present = sorted(set(y.tolist()))
    precision, recall, f1, count = sk.precision_recall_fscore_support(y, p, labels=range(k), zero_division=0)
    assert np.array_equal(found.confusion.numpy(), sk.confusion_matrix(y, p, labels=range(k)))
    assert found.accuracy == pytest.approx(sk.accuracy_score(y, p), abs=1e-12)
    assert found.loss == pytest.approx(sk.log_loss(y, logits.softmax(1).numpy(), labels=range(k)), abs=1e-12)
    assert found.balanced_accuracy == pytest.approx(recall[present].mean(), abs=1e-12)
    assert found.macro_f1 == pytest.approx(sk.f1_score(y, p, labels=present, average="macro"), abs=1e-12)
    assert found.present == len(present)
    for i, one in enumerate(found.per_class):
        assert one.count == count[i]
        assert one.precision == (pytest.approx(precision[i], abs=1e-12) if (p == i).any() else None)
        assert one.recall == (pytest.approx(recall[i], abs=1e-12) if count[i] else None)
        assert one.f1 == (pytest.approx(f1[i], abs=1e-12) if count[i] else None)


@pytest.mark.parametrize("name", ["three classes", "two classes", "ten classes with ties", "many classes"])
def test_scikit_learn_agrees_on_ranking(name):
    logits, labels = CASES[name]
    k, scores = logits.shape[1], logits.softmax(1).numpy()
    found = measure(logits, labels, named(k)).auroc
    if k == 2:
        expected = sk.roc_auc_score(labels == 1, scores[:, 1])
    else:
        expected = np.mean([sk.roc_auc_score(labels == c, scores[:, c]) for c in labels.unique()])
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore:No positive samples")  # of the classes that are not compared
@pytest.mark.parametrize("name", ["three classes", "ten classes with ties", "many classes"])
def test_torchmetrics_agrees_as_far_as_float32_goes(name):
    logits, labels = CASES[name]
    k, probability, present = logits.shape[1], logits.softmax(1), labels.unique()
    found = measure(logits, labels, named(k))
    areas = tm.multiclass_auroc(probability, labels, k, average=None)[present]
    assert found.auroc == pytest.approx(float(areas.mean()), abs=1e-6)
    f1 = tm.multiclass_f1_score(probability, labels, k, average=None)[present].mean()
    assert found.macro_f1 == pytest.approx(float(f1), abs=1e-6)
    calibration = tm.multiclass_calibration_error(probability, labels, k, n_bins=15)
    assert found.calibration_error == pytest.approx(float(calibration), abs=1e-6)


# No order of the photos changes anything


def numbers(found: Metrics):
    """Every number of the figures, None where there is none."""

    def flat(value):
        if isinstance(value, dict):
            return [part for key in value for part in flat(value[key])]
        if isinstance(value, list):
            return [part for one in value for part in flat(one)]
        return [value]

    return flat(found.as_dict())


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 8), st.integers(1, 40), st.booleans())
def test_the_order_of_the_photos_does_not_matter(data, k, n, whole):
    logits, labels = outputs(n, k, data.draw(st.integers(0, 999)), whole=whole)
    order = data.draw(st.permutations(range(n)))
    photos = [f"{i:03d}.jpg" for i in range(n)]
    one = numbers(measure(logits, labels, named(k), photos))
    other = numbers(measure(logits[order], labels[order], named(k), [photos[i] for i in order]))
    for a, b in zip(one, other, strict=True):
        assert a == (pytest.approx(b, abs=1e-12) if isinstance(b, float) else b)


def test_layout_and_type_do_not_matter():
    logits, labels = outputs(50, 6)
    expected = numbers(measure(logits, labels, named(6)))
    columns = logits.t().contiguous().t()
    assert numbers(measure(columns, labels.int(), named(6))) == expected
    assert numbers(measure(logits.clone().requires_grad_(), labels, tuple(named(6)))) == expected
    half = logits.bfloat16()
    assert numbers(measure(half, labels, named(6))) == numbers(measure(half.double(), labels, named(6)))


# Where probabilities end


def test_odds_rank_where_probabilities_are_all_one():
    logits = torch.tensor([[0.0, 60.0], [0.0, 50.0], [0.0, 40.0]], dtype=torch.float64)
    assert (logits.softmax(1)[:, 1] == 1).all()
    assert measure(logits, torch.tensor([1, 1, 0]), ["cat", "dog"]).auroc == 1
    assert measure(logits, torch.tensor([0, 1, 1]), ["cat", "dog"]).auroc == 0


def test_certainty_is_in_the_last_bin():
    certain = torch.tensor([1.0, 1.0, 0.95, 0.95], dtype=torch.float64)  # 15 bins: all above 14/15
    right = torch.tensor([True, True, True, False])
    assert calibration_error(certain, right) == pytest.approx((1 + 1 + 0.95 + 0.95) / 4 - 3 / 4, abs=1e-12)


def test_a_confidence_between_two_bins_is_in_the_lower():
    edge = torch.tensor([3 / 15, 0.15], dtype=torch.float64)
    assert calibration_error(edge, torch.tensor([True, False])) == pytest.approx(abs(0.2 + 0.15 - 1) / 2, abs=1e-12)


def test_a_wrong_certainty_costs_what_it_costs():
    logits = torch.tensor([[0.0, 800.0], [1e30, 0.0]], dtype=torch.float64)
    found = measure(logits, torch.tensor([0, 0]), ["cat", "dog"])
    assert found.loss == 400
    assert [loss.loss for loss in found.top_losses] == [800, 0]
    assert found.top_losses[0].probability == 0
    assert math.copysign(1, found.top_losses[1].loss) == 1  # and not -0.0


# The interval


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 2000), st.floats(0, 1), st.sampled_from([1.0, 1.6448536269514722, 1.959963984540054]))
def test_the_interval_ends_where_the_score_test_rejects(count, share, z):
    successes = round(share * count)
    found = wilson(successes, count, z)
    assert 0 <= found.low <= successes / count <= found.high <= 1
    for end in (found.low, found.high):  # |share - p| is z standard deviations of p, or p is at the border
        distance = (successes / count - end) ** 2 * count
        assert distance == pytest.approx(z * z * end * (1 - end), rel=1e-6, abs=1e-9)


def test_published_intervals():
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
    for (successes, count), ends in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        found = wilson(successes, count)
        assert (round(found.low, 4), round(found.high, 4)) == ends
    assert wilson(20, 20).high == 1
    assert wilson(0, 0) == Interval(0, 1)
    with pytest.raises(UsageError, match="from 0 to 3 can succeed, got 4"):
        wilson(4, 3)


# What is listed


def test_top_losses_are_the_worst_photos_by_name():
    logits, labels = outputs(100, 4)
    photos = [f"{i}.jpg" for i in range(100)]
    found = measure(logits, labels, named(4), photos).top_losses
    losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert [loss.name for loss in found] == [f"{i}.jpg" for i in losses.argsort(descending=True)[:25]]
    for loss in found:
        i = photos.index(loss.name)
        assert (loss.true, loss.predicted) == (f"class {labels[i]}", f"class {logits[i].argmax()}")
        assert loss.probability == pytest.approx(float(logits[i].softmax(0)[labels[i]]), abs=1e-12)


def test_photos_of_equal_loss_are_in_the_order_of_their_names():
    logits, labels = torch.zeros(40, 2), torch.zeros(40, dtype=torch.int64)
    photos = [f"{i:02d}.jpg" for i in reversed(range(40))]
    found = measure(logits, labels, ["cat", "dog"], photos).top_losses
    assert [loss.name for loss in found] == sorted(photos)[:25]
    assert [loss.name for loss in measure(logits, labels, ["cat", "dog"]).top_losses] == [str(i) for i in range(25)]


def test_absent_classes_keep_their_place():
    logits, labels = CASES["absent classes"]
    found = measure(logits, labels, named(7))
    assert found.missing == ("class 0", "class 2", "class 4", "class 5")
    assert [c.count for c in found.per_class] == [0, 15, 0, 30, 0, 0, 15]
    absent = found.per_class[0]
    assert (absent.recall, absent.recall_interval, absent.f1) == (None, None, None)
    rows = {row[0]: row for row in found.summary()}
    assert rows["photos"][2] == "of 3 of 7 classes; none of class 0, class 2, class 4, class 5"
    assert rows["balanced accuracy"][2] == "mean recall over 3 of 7 classes"


def test_json_is_plain(case):
    found = measure(*case, named(case[0].shape[1]))
    again = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert again == found.as_dict()
    assert again["confusion"] == found.confusion.tolist()
    assert again["accuracy_interval"] == {"low": found.accuracy_interval.low, "high": found.accuracy_interval.high}


def test_lines_are_a_summary_and_a_row_a_class():
    logits = torch.tensor([[2.0, 0, 0], [2, 0, 0], [0, 2, 0], [2, 0, 0]])
    found = measure(logits, torch.tensor([0, 0, 1, 1]), ["cat", "dog", "owl"]).lines()
    border = found.index(())
    assert ("accuracy", "75.0 %", "95 % interval 30.1 to 95.4 %") in found[:border]
    assert ("AUROC", "0.750", "each class against the rest, mean over 2 of 3 classes") in found[:border]
    assert found[border + 1 :] == [
        ("class", "photos", "precision", "recall", "95 % interval", "F1"),
        ("cat", "2", "66.7 %", "100.0 %", "34.2 to 100.0 %", "0.800"),
        ("dog", "2", "100.0 %", "50.0 %", "9.5 to 90.5 %", "0.667"),
        ("owl", "0", "-", "-", "-", "-"),
    ]


# What cannot be measured

GOOD = torch.zeros(3, 2)


@pytest.mark.parametrize(
    ("logits", "labels", "photos", "message"),
    [
        (GOOD[:0], [], (), "no photos to measure"),
        (GOOD, [0, 2, 1], (), "photo 1 has label 2: labels go from 0 to 1"),
        (GOOD, [0, 1, -1], ("a", "b", "c"), "photo c has label -1"),
        (GOOD, [0.0, 1.0, 1.0], (), "whole numbers"),
        (GOOD, [0, 1], (), r"got \(3, 2\) and \(2,\)"),
        (GOOD[0], [0, 1], (), "outputs are"),
        (GOOD, [0, 1, 1], ("a",), "a name for each of 3 photos, or none at all: got 1"),
        (torch.zeros(3, 4), [0, 1, 1], (), "got 2 for 4"),
    ],
)
def test_what_does_not_fit_is_refused(logits, labels, photos, message):
    labels = torch.tensor(labels, dtype=None if labels else torch.int64)
    with pytest.raises(UsageError, match=message) as error:
        measure(logits, labels, ["cat", "dog"], photos)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_outputs_that_are_not_finite_are_refused(value):
    logits = GOOD.clone()
    logits[1, 0] = value
    with pytest.raises(ConvscopeError, match=r"NaN or infinite for 1 of 3 photos, first b\.jpg"):
        measure(logits, torch.tensor([0, 1, 1]), ["cat", "dog"], ["a.jpg", "b.jpg", "c.jpg"])


def test_importing_it_does_not_import_torchmetrics():
    code = "import sys, convscope.training.metrics; print({'torchmetrics', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
