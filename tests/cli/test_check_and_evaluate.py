"""``convscope check``, ``evaluate`` and ``predict`` on a run: what is found, printed and written."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from convscope.cli import evaluate
from convscope.cli.process import run as convscope
from convscope.images.lettering import fitted, font
from convscope.images.own import MARK
from convscope.training.metrics import TopLoss
from tests.cli.conftest import NET as SOURCE
from tests.cli.conftest import Call
from tests.cli.digits import CLASSES, NET, contents, digits_in, files_of_at_most, split_of
from tests.fonts import font_with, only_fonts


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVSCOPE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.py, photos/ and a run on them."""
    place = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("CONVSCOPE_CACHE", str(place / "cache"))
        patch.setenv("CONVSCOPE_ALLOCATOR", "default")
        Path("net.py").write_text(SOURCE, "utf-8")
        digits_in(Path("photos"))
        assert convscope(["train", "photos", *NET, "--epochs", "40", "--lr", "0.02", "--out", "run"]) == 0
    return place


@pytest.fixture
def photos(here: Path, place: Path) -> Path:
    shutil.copytree(place / "photos", here / "photos")
    return Path("photos")


@pytest.fixture
def trained(here: Path, place: Path) -> str:
    """The run in the working folder; its photos are in the folder that it was made in."""
    shutil.copytree(place / "run", here / "run")
    return "run"


# check


def test_a_folder_with_nothing_to_mend(call: Call, photos: Path) -> None:
    before = {file: file.stat() for file in photos.rglob("*")}
    done = call("check", photos)
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert [line.split() for line in lines[:4]] == [["class", "photos"], *([name, "20"] for name in CLASSES)]
    assert lines[-2:] == ["60 photos in 3 classes; all 16x16", "nothing to mend"]
    found = call("check", photos, "--json").json
    assert found["classes"] == list(CLASSES)
    assert (found["photos"], found["counts"], found["unlabelled"]) == (60, {"photos": [20, 20, 20]}, 0)
    assert (found["findings"], found["left_out"], found["faces"]) == ([], [], None)
    after = {file: file.stat() for file in photos.rglob("*")}
    assert [(a.st_mtime_ns, a.st_size) for a in after.values()] == [(b.st_mtime_ns, b.st_size) for b in before.values()]


def test_what_is_wrong_is_told_with_code_1_and_left_alone(call: Call, photos: Path) -> None:
    whole = Path("photos/one/one 0.png").read_bytes()
    Path("photos/one/cut.png").write_bytes(whole[: len(whole) // 2])
    Path("photos/one/empty.png").touch()
    Path("photos/two/page.jpg").write_text("<html></html>")
    shutil.copy("photos/three/three 3.png", "photos/two/copy.png")
    Path("photos/nobody").mkdir()
    before = contents(photos)
    done = call("check", photos, "--json")
    assert (done.code, done.err) == (1, "")
    found = done.json
    assert {one["name"] for one in found["left_out"]} == {"one/cut.png", "one/empty.png", "two/page.jpg"}
    kinds = {one["kind"]: one for one in found["findings"]}
    assert set(kinds["two classes"]["photos"]) == {"three/three 3.png", "two/copy.png"}
    assert "no photos in nobody: no class" in found["remarks"]
    told = call("check", photos)
    assert told.code == 1
    assert "nothing to mend" not in told.out
    for name in ("cut.png", "empty.png", "page.jpg", "copy.png"):
        assert name in told.out
    assert contents(photos) == before


def test_lists_with_windows_ends_spaces_and_odd_columns(call: Call, photos: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    rows = [(str(file), file.parent.name) for file in files]
    Path("list.txt").write_bytes("".join(f"{path} {label}\r\n" for path, label in rows).encode())
    table = "".join(f'"{path}";{label};"a;b"\r\n' for path, label in rows)
    Path("odd.csv").write_bytes(("\ufeffImage File;Kind;notes\r\n" + table).encode())
    for args in (["list.txt"], ["odd.csv", "--columns", "path=Image File,label=Kind"]):
        found = call("check", *args, "--json").json
        assert (found["classes"], found["counts"]) == (list(CLASSES), {"photos": [20, 20, 20]})
    done = call("check", "odd.csv")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "its columns are Image File, Kind, notes" in done.err
    assert "--columns path=NAME" in done.err  # the option's own name


def test_photos_without_classes_are_counted_under_no_empty_table(call: Call, photos: Path) -> None:
    done = call("check", photos / "one")
    assert "20 photos in 0 classes, 20 without a class" in done.out
    assert done.out.splitlines()[0] != ""
    assert "nothing to mend" not in done.out  # a training would refuse them


def test_the_preview_is_a_picture_of_augmented_photos(call: Call, photos: Path) -> None:
    done = call("check", photos, "--preview-augment", "rotation=40", "--out", "new/p.png")
    assert (done.code, done.err) == (0, "convscope: the preview is in new/p.png\n")
    drawn = np.asarray(Image.open("new/p.png").convert("RGB")).astype(int)
    assert call("check", photos, "--preview-augment", "none", "--out", "new/q.png").code == 0
    still = np.asarray(Image.open("new/q.png").convert("RGB")).astype(int)
    tall, wide = min(len(drawn), len(still)), min(drawn.shape[1], still.shape[1])
    first, rest = slice(0, wide // 9), slice(wide // 4, wide)
    changed = np.abs(drawn[60:tall, :wide] - still[60:tall, :wide]).mean((0, 2))
    assert changed[first].mean() < 0.1 * changed[rest].mean()  # the first column is the photo as it is
    assert call("check", photos, "--preview-augment", "light").code == 0
    assert Path("augment-preview.png").exists()


def test_faces_are_cropped_into_a_folder_of_their_own(call: Call, here: Path) -> None:
    for kind, pixels in (("person", data.astronaut()), ("drink", data.coffee())):
        Path("some", kind).mkdir(parents=True)
        Image.fromarray(pixels).save(Path("some", kind, "photo.jpg"))
    before = contents(Path("some"))
    done = call("check", "some", "--crop-faces", "--out", "faces")
    assert "faces: 1 of 2 photos cropped into faces" in done.out
    assert Path("faces/report.csv").exists()
    (face,) = Path("faces/person").iterdir()
    assert 40 < Image.open(face).width < 400
    assert contents(Path("some")) == before


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        ([], 2, "Missing argument 'PHOTOS'"),
        (["nowhere"], 2, "nowhere: no such file or folder"),
        (["photos/one/one 0.png"], 2, "photos/one/one 0.png is a single photo"),
        (["net.py"], 2, "net.py: a file ending in .py is no source of photos"),
        (["empty"], 2, "empty is empty"),
        (["photos", "--group", "("], 2, "the group '(' is no regular expression"),
        (["photos", "--root", "."], 2, "photos: --root is of no use"),
        (["wrong.txt"], 2, "wrong.txt: none of its 1 photos is there"),
        (["photos", "--crop-faces"], 2, "--crop-faces makes a copy: say where, --out DIR"),
        (["photos", "--crop-faces", "--preview-augment", "light", "--out", "x"], 2, "--crop-faces and --preview"),
        (["photos", "--preview-augment", "wild"], 2, "unknown augmentation 'wild'"),
        (["photos", "--preview-augment", "light", "--out", "photos"], 2, "--out photos is a folder; name a file"),
        (["photos", "--preview-augment", "light", "--out", "new/preview"], 2, "new/preview: save as"),
        (["photos", "--preview-augment", "light", "--out", "net.py/p.png"], 1, "cannot write net.py/p.png"),
        (["photos", "--out", "elsewhere"], 2, "--out"),
    ],
)
def test_check_refuses_in_one_line_and_leaves_nothing(
    call: Call, here: Path, photos: Path, args: list[str], code: int, line: str
) -> None:
    (here / "empty").mkdir()
    (here / "wrong.txt").write_text("nowhere/a.png one\n")
    before = contents(here)
    done = call("check", *args)
    assert (done.code, done.err.count("\n")) == (code, 1), done.err
    assert done.err.startswith(f"convscope: error: {line}")
    assert contents(here) == before
    assert not (here / "new").exists()


# evaluate


def test_a_runs_own_test_photos_are_measured_as_by_hand(call: Call, place: Path, trained: str) -> None:
    before = contents(Path(trained))
    done = call("evaluate", trained, "--json")
    assert done.code == 0
    assert done.err == "convscope: the run's own test photos\n"
    held = json.loads(Path("run/evaluation.json").read_text())["test"]
    assert held.items() <= done.json.items()
    test = split_of(Path("run"))["test"]
    told = call("predict", trained, *(place / "photos" / name for name in test), "--json", "--top", 3).json["photos"]
    losses, right, confusion = [], 0, np.zeros((3, 3), int)
    for one in told:
        true = Path(one["photo"]).parent.name
        losses.append(-np.log(next(entry["probability"] for entry in one["top"] if entry["name"] == true)))
        right += one["top"][0]["name"] == true
        confusion[CLASSES.index(true), one["top"][0]["index"]] += 1
    assert (done.json["count"], done.json["accuracy"]) == (9, right / 9)
    assert done.json["confusion"] == confusion.tolist()
    assert done.json["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    worst = done.json["top_losses"][0]
    assert worst["loss"] == pytest.approx(max(losses), rel=1e-4)
    assert contents(Path(trained)) == before


def test_for_people_there_are_figures_classes_and_the_worst(call: Call, trained: str) -> None:
    lines = call("evaluate", f"run:{trained}").out.splitlines()
    assert lines[0].split() == ["photos", "9", "of", "3", "classes"]
    assert "95 % interval" in lines[1]
    head = next(i for i, line in enumerate(lines) if line.startswith("class "))
    assert [line.split()[:2] for line in lines[head + 1 : head + 4]] == [[name, "3"] for name in CLASSES]
    assert "largest losses:" in lines


def test_files_are_written_whole_and_replaced(call: Call, trained: str) -> None:
    files = {MARK, "evaluation.json", "confusion.png", "confusion.svg", "largest-losses.png"}
    for args in ([], ["--ten-crop"]):
        done = call("evaluate", trained, "--out", "new/ev", *args, "--json")
        assert done.code == 0
        assert contents(Path("new/ev")).keys() == files
        assert json.loads(Path("new/ev/evaluation.json").read_text()).items() <= done.json.items()
        assert np.asarray(Image.open("new/ev/largest-losses.png")).std() > 10
        assert np.asarray(Image.open("new/ev/confusion.png")).std() > 10


@pytest.mark.parametrize("size", [1, 60])
def test_photos_of_largest_loss_say_what_was_true_and_what_was_predicted(size: int) -> None:
    classes = ["a" * size, "b" * size, "猫"]
    wrong, right = TopLoss("x/1.png", classes[0], classes[1], 0.034, 3.4), TopLoss("2.png", "猫", "猫", 0.9, 0.1)
    with only_fonts():
        for one, *said in (
            (wrong, "x/1.png", ("true: a", "a (0.03)"), ("taken for b", "b")),
            (right, "2.png", ("rightly class 2", "class 2 (0.90)")),
        ):
            lines = evaluate._verdict(one, classes)
            shown = [fitted(line, font(15, "…"), 218) for line in lines]
            assert shown[0] == said[0]
            for line, (start, end) in zip(shown[1:], said[1:], strict=True):
                assert line.startswith(start)
                assert line.endswith(end)


def test_of_names_that_no_font_has_it_says_so_once(call: Call, photos: Path, trained: str) -> None:
    for i, file in enumerate(sorted(photos.rglob("*.png"))):
        file.rename(file.with_name(f"猫{i}.png"))
    with only_fonts():
        for args in (["evaluate", trained, photos, "--out", "ev"], ["predict", trained, photos, "--out", "pr"]):
            done = call(*args)
            assert done.code == 0
            assert done.err.count("no font on this machine has the characters 猫:") == 1
    with only_fonts() as files:
        files.append(font_with("猫", Path("own.ttf").resolve()))
        assert "no font" not in call("predict", trained, photos, "--out", "pr").err


def test_photos_that_trained_it_are_admitted_wherever_they_are(call: Call, photos: Path, trained: str) -> None:
    done = call("evaluate", trained, photos, "--json")
    assert (done.code, done.json["count"]) == (0, 60)
    assert "42 of these photos trained the model" in done.err
    for i, name in enumerate(split_of(Path("run"))["train"][:5]):
        Path("copies", Path(name).parent).mkdir(parents=True, exist_ok=True)
        shutil.copy(photos / name, Path("copies", Path(name).parent, f"other {i}.png"))
    assert "5 of these photos trained the model" in call("evaluate", trained, "copies").err


def test_classes_are_matched_by_name_and_some_may_be_missing(call: Call, photos: Path, trained: str) -> None:
    shutil.rmtree(photos / "one")
    found = call("evaluate", trained, photos, "--json").json
    assert (found["count"], found["missing"]) == (40, ["one"])
    assert np.sum(found["confusion"], axis=1).tolist() == [0, 20, 20]
    assert found["per_class"][0]["recall"] is None


def test_folders_named_by_numbers_are_no_indices(call: Call, photos: Path, trained: str) -> None:
    """A folder "0" holds what its owner calls 0, not what the run calls its first class."""
    (photos / "three").rename(photos / "0")
    done = call("evaluate", trained, photos)
    errors = [line for line in done.err.splitlines() if "error" in line]
    assert (done.code, len(errors)) == (2, 1), done.err
    assert "'0' is not among the 3 of run (one, three, two)" in errors[0]


def test_two_classes_through_one_output(call: Call, photos: Path) -> None:
    shutil.rmtree(photos / "two")
    Path("two.py").write_text(SOURCE.replace("classes=3", "num_classes=3").replace(", classes)", ", num_classes)"))
    binary = ("--model", "two.py:Net", "--size", "16", "--epochs", "1", "--head", "binary")
    assert call("train", photos, *binary, "--out", "b").code == 0
    found = call("evaluate", "b", "--json").json
    assert (found["count"], found["top5"], np.shape(found["confusion"])) == (6, None, (2, 2))
    assert 0 <= found["auroc"] <= 1


def test_evaluation_changes_nothing_around_it(call: Call, trained: str) -> None:
    torch.manual_seed(3)
    before = (torch.get_rng_state().tolist(), dict(os.environ), os.getcwd(), torch.is_grad_enabled())
    assert call("evaluate", trained).code == 0
    assert (torch.get_rng_state().tolist(), dict(os.environ), os.getcwd(), torch.is_grad_enabled()) == before


@pytest.mark.parametrize(
    ("args", "code", "line"),
    [
        ([], 2, "Missing argument 'MODEL'"),
        (["nowhere"], 2, "model 'nowhere' does not say where it comes from"),
        (["run:nowhere"], 2, "run:nowhere: no such folder"),
        (["net.py:Net", "--size", "16"], 2, "say which photos"),
        (["run", "nowhere"], 2, "nowhere: no such file or folder"),
        (["run", "photos/one"], 2, "photos/one: no photo has a label"),
        (["run", "animals"], 2, "animals: class"),
        (["run", "--out", "net.py"], 2, "--out net.py is a file; name a folder"),
        (["run", "--out", "net.py/deeper"], 1, "cannot write net.py/deeper"),
        (["run", "--workers", "-1"], 2, "Invalid value for '--workers'"),
        (["unfinished"], 2, "unfinished has no weights yet"),
    ],
)
def test_evaluate_refuses_in_one_line_before_it_measures(
    call: Call, here: Path, photos: Path, trained: str, args: list[str], code: int, line: str
) -> None:
    shutil.copytree("photos/one", "animals/cat")
    shutil.copytree("run", "unfinished")
    Path("unfinished/model.safetensors").unlink()
    before = contents(here)
    done = call("evaluate", *args)
    assert (done.code, done.out) == (code, "")
    errors = [one for one in done.err.splitlines() if one.startswith("convscope: error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"convscope: error: {line}"), errors
    assert "Traceback" not in done.err
    assert contents(here) == before


def test_a_run_whose_photos_are_gone_says_which_folder_it_looked_for(call: Call, photos: Path) -> None:
    assert call("train", photos, *NET, "--epochs", 1, "--out", "own").code == 0
    photos.rename("moved")
    done = call("evaluate", "own")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "photos and are not there any more" in done.err
    assert call("evaluate", "own", "moved").code == 0


def test_a_full_disk_leaves_what_was_there(call: Call, photos: Path, trained: str) -> None:
    assert call("evaluate", trained, "--out", "ev").code == 0
    before = contents(Path("."))
    for args in (
        ["evaluate", trained, "--workers", 0, "--out", "ev"],  # a worker hands photos on through files in memory
        ["evaluate", trained, "--workers", 0, "--out", "new"],
        ["predict", trained, "photos/one/one 0.png", "--out", "pr"],
        ["check", photos, "--preview-augment", "light", "--out", "p.png"],
    ):
        with files_of_at_most(300):
            done = call(*args)
        errors = [line for line in done.err.splitlines() if "error" in line]
        assert (done.code, len(errors)) == (1, 1), done.err
        assert errors[0].startswith(f"convscope: error: cannot write {args[-1]}: ")
        assert args[0] == "check" or "one " in done.out, "what was found out is not lost with the files"
        assert contents(Path(".")) == before
        assert not Path("new").exists()
        assert not Path("pr").exists()


# predict


def test_predictions_are_grouped_by_class_on_sheets_and_in_a_table(call: Call, photos: Path, trained: str) -> None:
    done = call("predict", trained, photos, "--out", "pr", "--json")
    assert done.code == 0
    best = {one["photo"]: one["top"][0] for one in done.json["photos"]}
    with Path("pr/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["photo"]: row for row in csv.DictReader(file)}
    assert {name: (row["class"], int(row["index"])) for name, row in rows.items()} == {
        name: (one["name"], one["index"]) for name, one in best.items()
    }
    assert all(abs(float(rows[name]["probability"]) - one["probability"]) < 1e-6 for name, one in best.items())
    for name, group in done.json["classes"].items():
        assert set(group) == {photo for photo, one in best.items() if one["name"] == name}
        assert [best[photo]["probability"] for photo in group] == sorted(
            (best[photo]["probability"] for photo in group), reverse=True
        )
    sheets = {file.name for file in Path("pr").glob("*.png")}
    assert sheets == {f"{CLASSES.index(name):03d}-{name}.png" for name in done.json["classes"]}
    assert all(Image.open(Path("pr", name)).width > 400 for name in sheets)


def test_sheets_that_an_earlier_prediction_left_are_named(call: Call, photos: Path, trained: str) -> None:
    assert "earlier runs" not in call("predict", trained, photos, "--out", "pr").err
    Path("pr/017-gone.png").write_bytes(b"a sheet of another model")
    left = call("predict", trained, photos, "--out", "pr").err
    assert "pr also holds 1 result of earlier runs, such as 017-gone.png" in left
