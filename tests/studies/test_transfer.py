from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from convscope.data.split import read_split
from convscope.errors import Cancelled, UsageError
from convscope.models.registry import load_classifier
from convscope.progress import reporting
from convscope.studies import configure, subject
from convscope.studies.result import Result
from convscope.studies.retraining import runs
from convscope.studies.retraining.repeats import gain, shares, spread
from convscope.studies.retraining.runs import epochs_for
from convscope.studies.subject import DataSet
from convscope.training.evaluate import evaluate
from convscope.training.metrics import wilson
from tests.studies.sets import NET, counted, data_of, digits_in, without_charts

QUICK = {"per_class": "2,5", "repeats": 2, "test": 6, "steps": 8, "scratch_steps": 6}


@pytest.fixture(scope="module", autouse=True)
def _without_charts() -> Iterator[None]:
    with without_charts():
        yield


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[DataSet, Result]:
    """A study that others look at, and do not change."""
    data = made(tmp_path_factory.mktemp("studied"))
    return data, configure("transfer", QUICK).run(data)


@pytest.fixture
def data(tmp_path: Path) -> DataSet:
    return made(tmp_path)


def made(tmp_path: Path) -> DataSet:
    """Three classes of digits, and a model for seven."""
    (tmp_path / "net.py").write_text(NET)
    digits_in(tmp_path / "photos", 14)
    torch.manual_seed(0)
    spec = f"{tmp_path / 'net.py'}:Trunk"
    classifier = load_classifier(spec, size=8, mean=0.4, options={"num_classes": 7})
    return data_of(tmp_path / "photos", tmp_path / "out", classifier, spec=spec, options={"num_classes": 7})


def test_what_is_pretrained_stays_and_what_is_scratch_does_not(studied: tuple[DataSet, Result]) -> None:
    data, found = studied
    assert data.classifier is not None
    base = {name: value for name, value in data.classifier.network.state_dict().items() if name.startswith("body")}
    heads = []
    for row in found.table("trainings").records():
        state = load_file(Path(str(row["run"])) / "model.safetensors")
        same = all(torch.equal(state[name], value) for name, value in base.items())
        assert same == (row["network"] == "pretrained")
        assert row["epochs"] == (8 if same else 6)  # of one step each: there are 15 photos at most
        heads.append(state["head.weight"])
        assert heads[-1].shape == (3, 96)
    assert len(heads) == 2 * 2 * 2
    assert not torch.equal(heads[0], heads[1])


def test_photos_measured_are_the_same_and_those_learned_from_exact(studied: tuple[DataSet, Result]) -> None:
    _, found = studied
    tests, drawn = set(), {}
    for row in found.table("trainings").records():
        names, labels, of = read_split(Path(str(row["run"])) / "split.csv")
        tests.add(tuple(name for name, kind in zip(names, of, strict=True) if kind == 2))
        train = [(label, name) for name, label, kind in zip(names, labels, of, strict=True) if kind == 0]
        assert [sum(label == f"number {i}" for label, _ in train) for i in range(3)] == [row["photos"]] * 3
        assert not {name for _, name in train} & set(next(iter(tests)))
        assert 1 not in of
        drawn[row["network"], row["photos"], row["repetition"]] = set(train)
    assert len(tests) == 1
    assert len(tests.pop()) == 18
    assert drawn["scratch", 5, 0] == drawn["pretrained", 5, 0] != drawn["pretrained", 5, 1]
    assert drawn["scratch", 2, 1] < drawn["scratch", 5, 1]


def test_the_table_is_of_the_runs_own_figures(studied: tuple[DataSet, Result]) -> None:
    _, found = studied
    by_hand: dict[tuple[str, int], list[float]] = {}
    for row in found.table("trainings").records():
        measured = json.loads((Path(str(row["run"])) / "evaluation.json").read_text())["test"]
        confusion = np.array(measured["confusion"])
        share = float((confusion.diagonal() / confusion.sum(1)).mean())
        assert row["accuracy"] == pytest.approx(share)
        by_hand.setdefault((str(row["network"]), int(row["photos"] or 0)), []).append(share)
    for row in found.table().records():
        for kind in ("scratch", "pretrained"):
            values = np.array(by_hand[kind, row["photos"]])
            assert row[kind] == pytest.approx(values.mean())
            assert row[f"{kind} low"] < row[kind] < row[f"{kind} high"] or row[kind] in (0, 1)
        gains = np.subtract(by_hand["pretrained", row["photos"]], by_hand["scratch", row["photos"]])
        assert row["gain"] == pytest.approx(gains.mean())
        assert row["gain low"] < row["gain"] < row["gain high"]
        assert row["chance"] == pytest.approx(1 / 3)


def test_twice_trains_once_and_more_trains_the_rest(data: DataSet) -> None:
    few = {**QUICK, "repeats": 1, "per_class": "3"}
    with counted() as calls:
        first = configure("transfer", few).run(data)
        assert len(calls) == 2
        again = configure("transfer", few).run(data)
        assert len(calls) == 2
        assert again.about() == first.about()
        configure("transfer", {**few, "repeats": 2}).run(data)
        assert len(calls) == 4
        configure("transfer", {**few, "scratch_steps": 7}).run(data)
        assert len(calls) == 5
        configure("transfer", few).run(data, seed=1)
        assert len(calls) == 7
        (Path(data.source) / "number 1" / "13.png").unlink()
        configure("transfer", few).run(DataSet(data.source, data.folder, data.model, data.classifier, {}, data.machine))
        assert len(calls) == 9  # they are other photos


def test_a_study_that_is_stopped_goes_on(data: DataSet, studied: tuple[DataSet, Result]) -> None:
    _, whole = studied
    looks = [0]

    def later() -> bool:
        looks[0] += 1
        return looks[0] > 66

    with counted() as calls, pytest.raises(Cancelled, match="the same command goes on"), reporting(cancel=later):
        configure("transfer", QUICK).run(data)
    begun = len(calls)
    assert 1 < begun < 8
    done = len(list((data.folder / "trained").glob("*/study.json")))
    assert done == begun - 1
    with counted() as calls:
        found = configure("transfer", QUICK).run(data)
    assert len(calls) == 8 - done
    drop = ("run",)
    rows = [
        [{k: v for k, v in r.items() if k not in drop} for r in one.table("trainings").records()]
        for one in (found, whole)
    ]
    assert rows[0] == rows[1]  # also the run that was stopped in the middle
    assert not list((data.folder / "trained").glob("*/checkpoints"))


def test_one_repetition_has_the_photos_interval(data: DataSet) -> None:
    found = configure("transfer", {**QUICK, "repeats": 1, "per_class": 3}).run(data)
    [row] = found.table().records()
    interval = wilson(round(row["pretrained"] * 18), 18)  # of as many photos in each class
    assert (row["pretrained low"], row["pretrained high"]) == pytest.approx((interval.low, interval.high), abs=0.1)
    assert row["gain low"] < row["gain"] < row["gain high"]
    assert any("each network was trained once" in note for note in found.notes)


def test_the_gain_is_of_the_photos_that_both_were_asked_about(data: DataSet) -> None:
    """By the trained networks themselves: which photos each tells right."""
    found = configure("transfer", {**QUICK, "per_class": 3}).run(data)
    right = {}
    for row in found.table("trainings").records():
        told = evaluate(load_classifier(f"run:{row['run']}"), data.catalog, _kept_apart(Path(str(row["run"])), data))
        right.setdefault(row["network"], []).append(told.right)
        labels = data.catalog.labels[told.rows]
        assert row["accuracy"] == pytest.approx(shares(told.right[None].astype(float), labels)[0])
    by_hand = gain(np.array(right["pretrained"], float), np.array(right["scratch"], float), labels)
    [row] = found.table().records()
    assert (row["gain"], row["gain low"], row["gain high"]) == pytest.approx(by_hand)
    for kind, each in right.items():
        own = spread(np.array(each, float), labels)
        assert (row[kind], row[f"{kind} low"], row[f"{kind} high"]) == pytest.approx(own)


def _kept_apart(run: Path, data: DataSet) -> np.ndarray:
    """The rows of the photos that a run measured, by its split's file."""
    settings = yaml.safe_load((run / "config.yaml").read_text())
    names = {line.split(",")[0] for line in Path(settings["data"]["split"]).read_text().splitlines() if ",test" in line}
    return np.array([row for row, name in enumerate(data.catalog.store.names) if name in names])


def test_epochs_are_at_least_so_many_steps() -> None:
    assert [epochs_for(*job) for job in ((10, 14, 32), (10, 64, 32), (10, 65, 32), (11, 66, 32))] == [10, 5, 5, 4]


def test_what_cannot_be_is_said_before_anything_is_trained(
    data: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(runs, "train", never)
    with pytest.raises(UsageError, match="'number 0' has 13 of its 14 photos to learn from, and 14 are needed"):
        configure("transfer", {**QUICK, "per_class": 14}).run(data)
    monkeypatch.setattr(subject, "scan", never)
    fresh = DataSet(data.source, data.folder, data.model, data.classifier)
    for settings, said in (
        ({"per_class": "0,3"}, "at least 1"),
        ({"training": "epochs=3"}, "epochs is the study's to decide"),
        ({"training": "augment=sideways"}, "sideways"),
        ({"training": "lr"}, "'lr' is not of the form name=value"),
    ):
        with pytest.raises(UsageError, match=said):
            configure("transfer", {**QUICK, **settings}).run(fresh)
    with pytest.raises(UsageError, match="load the model by a name"):
        configure("transfer", QUICK).run(DataSet(data.source, data.folder, {}, data.classifier))
    fixed = {"spec": f"{tmp_path / 'net.py'}:Fixed"}
    with pytest.raises(UsageError, match="has the same weights whenever it is made"):
        configure("transfer", QUICK).run(DataSet(data.source, data.folder, fixed, data.classifier))
    assert not data.folder.exists()


def test_a_run_of_the_same_classes_begins_its_softmax_anew(data: DataSet, tmp_path: Path) -> None:
    from convscope.training.api import train

    done = train(
        data.source, out=tmp_path / "run", model=data.model["spec"], size=8, epochs=2, device="cpu", workers=0, seed=5
    )
    spec = f"run:{done.folder}"
    classifier = load_classifier(spec)
    found = configure("transfer", {**QUICK, "repeats": 1, "per_class": 4}).run(
        DataSet(data.source, tmp_path / "of run", {"spec": spec}, classifier, {}, data.machine)
    )
    run = next(row["run"] for row in found.table("trainings").records() if row["network"] == "pretrained")
    state, before = load_file(Path(str(run)) / "model.safetensors"), classifier.network.state_dict()
    assert torch.equal(state["body.0.weight"], before["body.0.weight"])
    assert (state["head.weight"] - before["head.weight"]).abs().max() > 0.05
    assert any("had been learned from by the model" in note for note in found.notes)
