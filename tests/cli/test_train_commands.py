"""``convscope train``: what is in the run, what is printed, and what every refusal leaves behind: nothing."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from convscope.images.own import MARK
from tests.cli.conftest import Call
from tests.cli.digits import (
    NET,
    SMALL,
    contents,
    digits_in,
    files_of_at_most,
    folder_for_anyone,
    split_of,
    without_rights,
)

RUN_FILES = {
    MARK,
    "README.md",
    "classes.json",
    "config.yaml",
    "environment.json",
    "learned.safetensors",
    "evaluation.json",
    "metrics.jsonl",
}
RUN_FILES |= {"model.safetensors", "learned.safetensors", "quarantine.csv", "split.csv", "curves.png", "curves.svg"}
RUN_FILES |= {"confusion.png", "confusion.svg"}
CHECKPOINTS = {f"checkpoints/{name}/{file}" for name in ("best", "last") for file in ("state.json",)}
CHECKPOINTS |= {f"checkpoints/{name}/{file}.safetensors" for name in ("best", "last") for file in ("model", "training")}


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def every_photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_in(tmp_path_factory.mktemp("digits") / "photos")


@pytest.fixture
def photos(here: Path, every_photo: Path) -> Path:
    """Twenty photos of each of three digits, in the working folder."""
    shutil.copytree(every_photo, here / "photos")
    return Path("photos")


@pytest.fixture
def an_earlier_run(here: Path) -> None:
    """Runs that are there already, as far as a new one looks at them."""
    (here / "runs/before").mkdir(parents=True)
    (here / "runs/before/config.yaml").write_text("model: {}\n")
    (here / "runs/last").symlink_to("before")


def test_a_run_holds_what_it_promises_and_json_says_where(call: Call, here: Path, photos: Path) -> None:
    before = contents(photos)
    done = call("train", photos, *NET, "--epochs", 2, "--out", "runs/a", "--json")
    assert done.code == 0
    assert done.err.startswith("convscope: 3 classes, photos: 42 train, 9 val, 9 test; ")
    assert done.json.keys() == {"run", "epochs", "best", "measured_on", "metrics", "remarks"}
    assert (done.json["run"], done.json["epochs"], done.json["measured_on"]) == ("runs/a", 2, "test")
    assert done.json["metrics"].keys() >= {"accuracy", "accuracy_interval", "loss", "count", "per_class"}
    run = here / "runs/a"
    assert contents(run).keys() == RUN_FILES | CHECKPOINTS
    assert (here / "runs/last").resolve() == run
    assert {file.name for file in (here / "runs").iterdir()} == {"a", "last"}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert done.json["best"]["epoch"] in (1, 2)
    split = split_of(run)
    assert {name: len(of) for name, of in split.items()} == {"train": 42, "val": 9, "test": 9}
    assert done.json["metrics"]["count"] == 9
    assert json.loads((run / "evaluation.json").read_text())["test"]["loss"] == done.json["metrics"]["loss"]
    assert load_file(run / "model.safetensors")["head.weight"].shape == (3, 8)
    for picture in ("curves.png", "confusion.png"):
        assert np.asarray(Image.open(run / picture).convert("L")).std() > 10
    assert "| all | 42 | 9 | 9 |" in (run / "README.md").read_text("utf-8")
    assert contents(photos) == before


def test_for_people_there_is_a_table_an_accuracy_and_what_to_do_next(call: Call, photos: Path) -> None:
    done = call("train", photos, *NET, "--epochs", 2, "--out", "my run")
    assert done.code == 0
    head, first, last, blank, accuracy, place, command = done.out.splitlines()
    assert head.split() == ["epoch", "train", "loss", "accuracy", "val", "loss", "accuracy", "rate"]
    assert (first.split()[0], last.split()[0], blank) == ("1/2", "2/2", "")
    assert accuracy.startswith("accuracy ")
    assert accuracy.endswith(" on 9 test photos, which had no part in training")
    assert place.startswith("my run: ")
    assert shlex.split(command) == ["convscope", "explain", "run:my run", "PHOTO"]  # as a shell reads it


def test_without_photos_to_test_on_nothing_is_claimed(call: Call, here: Path) -> None:
    done = call("train", digits_in(here / "few", 1), *SMALL, "--out", "a")
    assert done.code == 0
    assert "3 classes have no photo in val and test: 'one', 'three', 'two'" in done.err
    head, row, *rest = done.out.splitlines()
    assert len(row.removesuffix("  best")) == len(head)  # what is missing keeps its place
    assert row.index("%") == head.index("accuracy") + len("accuracy") - 1
    assert "accuracy" not in " ".join(rest)
    assert "confusion" not in done.out
    assert not Path("a/confusion.png").exists()
    made = call("train", "few", *SMALL, "--out", "b", "--json").json
    assert made["metrics"] is None
    assert made["measured_on"] not in ("test", "val")


def test_it_learns(call: Call, photos: Path) -> None:
    done = call("train", photos, *NET, "--epochs", 40, "--lr", "0.02", "--out", "a", "--json")
    rows = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["train_loss"] < 0.7 * rows[0]["train_loss"]
    assert rows[-1]["lr"] < 0.01 * rows[0]["lr"]  # along a cosine
    assert done.json["metrics"]["accuracy"] > 0.6


def test_the_seed_alone_decides(call: Call, photos: Path) -> None:
    for name, more in (("a", ()), ("b", ()), ("c", ("--seed", "1"))):
        torch.manual_seed(len(more))
        assert call("train", photos, *SMALL, "--augment", "light", *more, "--out", name).code == 0
    weights = [Path(name, "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1] != weights[2]
    assert split_of(Path("a")) == split_of(Path("b")) != split_of(Path("c"))


def test_nothing_around_it_changes(call: Call, photos: Path) -> None:
    np.random.seed(1)
    torch.manual_seed(1)
    before = state_of_the_process()
    assert call("train", photos, *SMALL, "--augment", "standard", "--balance", "weights", "--out", "a").code == 0
    assert state_of_the_process() == before
    assert call("train", photos, *SMALL, "--lr", "1e30", "--out", "b").code == 1  # the loss is no longer finite
    assert call("train", photos, *SMALL, "--optimizer", "adam", "--out", "c").code == 2
    assert state_of_the_process() == before


def state_of_the_process() -> list[object]:
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    randomness = str(np.random.get_state()), torch.get_rng_state().tolist()  # the tests' type checks use random's own
    torch_state = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled(), deterministic
    return [environment, os.getcwd(), randomness, torch_state]


@pytest.mark.usefixtures("an_earlier_run")
@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        ([], 2, "no photos are named"),
        (["nowhere"], 2, "nowhere: no such file or folder"),
        (["photos/one"], 2, "photos/one: its 20 photos lie in no class folder"),
        (["photos", *NET, "--epochs", "0"], 2, "--epochs must be at least 1, got 0"),
        (["photos", *NET, "--epochs", "many"], 2, "Invalid value for '--epochs'"),
        (["photos", *NET, "--lr", "-1"], 2, "--lr must be greater than 0, got -1"),
        (["photos", *NET, "--lr", "nan"], 2, "--lr must be a finite number, got nan"),
        (["photos", *NET, "--batch-size", "0"], 2, "--batch-size must be at least 1, got 0"),
        (["photos", *NET, "--optimizer", "adam"], 2, "--optimizer: unknown optimizer 'adam'; nearest: adamw"),
        (["photos", *NET, "--augment", "wild"], 2, "--augment: unknown augmentation 'wild'"),
        (["photos", *NET, "--background", "blu"], 2, "--background: unknown colour 'blu'"),
        (["photos", *NET, "--split", "70/15"], 2, "split '70/15'"),
        (["photos", *NET, "--split", "80/10/10", "--subset", "5/2/2"], 2, "split and subset both"),
        (["photos", *NET, "--subset", "18/2/2"], 2, "class 'one' has 20 photos"),
        (["photos", *NET, "--group", "("], 2, "the group '('"),
        (["photos", *NET, "--head", "binary"], 2, "a binary head tells 2 classes apart"),
        (["photos", *NET, "--precision", "fp16", "--device", "cpu"], 2, "fp16 needs a CUDA device"),
        (["photos", *NET, "--freeze", "*"], 2, "* freezes all of the network"),
        (["photos", *NET, "--unfreeze", "nothing"], 2, "unknown layer with parameters 'nothing'"),
        (["photos", *NET, "--unfreeze", "@stage:9"], 2, "@stage:9: the network has"),
        (["photos", *NET, "--rate", "head"], 2, "--rate 'head' is not of the form name=value"),
        (["photos", *NET, "--rate", "nothing=1e-4"], 2, "rate nothing"),
        (["photos", *NET, "--evolve", "often"], 2, "--evolve 'often'"),
        (["photos", *NET, "--evolve", "1", "--evolve-units", "nothing:0"], 2, "unknown layer 'nothing'"),
        (["photos", *NET, "--evolve-units", "features.0:0"], 2, "--evolve-units"),
        (["photos", *NET, "--workers", "-1"], 2, "Invalid value for '--workers'"),
        (["photos", *NET, "--cache-limit", "-1"], 2, "--cache-limit -1 is no number of GiB above 0; --no-cache"),
        (["photos", *NET, "--cache-limit", "0"], 2, "--cache-limit 0 is no number of GiB above 0; --no-cache"),
        (["photos", *NET, "--cache-limit", "nan"], 2, "--cache-limit nan is no number of GiB"),
        (["photos", *NET, "--classes", "nowhere.txt"], 2, ""),
        (["photos", *NET, "--columns", "path=a"], 2, "photos: --columns is of no use"),
        (["photos", "--model", "net.py:Net"], 2, "net.py:Net does not say how large its input is: give --size"),
        (["photos", "--model", "net.py:Nett", "--size", "16"], 2, "unknown name in net.py 'Nett'; nearest: Net"),
        (["photos", *NET, "--option", "widht=3"], 2, "unknown option 'widht'"),
        (["photos", *NET, "--weights", "nowhere.pt"], 2, "weights nowhere.pt: no such file"),
        (["photos", "--from", "nowhere"], 2, "run:nowhere: not a run folder"),
        (["photos", *NET, "--from", "nowhere"], 2, "--from names a run"),
        (["photos", *NET, "--resume", "nowhere"], 2, "--resume nowhere: not a run folder"),
        (["photos", *NET, "--config", "nowhere.yaml"], 2, "nowhere.yaml cannot be read: No such file or directory"),
        (["photos", *NET, "--out", "net.py"], 2, "net.py is a file, and a run is a folder: choose another --out"),
        (["photos", *NET, "--out", "/proc/convscope/run"], 1, "cannot write /proc/convscope/run"),
        (["photos", *NET, "--out", "net.py/run"], 1, "cannot write net.py/run"),
        (["photos", "--model", "net.py:Flat", "--size", "16"], 1, "net.py:Flat fails on an input of 16x16"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_leaves_no_run(
    call: Call, here: Path, photos: Path, args: list[str], code: int, line: str
) -> None:
    before = contents(here)
    done = call("train", *args)
    assert (done.code, done.out) == (code, ""), done.err
    assert done.err.startswith(f"convscope: error: {line}"), done.err
    assert done.err.count("\n") == 1
    assert contents(here) == before
    assert Path("runs/last").readlink() == Path("before")


def test_a_device_that_is_not_there(call: Call, photos: Path) -> None:
    missing = "cuda:99" if torch.cuda.is_available() else "cuda"
    done = call("train", photos, *SMALL, "--device", missing, "--out", "a")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert f"--device {missing}: there is no such device here" in done.err
    assert not Path("a").exists()


def test_a_run_is_never_written_over(call: Call, here: Path, photos: Path) -> None:
    assert call("train", photos, *SMALL, "--out", "a").code == 0
    before = contents(here)
    done = call("train", photos, *SMALL, "--seed", 5, "--out", "a")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "a is there already: choose another --out, or go on with that run by --resume a" in done.err
    assert call("train", photos, *SMALL, "--out", "net.py").code == 2
    assert contents(here) == before


def test_settings_of_a_file_and_options_over_them(call: Call, photos: Path) -> None:
    Path("run.yaml").write_text("model: {spec: 'net.py:Net', size: 16}\ntraining: {epochs: 2, lr: 0.02}\n")
    assert call("train", photos, "--config", "run.yaml", "--epochs", 1, "--out", "a").code == 0
    held = yaml.safe_load(Path("a/config.yaml").read_text())
    assert (held["training"]["epochs"], held["training"]["lr"], held["model"]["size"]) == (1, 0.02, [16, 16])
    assert call("train", "--config", "a/config.yaml", "--out", "b").code == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    Path("empty.yaml").write_text("training:\ndata:\n")
    assert call("train", photos, *SMALL, "--config", "empty.yaml", "--out", "d").code == 0
    for text, line in (
        ("training: {epoch: 2}", "unknown setting of training 'epoch'; nearest: epochs (of wrong.yaml)"),
        ("training: {lr: -1}", "error: training.lr of wrong.yaml must be greater than 0, got -1"),
        ("net: x", "unknown section 'net'"),
        ("model: x", "model is a section"),
        ("a: [", "not YAML"),
    ):
        Path("wrong.yaml").write_text(text)
        done = call("train", photos, "--config", "wrong.yaml", "--out", "c")
        assert (done.code, done.err.count("\n"), Path("c").exists()) == (2, 1, False)
        assert line in done.err


def test_a_finished_run_is_left_as_it_is(call: Call, photos: Path) -> None:
    assert call("train", photos, *NET, "--epochs", 2, "--out", "a", "--json").code == 0
    first = contents(Path("a"))
    done = call("train", "--resume", "a", "--json")
    assert done.code == 0
    after = contents(Path("a"))
    assert after["model.safetensors"] == first["model.safetensors"]
    assert json.loads(after["evaluation.json"])["test"] == json.loads(first["evaluation.json"])["test"]
    assert after.keys() == first.keys()


def test_a_head_on_a_frozen_base_goes_on_as_it_began(call: Call, photos: Path) -> None:
    """What the base gives is computed once; in a run that goes on it must be the same base."""
    assert call("train", photos, *NET, "--epochs", 3, "--lr", ".03", "--out", "base").code == 0
    head = ("--from", "base", "--freeze", "features*", "--schedule", "constant")
    assert call("train", photos, *head, "--epochs", 4, "--out", "whole").code == 0
    assert call("train", photos, *head, "--epochs", 2, "--out", "half").code == 0
    done = call("train", "--resume", "half", "--epochs", 4, "--json")
    assert (done.code, done.json["epochs"]) == (0, 4)
    assert Path("half/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    rows = [Path(name, "metrics.jsonl").read_text() for name in ("whole", "half")]
    assert rows[0] == rows[1]
    cards = [Path(name, "README.md").read_text() for name in ("whole", "half")]
    bases = [[line for line in card.splitlines() if line.startswith(("| base |", "| trained |"))] for card in cards]
    assert bases[0] == bases[1]


def test_auto_begins_goes_on_and_begins_again_where_there_is_no_checkpoint(call: Call, photos: Path) -> None:
    auto = (*NET, "--resume", "auto", "--out", "a")
    assert call("train", photos, *auto, "--epochs", 1).code == 0
    assert call("train", photos, *auto, "--epochs", 2, "--json").json["epochs"] == 2
    shutil.rmtree("a/checkpoints")  # killed before its first checkpoint, as while a base's features are computed
    Path("a/checkpoints").mkdir()
    Path("a/.unbegun").touch()
    for name in ("model.safetensors", "metrics.jsonl", "evaluation.json", "README.md"):
        Path("a", name).unlink()
    for picture in [*Path("a").glob("*.png"), *Path("a").glob("*.svg")]:
        picture.unlink()
    done = call("train", photos, *auto, "--epochs", 1, "--json")
    assert done.code == 0, done.err
    assert done.json["epochs"] == 1


def test_a_run_that_goes_on_takes_no_other_settings(call: Call, here: Path, photos: Path) -> None:
    assert call("train", photos, *SMALL, "--out", "a").code == 0
    Path("run.yaml").write_text("training: {augment: light}\n")
    before = contents(here)
    for args, line in (
        (["--lr", "0.5"], "lr is 0.001 there and 0.5 here"),
        (["--out", "elsewhere"], "--out"),
        (["--config", "run.yaml"], "--config"),
    ):
        done = call("train", "--resume", "a", *args)
        assert (done.code, done.err.count("\n")) == (2, 1), (args, done.err)
        assert line in done.err
    assert contents(here) == before
    Path("photos/one/one 0.png").unlink()
    done = call("train", "--resume", "a", "--epochs", 2)
    assert done.code == 2
    assert "1 are gone, such as one/one 0.png" in done.err


def test_test_photos_that_an_earlier_run_learned_are_admitted(call: Call, photos: Path) -> None:
    assert call("train", photos, *SMALL, "--out", "a").code == 0
    done = call("train", photos, "--from", "a", "--epochs", 1, "--seed", 7, "--out", "b")
    assert done.code == 0
    seen = set(split_of(Path("b"))["test"]) & set(split_of(Path("a"))["train"])
    assert seen
    told = done.out + done.err
    assert f"{len(seen)} of " in told
    assert "which had no part in training" not in told
    assert call("train", photos, "--from", "a", "--epochs", 1, "--out", "c").out.count("had no part in training") == 1


def test_snapshots_of_units(call: Call, photos: Path) -> None:
    units = ("--evolve-units", "features.3:0-1")
    assert call("train", photos, *NET, "--epochs", 2, "--evolve", "e1,e2", *units, "--out", "a").code == 0
    lines = [json.loads(line) for line in Path("a/evolution/snapshots.jsonl").read_text().splitlines()]
    assert [(line["step"], line["unit"]) for line in lines] == [
        (step, f"features.3:{unit}") for step in (1, 2) for unit in (0, 1)
    ]
    assert Image.open("a/evolution/evolution.png").width > 100
    assert all(line["picture"] is None or Path("a/evolution", line["picture"]).exists() for line in lines)
    plain = call("train", photos, *NET, "--epochs", 2, "--out", "b")
    assert plain.code == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()
    assert call("train", photos, *NET, "--epochs", 2, "--evolve", "3", *units, "--out", "c").code == 0
    steps = {json.loads(line)["step"] for line in Path("c/evolution/snapshots.jsonl").read_text().splitlines()}
    assert steps == {3}  # two steps an epoch, four in all


@pytest.fixture
def where_rights_count(monkeypatch: pytest.MonkeyPatch, photos: Path, here: Path) -> Iterator[Path]:
    with folder_for_anyone() as place:
        shutil.copytree(photos, place / "photos")
        shutil.copy("net.py", place)
        monkeypatch.chdir(place)
        monkeypatch.setenv("CONVSCOPE_CACHE", str(place / "cache"))
        yield place


def test_a_folder_that_may_not_be_written_keeps_its_checkpoint(call: Call, where_rights_count: Path) -> None:
    assert call("train", "photos", *SMALL, "--out", "a", "--schedule", "constant").code == 0
    before = contents(Path("a"))
    locked = [Path("."), Path("a"), Path("a/checkpoints")]
    for folder in locked:
        folder.chmod(0o555)
    try:
        with without_rights():
            done = call("train", "--resume", "a", "--epochs", 2)
            fresh = call("train", "photos", *SMALL, "--out", "b")
    finally:
        for folder in locked:
            folder.chmod(0o755)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "cannot write " in done.err
    assert "Permission denied" in done.err
    assert (fresh.code, Path("b").exists()) == (1, False)
    assert contents(Path("a")) == before
    assert call("train", "--resume", "a", "--epochs", 2, "--json").json["epochs"] == 2


def test_a_full_disk_keeps_the_last_checkpoint_and_what_follows_is_as_if_it_had_room(call: Call, photos: Path) -> None:
    constant = (*NET, "--schedule", "constant")
    assert call("train", photos, *constant, "--epochs", 3, "--out", "whole").code == 0
    assert call("train", photos, *constant, "--epochs", 1, "--out", "a").code == 0
    before = contents(Path("a/checkpoints"))
    with files_of_at_most(1000):
        done = call("train", "--resume", "a", "--epochs", 3)
        fresh = call("train", photos, *constant, "--epochs", 1, "--out", "b")
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert done.err.startswith("convscope: error: cannot write ")
    assert contents(Path("a/checkpoints")) == before
    assert (fresh.code, fresh.err.count("\n"), Path("b").exists()) == (1, 1, False)
    assert call("train", "--resume", "a", "--epochs", 3).code == 0
    assert Path("a/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert Path("a/metrics.jsonl").read_text() == Path("whole/metrics.jsonl").read_text()
