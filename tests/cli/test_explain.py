"""``convscope explain``: from photos to a report, and what goes wrong on the way."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from convscope.errors import RuleError
from convscope.images.own import MARK
from convscope.methods import METHODS
from convscope.report import Report
from convscope.scope import Scope
from tests.cli.conftest import MODEL, Call, photo

QUICK = ("--methods", "grad-cam", "--layers", "none")


def files(folder: Path) -> set[str]:
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def test_photos_become_a_report_and_files(call: Call, here: Path) -> None:
    done = call("explain", *MODEL, "a.png", "b.png", "--out", "r", "--json", "--set", "occlusion.size=8")
    assert done.code == 0, done.err
    assert json.loads((here / "r/summary.json").read_text("utf-8")) == {
        key: value for key, value in done.json.items() if key not in ("report", "out")
    }
    first = done.json["photos"][0]
    assert first["photo"] == "a.png"
    assert first["folder"].startswith("000-")
    assert first["size"] == {"height": 48, "width": 40}
    assert first["seen"]["right"] - first["seen"]["left"] == 40  # how a photo is framed is tested elsewhere
    assert sum(entry["probability"] for entry in first["top"]) == pytest.approx(1)
    assert [found["method"] for found in first["explanations"]] == ["grad-cam", "guided", "deconvnet", "occlusion"]
    assert first["explanations"][3]["settings"]["size"] == 8
    listed = {file for one in done.json["photos"] for found in one["explanations"] for file in found["files"]}
    assert files(here / "r") == listed | {MARK, "report.html", "summary.json"}
    cam = here / "r" / first["folder"] / "grad-cam"
    assert load_file(cam / "raw.safetensors")["raw"].shape == (1, 32, 32)
    assert Image.open(cam / "overlay.png").size == (40, 48)  # the photo's own resolution
    assert Image.open(cam / "heat.png").size == (32, 32)
    page = (here / "r/report.html").read_text("utf-8")
    assert "convscope explain net.py:Net --weights weights.safetensors" in page
    assert "Grad-CAM (Selvaraju et al. 2017" in page
    assert page.count('class="sheet"') == 2 * 2  # two stages of two photos


def test_for_people_there_is_a_table_and_the_place_of_the_report(call: Call) -> None:
    done = call("explain", *MODEL, "a.png", *QUICK)
    assert done.code == 0
    assert done.out.splitlines()[0].split() == ["photo", "class", "probability", "explained", "folder"]
    assert f"report{os.sep}report.html (" in done.out
    assert done.err == ""


def test_a_bad_photo_is_skipped_and_told_of(call: Call, here: Path) -> None:
    (here / "broken.png").write_bytes((here / "a.png").read_bytes()[:200])
    done = call("explain", *MODEL, "a.png", "broken.png", "missing.png", "b.png", *QUICK, "--json")
    assert done.code == 1
    assert done.err.splitlines()[-3:] == [
        "convscope: broken.png is truncated or damaged: part of the picture is missing; copy or download it again",
        "convscope: missing.png: no such file or folder; check the name",
        "convscope: 2 of 4 photos failed",
    ]
    assert [one["folder"][:3] for one in done.json["photos"]] == ["000", "003"]
    assert [failure["photo"] for failure in done.json["failed"]] == ["broken.png", "missing.png"]
    page = (here / "report/report.html").read_text("utf-8")
    assert "What could not be done" in page
    assert "broken.png is truncated" in page


@pytest.mark.parametrize(
    ("name", "content", "code", "line"),
    [
        ("none.png", None, 2, "none.png: no such file or folder; check the name"),
        ("empty.png", b"", 1, "empty.png is empty (0 bytes); copy or download it again"),
        ("page.jpg", b"<html>", 1, "page.jpg is not a photo"),
    ],
)
def test_an_only_photo_that_is_bad_is_the_error(
    call: Call, here: Path, name: str, content: bytes | None, code: int, line: str
) -> None:
    if content is not None:
        (here / name).write_bytes(content)
    done = call("explain", *MODEL, name, *QUICK)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith(f"convscope: error: {line}")
    assert done.err.count("\n") == 1
    assert not (here / "report").exists()


def test_when_all_fail_there_is_no_report(call: Call, here: Path) -> None:
    done = call("explain", *MODEL, "x.png", "y.png", *QUICK, "--out", "deep/er")
    assert done.code == 1
    assert done.err.endswith("convscope: 2 of 2 photos failed\n")
    assert not (here / "deep").exists()


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["red fox"], ["red fox"]),
        (["2"], ["spoon"]),
        (["features.3:1"], ["features.3:1"]),
        (["features.3:1@2,3"], ["features.3:1@2,3"]),
        (["@logits:spoon,red fox"], ["spoon", "red fox"]),
        (["red fox", "spoon"], ["red fox", "spoon"]),
    ],
)
def test_targets(call: Call, targets: list[str], expected: list[str]) -> None:
    chosen = [part for target in targets for part in ("--target", target)]
    done = call("explain", *MODEL, "a.png", "--methods", "guided", "--layers", "none", "--json", *chosen)
    assert done.code == 0, done.err
    found = done.json["photos"][0]["explanations"]
    assert [one["target"] for one in found] == expected
    files = {file for one in found for file in one["files"]}
    closeups = [file for file in files if "closeup" in file]
    assert len(closeups) == (2 if ":" in expected[0] else 0), "what a unit sees, and the photo there"
    assert len(files) - len(closeups) == 4 * len(expected)


def test_the_strongest_units_of_a_layer_against_and_layer(call: Call) -> None:
    common = ("explain", *MODEL, "a.png", "--layers", "none", "--json")
    units = call(*common, "--methods", "guided", "--target", "features.3", "--strongest", 3)
    assert len(units.json["photos"][0]["explanations"]) == 3
    against = call(
        *common, "--methods", "grad-cam", "--target", "spoon", "--against", "red fox", "--layer", "features.1"
    )
    (found,) = against.json["photos"][0]["explanations"]
    assert found["target"] == "spoon against red fox"
    assert found["layer"] == "features.1"


def test_a_method_without_a_target_runs_once(call: Call) -> None:
    targets = ("--target", "spoon", "--target", "red fox")
    done = call("explain", *MODEL, "a.png", "--methods", "eigen-cam", "--layers", "none", "--json", *targets)
    assert len(done.json["photos"][0]["explanations"]) == 1


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["--methods", "grad-kam"], "unknown method 'grad-kam'; nearest: grad-cam"),
        (["--methods", "filters"], "filters does not make a map of a photo: use `convscope filters`"),
        (["--methods", ","], "--methods names no method"),
        (["--set", "grad-cam.layer"], "--set 'grad-cam.layer' is not of the form name=value"),
        (["--set", "layer=features.0"], "--set 'layer=features.0' is not of the form METHOD.SETTING=VALUE"),
        (["--set", "rise.masks=5"], "unknown method in --set 'rise'"),
        (["--set", "grad-cam.size=5"], "unknown setting of grad-cam 'size'"),
        (["--methods", "occlusion", "--set", "occlusion.size=big"], "occlusion: size is 'big'"),
        (["--methods", "occlusion", "--set", "occlusion.size=64"], "occlusion: a square of 64 does not fit into 32x32"),
        (["--methods", "guided", "--layer", "features.0"], "--layer features.0: none of guided looks at a layer"),
        (["--target", "dog"], "unknown target 'dog'"),
        (["--target", "7"], "class index 7 is out of range: the model has 3 classes"),
        (["--target", "features.3:99"], "unit 99 is out of range: features.3 has 8 units"),
        (["--layers", "body.*"], "unknown layer 'body.*'"),
        (["--size", "big"], "--size 'big' is neither a side"),
        (["--mean", "a,b"], "--mean 'a,b' is not numbers"),
        (["--mean", ".5,.5"], "mean has 2 values"),
        (["--background", "whitte"], "unknown colour 'whitte'"),
        (["--device", "tpu9"], "--device 'tpu9' is not a device"),
        (["--option", "width"], "--option 'width' is not of the form name=value"),
        (["--option", "depth=3"], "unknown option 'depth'; nearest: width"),
        (["--weights", "none.pt"], "weights none.pt: no such file"),
        (["--strongest", "0"], "Invalid value for '--strongest'"),
        (["--bogus"], "No such option: --bogus"),
        (["--out", "a.png"], "--out a.png is a file; name a folder"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_code_2(call: Call, here: Path, args: list[str], line: str) -> None:
    before = files(here)
    done = call("explain", *MODEL, "a.png", "b.png", *QUICK, *args)
    assert done.err.splitlines()[-1].startswith(f"convscope: error: {line}"), done.err
    assert (done.code, done.out) == (2, "")
    assert done.err.count("\n") == 1
    assert {name for name in files(here) if "__pycache__" not in name} == before


def test_no_such_device_and_an_out_that_cannot_be_are_code_1(call: Call) -> None:
    for args, line in (
        (["--device", "cuda:97"], "--device cuda:97: there is no such device here, only cpu"),
        (["--out", "a.png/report"], "cannot write a.png/report: a file is where a folder should be"),
        (["--out", "x" * 300], f"cannot write {'x' * 300}: File name too long"),
    ):
        done = call("explain", *MODEL, "a.png", *QUICK, *args)
        assert done.code == 1
        assert done.err.startswith(f"convscope: error: {line}")
        assert done.err.count("\n") == 1


def test_a_second_run_replaces_its_files_and_names_what_is_left(call: Call, here: Path) -> None:
    assert call("explain", *MODEL, "a.png", "b.png", "--methods", "grad-cam,guided", "--layers", "none").code == 0
    (here / "report/notes.txt").write_text("mine")
    done = call("explain", *MODEL, "a.png", *QUICK, "--target", "spoon")
    assert done.code == 0
    assert "report also holds 2 results of earlier runs, such as 000-" in done.err
    assert (here / "report/notes.txt").read_text() == "mine"
    assert len(json.loads((here / "report/summary.json").read_text("utf-8"))["photos"]) == 1
    assert not list((here / "report").glob(".convscope-*"))


def test_a_failure_loses_nothing(call: Call, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("explain", *MODEL, "a.png", *QUICK)
    before = {name: (here / "report" / name).read_bytes() for name in files(here / "report")}

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Report, "write", full)
    done = call("explain", *MODEL, "a.png", *QUICK, "--target", "spoon")
    assert (done.code, done.err) == (1, "convscope: error: cannot write report: No space left on device\n")
    assert {name: (here / "report" / name).read_bytes() for name in files(here / "report")} == before


def test_what_is_in_the_way_is_said_before_anything_is_replaced(call: Call, here: Path) -> None:
    (here / "report/report.html").mkdir(parents=True)
    done = call("explain", *MODEL, "a.png", *QUICK)
    assert done.code == 1
    assert "report.html is in the way: move it, or choose another --out" in done.err
    assert files(here / "report") == set()


def test_a_method_that_cannot_be_used_leaves_the_others(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise RuleError("a rectifier was missed")

    monkeypatch.setattr(METHODS["guided"], "run", refuse)
    done = call("explain", *MODEL, "a.png", "--methods", "grad-cam,guided", "--layers", "none")
    assert (done.code, done.err) == (1, "convscope: a.png: guided: a rectifier was missed\n")
    assert "a rectifier was missed" in (here / "report/report.html").read_text("utf-8")
    alone = call("explain", *MODEL, "a.png", "--methods", "guided", "--layers", "none")
    assert (alone.code, alone.err) == (1, "convscope: error: a rectifier was missed\n")


def test_a_network_that_needs_a_size_says_so(call: Call) -> None:
    done = call("explain", "net.py:Flat", "a.png", *QUICK)
    assert done.code == 1
    assert "net.py:Flat fails on an input of 48x40 (" in done.err
    assert done.err.endswith(": --size sets the canvas\n")
    assert call("explain", "net.py:Flat", "a.png", *QUICK, "--size", 32).code == 0


def test_a_bug_in_a_users_network_keeps_its_traceback(call: Call) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug of the user's own"):
        call("explain", "net.py:Buggy", "a.png", *QUICK, "--size", 32)


def test_a_network_without_weights_is_remarked_once(call: Call, here: Path) -> None:
    """And what else was assumed."""
    done = call("explain", "net.py:Net", "a.png", "b.png", *QUICK, "--size", 32, "--json")
    weights = "no --weights, so the network is used as its factory made it"
    pixels = "no --mean and --std, so pixels go in from 0 to 1"
    assert done.err == f"convscope: net.py:Net: {weights}; {pixels}\n"
    assert call("explain", *MODEL, "a.png", *QUICK, "--out", "r").err == ""
    report = (here / "r/report.html").read_text("utf-8")
    assert "mean 0.5; std 0.5" in report


def test_the_default_methods_are_those_that_can_explain_the_target(call: Call, here: Path) -> None:
    target = ("--target", "features.0:1", "--layers", "none", "--set", "occlusion.size=8")
    done = call("explain", *MODEL, "a.png", *target, "--json")
    assert done.code == 0, done.err
    methods = [one["method"] for one in done.json["photos"][0]["explanations"]]
    assert methods == ["guided", "deconvnet", "occlusion"]
    page = (here / "report/report.html").read_text("utf-8")
    assert "left out: layer features does not come before the target in features.0: give an earlier layer" in page
    named = call("explain", *MODEL, "a.png", *target[:4], "--methods", "grad-cam,guided")
    assert named.code == 2
    assert named.err.startswith("convscope: error: grad-cam: layer features does not come before the target")


@pytest.mark.parametrize("command", ["explain", "predict", "activations"])
@pytest.mark.parametrize("photos", [["bad.jpg"], ["bad.jpg", "none.png"]])
def test_json_also_when_every_photo_fails(call: Call, here: Path, command: str, photos: list[str]) -> None:
    (here / "bad.jpg").write_bytes(b"")
    done = call(command, *MODEL, *photos, "--json")
    assert done.code == 1
    assert done.json["photos"] == []
    assert [one["photo"] for one in done.json["failed"]] == photos
    assert not (here / "report").exists()
    assert not (here / "activations").exists()


@pytest.mark.parametrize("command", ["explain", "activations"])
def test_a_signal_keeps_the_photos_that_are_done(
    call: Call, here: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, count = Scope.activations, []

    def second_photo(*arguments: Any, **options: Any) -> Any:
        count.append(1)
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return read(*arguments, **options)

    monkeypatch.setattr(Scope, "activations", second_photo)
    extra = ("--methods", "grad-cam", "--layers", "features.0") if command == "explain" else ("--layers", "features.0")
    done = call(command, *MODEL, "a.png", "b.png", "a.png", *extra, "--out", "r", "--json")
    assert done.code == 143
    assert "stopped before the end of 2 photos; what was done by then is kept" in done.err
    assert [one["photo"] for one in done.json["photos"]] == ["a.png"]
    folders = {place.name for place in (here / "r").iterdir() if place.is_dir()}
    assert folders == {done.json["photos"][0]["folder"]}
    if command == "explain":
        page = (here / "r/report.html").read_text("utf-8")
        assert "a.png" in page
        assert 'id="photo-1"' not in page


def test_drafts_of_killed_processes_are_swept_away(call: Call, here: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (here / f"report/.convscope-{ended.pid}-abc").mkdir(parents=True)
    (here / f"report/.convscope-{os.getppid()}-abc").mkdir()
    assert call("explain", *MODEL, "a.png", *QUICK).code == 0
    assert [place.name for place in (here / "report").glob(".*")] == [f".convscope-{os.getppid()}-abc"]


def test_what_a_users_module_prints_stays_out_of_the_json(call: Call, here: Path) -> None:
    (here / "loud.py").write_text("print('hello from my module')\n" + (here / "net.py").read_text())
    done = call("explain", "loud.py:Net", "a.png", *QUICK, "--size", 32, "--json")
    assert done.json["photos"]
    assert "hello from my module" in done.err


def test_names_are_escaped_and_kept_whatever_they_are(call: Call, here: Path) -> None:
    (here / "classes.txt").write_text('<script>alert("1")</script>\nKäse & 猫\nx"y\n', "utf-8")
    names = ["Käse 猫.png", '<b>"&.png']
    for name in names:
        photo(name, 32, 32)
    done = call("explain", *MODEL, *names, "--methods", "grad-cam", "--json", "--target", "0")
    assert done.code == 0, done.err
    assert [one["photo"] for one in done.json["photos"]] == names
    page = (here / "report/report.html").read_text("utf-8")
    assert "<script" not in page
    assert '<b>"' not in page
    assert "Käse 猫.png" in page
    assert "&lt;b&gt;&#34;&amp;.png" in page
    assert all(part.isprintable() and "/" not in part for part in os.listdir(here / "report"))
