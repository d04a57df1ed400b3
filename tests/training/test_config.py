"""Settings: from files and keywords, checked, resolved, compared with those of a run."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
import yaml

import convscope as cs
from convscope.errors import UsageError
from convscope.training.api import sections
from convscope.training.config import (
    Config,
    Model,
    checked_sections,
    keyword,
    read_config,
    resolve_config,
    sections_of,
)
from convscope.training.resume import differences, which

NET = """
from torch import nn
def Net(num_classes=10):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, num_classes))
"""


def test_the_command_line_goes_before_the_file() -> None:
    held = {"training": {"epochs": 7, "lr": 0.1}, "data": {"source": "a"}}
    made = resolve_config(held, {"training": {"epochs": 9, "lr": None}, "data": {"source": "b"}})
    assert (made.training.epochs, made.training.lr, made.data.source) == (9, 0.1, "b")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"training": {"epochs": 0}}, "epochs must be at least 1, got 0"),
        ({"training": {"lr": -1.0}}, "lr must be greater than 0, got -1"),
        ({"training": {"lr": "fast"}}, "lr must be a number, got 'fast'"),
        ({"training": {"batch_size": 1.5}}, "batch_size must be a whole number, got 1.5"),
        ({"training": {"optimizer": "adam"}}, "optimizer: unknown optimizer 'adam'; nearest: adamw"),
        ({"training": {"rates": {"head": "fast"}}}, "rates['head'] must be a number, got 'fast'"),
        ({"training": {"freeze": "*"}}, "freeze must be a list, got '*'"),
        ({"training": {1: 2}}, "unknown setting of training '1'"),
        ({"training": {"momentun": 0.9}}, "unknown setting of training 'momentun'; nearest: momentum"),
        ({"training": {"lr": float("nan")}}, "lr must be a finite number, got nan"),
        ({"training": {"augment": "wild"}}, "augment: unknown augmentation 'wild'; nearest: "),
        ({"data": {"background": "blu"}}, "background: unknown colour 'blu'"),
        ({"data": {"background": ""}}, "background: unknown colour ''"),
        ({"evolution": {"at": [0, 5]}}, "evolve must be a number of iterations, or a list of those"),
        ({"evolution": {"photos": 0}}, "evolve_photos must be at least 1, got 0"),
        ({"model": {"spec": 3}}, "model must be text, got 3"),
        ({"data": {"split": "70/15/15", "subset": "9/9/9"}}, "split and subset both say"),
        (
            {"model": {"size": "big"}},
            "size must be a side such as 224, or height and width such as [96, 128], got 'big'",
        ),
        (
            {"model": {"size": [96, 0]}},
            "size must be a side such as 224, or height and width such as [96, 128], got [96, 0]",
        ),
    ],
)
def test_what_is_wrong_is_one_line(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve_config(settings, {})
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_keywords_are_named_as_they_were_given() -> None:
    for settings, says in (
        ({"lr": -1}, "lr must be greater than 0, got -1"),
        ({"augment": "wild"}, "augment: unknown augmentation 'wild'"),
        ({"evolve_photos": 0}, "evolve_photos must be at least 1"),
    ):
        with pytest.raises(UsageError, match=f"^{says}"):
            cs.train("digits", **settings)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("training: [1, 2]", "training is a section"),
        ("- a\n- b", "expected sections"),
        ("trainig:\n  lr: 1", "unknown section 'trainig'; nearest: training"),
        ("epochs: 3", "epochs is a setting of the section training: write it there"),
        ("subset: 8/1/1", "subset is a setting of the section data: write it there"),
        ("training: {lr: 1", "not YAML"),
        ("model:\n  spek: x", r"unknown setting of model 'spek'; nearest: spec, size \(of .*run.yaml\)"),
        ("training:\n  lr: -1", r"training.lr of .*run.yaml must be greater than 0, got -1"),
        ("training: {rates: {head: fast}}", r"training.rates\['head'\] of .*run.yaml must be a number, got 'fast'"),
        ("data: {split: 8/1/1, subset: 8/1/1}", r"run.yaml: split and subset both"),
        ("", None),
        ("training:\ndata:\nmodel:\nevolution:\n", None),
    ],
)
def test_files(tmp_path: Path, text: str, says: str | None) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    if says is None:
        assert resolve_config(read_config(file), {}) == Config()
        return
    with pytest.raises(UsageError, match=says):
        read_config(file)


def test_an_empty_section_of_a_file_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("training:\ndata: {split: 80/20}\n")
    assert read_config(tmp_path / "run.yaml") == {"training": {}, "data": {"split": "80/20"}}


def test_sections_of_a_mapping_are_checked_as_those_of_a_file() -> None:
    given = MappingProxyType({"model": None, "training": MappingProxyType({"lr": 0.1})})
    assert checked_sections(given, "config") == {"model": {}, "training": {"lr": 0.1}}
    for wrong, says in (
        ({"trainig": {"lr": 1}}, "unknown section 'trainig'; nearest: training (of config)"),
        ({"training": [1]}, "config: training is a section, with settings in it"),
        ({"training": {"lr": 0}}, "training.lr of config must be greater than 0, got 0"),
        ([1], "config: expected sections"),
    ):
        with pytest.raises(UsageError) as caught:
            checked_sections(wrong, "config")  # type: ignore[arg-type]
        assert str(caught.value).startswith(says)


def test_what_a_run_says_of_its_model_is_left_out_and_what_another_version_wrote_can_be_read(run: Path) -> None:
    assert yaml.safe_load((run / "config.yaml").read_text())["model"].keys() > Model.model_fields.keys()
    assert read_config(run / "config.yaml")["model"].keys() == Model.model_fields.keys()
    later = run.parent / "later.yaml"
    later.write_text("training: {epochs: 3, lookahead: 5}\n")
    assert sections_of(later) == {"training": {"epochs": 3, "lookahead": 5}}
    with pytest.raises(UsageError, match="unknown setting of training 'lookahead'"):
        read_config(later)


def test_every_setting_has_the_name_that_train_takes() -> None:
    for section, field in Config.model_fields.items():
        for name in getattr(field.annotation, "model_fields", {}):
            if name != "digest":  # a run's own
                assert sections({keyword(section, name): "x"}) == {section: {name: "x"}}


def test_keywords_find_their_sections() -> None:
    assert sections(
        {"model": "x:y", "lr": 0.1, "split": "80/20", "evolve": 5, "evolve_units": ["a:1"], "clip": None}
    ) == {
        "model": {"spec": "x:y"},
        "training": {"lr": 0.1},
        "data": {"split": "80/20"},
        "evolution": {"at": 5, "units": ["a:1"]},
    }
    with pytest.raises(UsageError, match="unknown setting 'learning_rat'"):
        sections({"learning_rat": 1})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    (folder / "net.py").write_text(NET)
    torch.manual_seed(4)
    before = torch.get_rng_state()
    done = cs.train(
        "digits", model=f"{folder}/net.py:Net", size=8, epochs=1, augment="shift=.1", out=folder / "run", batch_size=256
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert done.folder == folder / "run"
    return done.folder


def test_a_run_says_everything_it_was_made_with(run: Path) -> None:
    held = yaml.safe_load((run / "config.yaml").read_text())
    assert held["training"]["lr"] == 1e-3
    assert held["training"]["unfreeze"] == ["*"]
    assert held["training"]["schedule"] == "cosine"
    assert held["model"]["options"] == {"num_classes": 10}
    for name in (
        "metrics.jsonl",
        "split.csv",
        "quarantine.csv",
        "environment.json",
        "README.md",
        "curves.svg",
        "curves.png",
    ):
        assert (run / name).stat().st_size > 0
    assert {place.name for place in (run / "checkpoints").iterdir()} == {"best", "last"}
    net = cs.load(f"run:{run}")
    assert net.classes is not None
    assert net.classes.names == tuple("0123456789")


def test_its_config_makes_the_same_run_again(run: Path, tmp_path: Path) -> None:
    again = cs.train(config=run / "config.yaml", out=tmp_path / "again")
    assert (again.folder / "metrics.jsonl").read_text() == (run / "metrics.jsonl").read_text()
    assert (again.folder / "split.csv").read_text() == (run / "split.csv").read_text()


def test_what_differs_from_a_run_is_named(run: Path) -> None:
    given = sections({"lr": 0.5, "batch_size": 256, "augment": "shift=.10", "size": 8, "epochs": 4})
    assert differences(run, given) == ["training.lr is 0.001 there and 0.5 here"]


def test_auto_takes_up_what_is_not_done(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert which("auto", None, {}) is None
    assert which("auto", tmp_path / "new", {}) is None
    assert which("auto", run, {}) == run.resolve()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "last").symlink_to(run)
    assert which("auto", None, {}) is None  # it is finished
    with pytest.raises(UsageError, match="not a run folder"):
        which("nowhere", None, {})


def test_photos_that_changed_are_refused_by_name(tmp_path: Path) -> None:
    from skimage import data

    (tmp_path / "net.py").write_text(NET.replace("Conv2d(1", "Conv2d(3"))
    from PIL import Image

    for name in ("cat", "cup"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(5):
            photo = data.chelsea() if name == "cat" else data.coffee()
            Image.fromarray(photo[i * 20 : i * 20 + 64, :64]).save(tmp_path / "photos" / name / f"{i}.png")
    settings = {"model": f"{tmp_path}/net.py:Net", "size": 8, "workers": 0, "batch_size": 4}
    cs.train(tmp_path / "photos", out=tmp_path / "run", epochs=1, **settings)
    (tmp_path / "photos/cat/0.png").rename(tmp_path / "photos/cat/new.png")
    with pytest.raises(UsageError, match=r"1 are gone, such as cat/0.png; 1 are new, such as cat/new.png"):
        cs.train(tmp_path / "photos", resume=tmp_path / "run", epochs=2)
    (tmp_path / "photos/cat/new.png").rename(tmp_path / "photos/cat/0.png")
    done = cs.train(tmp_path / "photos", resume=tmp_path / "run", epochs=2)
    assert len(done.rows) == 2
