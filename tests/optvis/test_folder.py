"""A folder of patterns: what an interruption leaves is gone on with, and no picture stands for another."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import convscope as cs
from convscope.cli.process import run
from convscope.errors import Cancelled, ConvscopeError
from convscope.images.frame import Framing
from convscope.optvis.folder import LINES, PatternFolder, stem
from convscope.optvis.visualize import plan_patterns
from tests.cli.digits import contents, files_of_at_most, folder_for_anyone, without_rights
from tests.nets import photos, seeded
from tests.optvis.small import Small, small

PARTED = 1.5  # MiB: a few pictures a batch


def job_of(what="act", scope=None, **options):
    scope = small()[1] if scope is None else scope
    return plan_patterns(scope.classifier, what, **{"steps": 3, "budget": PARTED, **options})


def made(path, job, done=None):
    """A job's patterns in a folder: the rows that were made."""
    folder, rows = PatternFolder(path), []
    for some, patterns in job.batches(folder.done(job) if done is None else done):
        folder.keep(job, some, patterns)
        rows += some
    folder.write_sheet(job)
    return rows


def lines(path):
    return [json.loads(line) for line in (path / LINES).read_text("utf-8").splitlines()]


# --- what is in it


def test_each_pattern_has_a_picture_and_a_line_and_all_a_sheet(tmp_path):
    job = job_of(photos=photos(2, height=24, width=24))
    assert 1 < job.batch < 8
    assert made(tmp_path, job) == list(range(8))
    assert set(contents(tmp_path)) == {f"act/{i:04d}.png" for i in range(8)} | {"act.png", LINES}
    whole = job.patterns(range(8))
    for i, (line, row) in enumerate(zip(lines(tmp_path), whole.rows(), strict=True)):
        assert (line["layer"], line["file"]) == ("act", f"act/{i:04d}.png")
        assert line["key"] == PatternFolder(tmp_path).key(job, i)
        assert {name: line[name] for name in row} == row
        with Image.open(tmp_path / line["file"]) as opened:
            assert (np.asarray(opened) == np.asarray(whole.picture(i))).all()
    with Image.open(tmp_path / "act.png") as opened:
        assert (np.asarray(opened) == np.asarray(whole.sheet())).all()


def test_rows_are_in_the_jobs_order_however_they_were_made(tmp_path):
    made(tmp_path, job_of("act:5,2"))
    job = job_of("act:0-6")
    assert made(tmp_path, job) == [0, 1, 3, 4, 6]
    assert [row["name"] for row in PatternFolder(tmp_path).rows(job)] == [f"act:{i}" for i in range(7)]


def test_groups_are_made_whole(tmp_path):
    job = job_of("act:1,4", copies=2)
    made(tmp_path, job)
    assert {line["file"] for line in lines(tmp_path)} == {f"act/000{i}-{copy}.png" for i in (1, 4) for copy in (0, 1)}
    (tmp_path / "act/0004-1.png").unlink()
    assert made(tmp_path, job) == [2, 3]
    assert PatternFolder(tmp_path).done(job_of("act:1,4")) == set(), "alone a unit has another picture"


# --- gone on with


def test_after_an_interruption_only_what_is_missing_is_made_and_nothing_tells(tmp_path):
    job = job_of()
    made(tmp_path / "whole", job)
    calls = iter(range(1000))
    with cs.reporting(cancel=lambda: next(calls) > 8), pytest.raises(Cancelled):
        made(tmp_path / "parted", job)
    done = PatternFolder(tmp_path / "parted").done(job)
    assert done
    assert done < set(range(8))
    assert set(made(tmp_path / "parted", job)) == set(range(8)) - done
    assert contents(tmp_path / "parted") == contents(tmp_path / "whole")


NET = """
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self):
        convs = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()]
        super().__init__(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3))
        for i, parameter in enumerate(self.parameters()):
            parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i)) * 0.3
"""


@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_killed_command_is_gone_on_with_to_the_same_bytes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONVSCOPE_ALLOCATOR", "default")
    Path("net.py").write_text(NET, "utf-8")
    line = ["visualize", "net.py:Net", "3", "--size", "40", "--steps", "60", "--budget", "5"]
    killed = subprocess.Popen(
        [sys.executable, "-m", "convscope", *line, "--out", "killed"],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines, deadline = Path("killed", LINES), time.monotonic() + 120
    while not (lines.exists() and lines.stat().st_size) and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    before = {name: file.stat().st_mtime_ns for name, file in _pictures("killed")}
    told = [json.loads(text)["file"] for text in lines.read_text("utf-8").split("\n")[:-1]]
    assert 0 < len(told) < 16
    assert run([*line, "--out", "killed"]) == 0
    assert f"3: {len(told)} of 16 patterns are there already" in capsys.readouterr().err
    assert {name: Path(name).stat().st_mtime_ns for name in before if name.removeprefix("killed/") in told} == {
        name: at for name, at in before.items() if name.removeprefix("killed/") in told
    }
    assert run([*line, "--out", "whole"]) == 0
    after, whole = contents(Path("killed")), contents(Path("whole"))
    for files in (after, whole):
        files[LINES] = {json.loads(text)["file"]: text for text in files[LINES].decode().splitlines()}
    assert {name for name in after if ".part" not in name} == set(whole)
    assert all(after[name] == whole[name] for name in whole)


def _pictures(folder):
    return [(str(file), file) for file in Path(folder).glob("*/*.png")]


@pytest.mark.parametrize(
    "options",
    [{"seed": 1}, {"steps": 4}, {"size": 30}, {"recipe": "classic"}, {"recipe": "maco", "budget": 20}, {"copies": 2}],
)
def test_what_is_made_in_another_way_is_made_anew(tmp_path, options):
    made(tmp_path, job_of("act:0-1"))
    job = job_of("act:0-1", **options)
    assert PatternFolder(tmp_path).done(job) == set()
    made(tmp_path, job)
    assert PatternFolder(tmp_path).done(job) == set(range(len(job)))
    if "copies" not in options:
        assert PatternFolder(tmp_path).done(job_of("act:0-1")) == set()
        assert made(tmp_path, job_of("act:0-1")) == [0, 1]


def test_changed_weights_other_photos_and_another_normalisation_are_made_anew(tmp_path):
    net, scope = small()
    images = photos(2, height=24, width=24)
    made(tmp_path, job_of("act:0", scope, photos=images))
    same = job_of("act:0", small()[1], photos=images.clone(), budget=100)
    assert PatternFolder(tmp_path).done(same) == {0}, "memory and the process are no part of it"
    for job in (
        job_of("act:0", scope),
        job_of("act:0", scope, photos=images[:1]),
        job_of("act:0", small(mean=0.4, std=0.2)[1], photos=images),
    ):
        assert PatternFolder(tmp_path).done(job) == set()
    with torch.no_grad():
        net.head.bias[0] += 1e-6
    assert PatternFolder(tmp_path).done(job_of("act:0", scope, photos=images)) == set()


def test_maco_with_another_spectrum_is_made_anew(tmp_path):
    from convscope.optvis.recipes import of_photos, recipe_of

    grey = [Image.effect_noise((64, 64), 40).convert("RGB") for _ in range(2)]
    recipes = [of_photos(recipe_of("maco"), Framing().apply(picture, 3)[0][None]) for picture in grey]
    made(tmp_path, job_of("act:0", recipe=recipes[0], budget=20))
    assert PatternFolder(tmp_path).done(job_of("act:0", recipe=recipes[0], budget=20)) == {0}
    assert PatternFolder(tmp_path).done(job_of("act:0", recipe=recipes[1], budget=20)) == set()
    assert PatternFolder(tmp_path).done(job_of("act:0", recipe="maco", budget=20)) == set()


# --- what may lie there


@pytest.mark.parametrize("cut", [1, 2, 10, 60])
def test_a_torn_last_line_is_made_anew(tmp_path, cut):
    job = job_of("act:0-2")
    made(tmp_path / "whole", job)
    shutil.copytree(tmp_path / "whole", tmp_path / "torn")
    path = tmp_path / "torn" / LINES
    path.write_bytes(path.read_bytes()[:-cut])
    left = [] if cut == 1 else [2]  # the end of the line alone is no loss
    assert made(tmp_path / "torn", job) == left
    assert PatternFolder(tmp_path / "torn").done(job) == {0, 1, 2}
    ours, theirs = (contents(tmp_path / name) for name in ("torn", "whole"))
    del ours[LINES], theirs[LINES]
    assert ours == theirs


def test_a_line_torn_inside_of_a_character_is_passed_over(tmp_path):
    _, scope = small(classes=["猫", "dog", "cow", "ant"])
    job = job_of("@logits:猫,dog", scope, budget=10)
    made(tmp_path, job)
    path = tmp_path / LINES
    text = path.read_bytes()
    path.write_bytes(text[: text.index("猫".encode()) + 1])
    assert PatternFolder(tmp_path).done(job) == set()
    assert made(tmp_path, job) == [0, 1]
    assert made(tmp_path, job) == []


def test_names_with_ends_of_lines_in_them_stay_one_line(tmp_path):
    _, scope = small(classes=["a\u2028b", "c\x85d", "e\nf", "g\x0ch"])
    job = job_of("@logits", scope, budget=10)
    made(tmp_path, job)
    assert made(tmp_path, job) == []
    assert [row["name"] for row in PatternFolder(tmp_path).rows(job)] == ["a\u2028b", "c\x85d", "e\nf", "g\x0ch"]


def test_lines_that_are_none_are_passed_over(tmp_path):
    job = job_of("act:0-1")
    made(tmp_path, job)
    own = (tmp_path / LINES).read_text("utf-8").splitlines()
    strange = ["", "5", "[]", "null", '"act/0000.png"', '{"file": ["act"]}', '{"key": "x"}', "{", '{"file": "act/x"}']
    (tmp_path / LINES).write_text("\n".join([*strange, *own]) + "\n", "utf-8")
    assert PatternFolder(tmp_path).done(job) == {0, 1}
    (tmp_path / LINES).write_text("\n".join([*own, '{"file": "act/0000.png"}']) + "\n", "utf-8")
    assert PatternFolder(tmp_path).done(job) == {1}, "the last line of a picture counts"


def test_a_picture_that_is_gone_or_another_is_made_anew(tmp_path):
    job = job_of("act:0-4")
    made(tmp_path, job)
    before = contents(tmp_path)
    (tmp_path / "act/0001.png").unlink()
    (tmp_path / "act/0002.png").write_bytes(before["act/0002.png"][:-30])
    (tmp_path / "act/0003.png").write_bytes(before["act/0004.png"])
    assert made(tmp_path, job) == [1, 2, 3]
    assert {name: data for name, data in contents(tmp_path).items() if name != LINES} == {
        name: data for name, data in before.items() if name != LINES
    }


def test_a_kill_between_a_picture_and_its_line_leaves_no_picture_under_the_line_of_the_one_before(
    tmp_path, monkeypatch
):
    first, second = job_of("act:0-1"), job_of("act:0-1", seed=1)
    made(tmp_path, first)
    was = (tmp_path / "act/0000.png").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(json, "dumps", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            made(tmp_path, second)
    assert (tmp_path / "act/0000.png").read_bytes() != was
    assert PatternFolder(tmp_path).done(second) == set()
    assert PatternFolder(tmp_path).done(first) == set()
    made(tmp_path, first)
    assert (tmp_path / "act/0000.png").read_bytes() == was


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_picture_that_goes_while_it_is_needed_is_said_in_one_line(tmp_path):
    job = job_of("act:0-1")
    made(tmp_path, job)
    folder = PatternFolder(tmp_path)
    (tmp_path / "act/0000.png").write_bytes(b"no picture")
    with pytest.raises(ConvscopeError, match=r"act/0000.png is gone or cannot be read: run again to make it anew"):
        folder.write_sheet(job)


# --- where nothing can be written


@pytest.mark.parametrize("place", ["file", "file/under"])
def test_a_file_in_the_way_is_one_line(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConvscopeError, match=r"cannot write .*: .*; what is there already is kept") as caught:
        PatternFolder(tmp_path / place)
    assert "\n" not in str(caught.value)


def test_a_folder_in_place_of_the_lines_is_one_line(tmp_path):
    (tmp_path / LINES).mkdir()
    with pytest.raises(ConvscopeError, match="cannot be read"):
        PatternFolder(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="POSIX rights")
def test_a_folder_that_may_not_be_written_is_one_line():
    job = job_of("act:0-1")
    with folder_for_anyone() as place:
        made(place / "there", job)
        before = contents(place)
        (place / "there").chmod(0o555)
        with without_rights():
            assert PatternFolder(place / "there").done(job) == {0, 1}, "what is there can be read"
            with pytest.raises(ConvscopeError, match=r"cannot write .*Permission denied; what is there"):
                made(place / "there", job_of("head:0"))
            with pytest.raises(ConvscopeError, match=r"cannot write .*Permission denied"):
                PatternFolder(place / "other")
        assert contents(place) == before


@pytest.mark.skipif(os.name != "posix", reason="POSIX limits")
def test_a_full_disk_is_one_line_and_is_gone_on_from(tmp_path):
    job = job_of()
    made(tmp_path / "whole", job)
    room = min(len(data) for name, data in contents(tmp_path / "whole").items() if name.startswith("act/")) - 1
    batches = job.batches()
    folder = PatternFolder(tmp_path / "full")
    folder.keep(job, *next(batches))
    done = folder.done(job)
    rows, patterns = next(batches)
    with files_of_at_most(room), pytest.raises(ConvscopeError, match=r"cannot write .*; what is there") as caught:
        folder.keep(job, rows, patterns)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "full").rglob("*.part"))
    assert PatternFolder(tmp_path / "full").done(job) == done
    made(tmp_path / "full", job)
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


# --- names of files


def test_no_two_things_share_a_file():
    """Layers whose names differ by what a file name cannot hold, long ones, neurons, least wanted, classes."""
    net = Small()
    net.relu, deep = nn.ReLU(), nn.Module()
    long = "a_name_of_a_part_that_goes_on_and_on_and_on_and_on_and_on_and_on"
    for name in ("one", "two"):
        deep.add_module(name, nn.Conv2d(8, 8, 1))
    net.add_module(long, deep)

    def forward(x):
        x = net.relu(net.act(net.two(torch.relu(net.one(x)))))
        return net.head(deep.two(deep.one(x)).mean((2, 3)))

    net.forward = forward
    scope = cs.Scope(seeded(net), classes=["a/b", "..", "猫", "con"], size=24, progress=False)
    layers = [f"{name}:1" for name in ("relu", "/relu", "act", f"{long}.one", f"{long}.two")]
    jobs = [job_of(what, scope, budget=50) for what in (*layers, "act:1@2,3", "act:1@3,2", "@logits:..,猫,a/b,con")]
    jobs += [job_of(what, scope, budget=50, negative=True) for what in ("act:1", "@logits:..,猫")]
    stems = [stem(job) for job in jobs]
    assert stems[0] == "relu"
    assert stems[2] == "act"
    assert stems[5:8] == ["act@2,3", "act@3,2", "@logits"]
    assert stems[8:] == ["two-negative", "@logits-negative"]
    assert len({name.casefold() for name in stems}) == len(jobs)
    files = [PatternFolder.file(None, job, row) for job in jobs for row in range(len(job))]
    assert len({file.casefold() for file in files}) == len(files)
    for file in files:
        parts = file.split("/")
        assert len(parts) == 2
        assert max(len(part.encode()) for part in parts) < 250
        assert not {"..", ".", ""} & set(parts)


def test_files_of_classes_have_their_number_and_name():
    _, scope = small(classes=["a/b", "..", "Ein Straßenhund, dog", "-1"])
    job = job_of("@logits", scope, budget=10)
    files = [PatternFolder.file(None, job, row) for row in range(4)]
    names = ["0000-a-b", "0001-unnamed", "0002-ein-strassenhund", "0003-1"]
    assert files == [f"@logits/{name}.png" for name in names]
    least = job_of("@logits", scope, budget=10, negative=True)
    assert [PatternFolder.file(None, least, row) for row in range(4)] == [
        f"@logits-negative/{name}.png" for name in names
    ]


def test_a_class_whose_name_begins_with_a_minus_is_not_taken_for_its_opposite():
    _, scope = small(classes=["-5 degrees", "0 degrees", "5 degrees", "10 degrees"])
    for negative, folder in ((False, "@logits"), (True, "@logits-negative")):
        assert stem(job_of("@logits:0", scope, budget=10, negative=negative)) == folder
