"""Several processes, started by torchrun for real, make the atlas that one makes; what fails in one ends all."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from convscope.atlas.store import COLUMNS, Store
from convscope.cli.process import run
from convscope.errors import Cancelled
from convscope.progress import reporting
from convscope.scope import load
from tests.atlas.test_build import everything

ROOT = Path(__file__).resolve().parents[2]
NET = """
from torch import nn
def Net(num_classes=10):
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, num_classes))
"""
LAYERS = ("0", "1", "4")
MODEL = ["net.py:Net", "--weights", "net.safetensors", "--size", "8", "--mean", ".4", "--std", ".5"]
LINE = [*MODEL, "digits", "--layers", ",".join(LAYERS)]
# One of several processes as torchrun starts them, but that a failure of one does not end the others.
EACH = """
import json, os, sys
from convscope.cli.process import run
for port, args in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"] = str(port)
    code = run(["atlas", *args])
    for stream in (sys.stdout, sys.stderr):
        print(f"ended: {code}", file=stream, flush=True)
"""
FAILING = [  # what is said of it, and the exit code
    ([*MODEL, "digits", "--layers", "5", "--out", "no"], "unknown layer '5'", 2),
    ([*MODEL, "nowhere", "--out", "no"], "nowhere: no such file or folder", 2),
    (["net.py:Net", *LINE[3:], "--out", "no"], "net.py:Net has other weights in each process: load some", 2),
    ([*LINE, "--top", "3", "--out", "whole"], "whole is an atlas of other top: ", 2),
    ([*LINE, "--out", "net.py"], "net.py cannot be made: a file is where a folder should be", 1),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.py and its weights, and ``whole``: what one process makes of the digits, with unit 2 dead after its ReLU."""
    folder = tmp_path_factory.mktemp("processes")
    (folder / "net.py").write_text(NET)
    generator = torch.Generator().manual_seed(3)
    shapes = {"0.weight": (6, 1, 3, 3), "0.bias": (6,), "4.weight": (10, 54), "4.bias": (10,)}
    weights = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    weights["0.bias"][2] = -100
    save_file(weights, folder / "net.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CONVSCOPE_CACHE", str(folder / "cache"))
        patch.setenv("CONVSCOPE_ALLOCATOR", "default")
        assert run(["atlas", *LINE, "--project", "deconvnet", "--out", "whole"]) == 0
    return folder


def env(place: Path, **more: str) -> dict[str, str]:
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return {**os.environ, **own, "CONVSCOPE_CACHE": str(place / "cache"), **more}


@dataclass(frozen=True)
class Ended:
    """A command in one of the processes."""

    code: int
    out: str
    err: str


def two(place: Path, *lines: list[str]) -> list[tuple[Ended, Ended]]:
    """Command lines, one after the other, each in two processes."""
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in lines]
        for one in opened:
            one.bind(("127.0.0.1", 0))
        told = json.dumps([(one.getsockname()[1], line) for one, line in zip(opened, lines, strict=True)])
    several = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", EACH, told],
            cwd=place,
            env=env(place, RANK=rank, LOCAL_RANK=rank, **several),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    found = []
    for process in started:
        told = process.communicate(timeout=200)
        assert process.returncode == 0, told
        outs, errors = (re.split(r"^ended: (\d+)\n", text, flags=re.MULTILINE) for text in told)
        assert outs[1::2] == errors[1::2]
        found.append(
            [Ended(int(code), *texts) for code, *texts in zip(outs[1::2], outs[::2], errors[::2], strict=False)]
        )
    return list(zip(*found, strict=True))


def same(one: Path, other: Path) -> None:
    """Bit by bit what is counted and ranked, and to rounding what is summed up in another order."""
    left, right = everything(one), everything(other)
    for table in ("images", "classes", "layers", "patches"):
        assert right[table] == left[table], table
        assert left[table]
    for table in ("units", "neighbours"):
        summed = [COLUMNS[table].index(name) for name in ("mean", "std", "selectivity") if name in COLUMNS[table]]
        for a, b in zip(left[table], right[table], strict=True):
            for i in summed:
                close = None if a[i] is None else pytest.approx(a[i], rel=1e-9, abs=1e-12)
                assert b[i] == close, (table, a[:2], COLUMNS[table][i])
            plain = [i for i in range(len(a)) if i not in summed]
            assert [b[i] for i in plain] == [a[i] for i in plain]


def rendered(folder: Path) -> set[tuple[int, int, int, str]]:
    with closing(Store(folder)) as store:
        found = {
            (layer, unit, image, what)
            for layer in range(len(LAYERS))
            for what in ("photo", "deconvnet")
            for unit, image in store.rendered(layer, what)
        }
        assert len(found) == store.count("renders")
        return found


def test_three_processes_make_what_one_makes_and_one_of_them_speaks(place: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "convscope"]
    line = [*start, "atlas", *LINE, "--project", "deconvnet", "--out", "three"]
    done = subprocess.run(line, cwd=place, env=env(place), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    same(place / "whole", place / "three")
    assert rendered(place / "three") == rendered(place / "whole")
    assert len(rendered(place / "three")) == 2 * 9 * (6 + 5 + 10), "each unit that is alive, once"
    lines = done.stdout.splitlines()
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["0", "Conv2d", "6", "0"],
        ["1", "ReLU", "6", "1"],
        ["4", "Linear", "10", "0"],
    ]
    assert lines[4:] == ["three: 1,797 photos; a unit's card: convscope unit three 4:0"]
    assert [file.name for file in (place / "three").glob("state*")] == ["state.safetensors"]


def test_what_one_began_two_finish_and_an_error_ends_both(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.setenv("CONVSCOPE_CACHE", str(place / "cache"))
    scope = load("net.py:Net", weights=place / "net.safetensors", mean=[0.4], std=[0.5], size=8)
    asked = iter([False] * 4 + [True] * 100)
    with pytest.raises(Cancelled, match="goes on with it"), reporting(cancel=lambda: next(asked)):
        scope.atlas("digits", out="begun", layers=LAYERS)
    with closing(Store(place / "begun")) as store:
        assert (store.meta()["complete"], store.meta()["batches done"]) == (False, 5)
    assert [file.name for file in (place / "begun").glob("state*")] == ["state-000005.safetensors"]
    before = everything(place / "whole")

    finished, *failed = two(place, [*LINE, "--out", "begun"], *(args for args, _, _ in FAILING))

    assert [one.code for one in finished] == [0, 0], finished
    same(place / "whole", place / "begun")
    assert finished[0].out.splitlines()[-1] == "begun: 1,797 photos; a unit's card: convscope unit begun 4:0"
    assert (finished[1].out, finished[1].err) == ("", "")
    assert [file.name for file in (place / "begun").glob("state*")] == ["state.safetensors"]

    # Also what one alone meets, while the other waits for what it has to say.
    for both, (_, words, code) in zip(failed, FAILING, strict=True):
        for rank, one in enumerate(both):
            assert (one.code, one.out) == (code, ""), one.err
            assert "Traceback" not in one.err
            *remarks, line = [line for line in one.err.splitlines() if line.startswith("convscope: ")]
            assert line.startswith(f"convscope: error: {words}")
            assumed = rank == 0 and words.startswith("net.py:Net has other weights")
            assert [remark.partition(",")[0] for remark in remarks] == ["convscope: net.py:Net: no --weights"] * assumed
    assert everything(place / "whole") == before
    assert not (place / "no").exists()
