"""Several processes, started by torchrun for real, make the atlas that one makes; what fails in one ends all."""

from __future__ import annotations

import json
import os
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
from tests.data.test_sources_idx import digits_as_idx

ROOT = Path(__file__).resolve().parents[2]
NET = """
from torch import nn
def Net(num_classes=10):
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, num_classes))
"""
LAYERS = ("0", "1", "4")
MODEL = ["net.py:Net", "--weights", "net.safetensors", "--size", "8", "--mean", ".4", "--std", ".5"]
LINE = [*MODEL, "idx", "--layers", ",".join(LAYERS)]
# What torchrun starts: command lines one after the other, and what became of each. Each is for the first so many of the
# processes; those of another number than torchrun's meet at a port of their own. For one of them the disk may be full.
DRIVER = """
import contextlib, io, json, os, pathlib, resource, sys
from convscope.cli.process import run
rank, found, usual = int(os.environ["RANK"]), [], resource.getrlimit(resource.RLIMIT_FSIZE)
for together, port, args, full in json.loads(sys.argv[1]):
    if rank >= together:
        continue
    if port:
        os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)
        os.environ |= {"WORLD_SIZE": str(together), "LOCAL_WORLD_SIZE": str(together), "MASTER_PORT": str(port)}
    if rank == full:
        size = os.path.getsize(f"{args[-1]}/atlas.sqlite") + 4096
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run(["atlas", *args])
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    found.append([code, out.getvalue(), err.getvalue()])
pathlib.Path(f"told-{rank}.json").write_text(json.dumps(found))
"""
FAILING = [  # what is said of it, and the exit code
    ([*MODEL, "idx", "--layers", "5", "--out", "no"], "unknown layer '5'", 2),
    ([*MODEL, "nowhere", "--out", "no"], "nowhere: no such file or folder", 2),
    (["net.py:Net", *LINE[3:], "--out", "no"], "net.py:Net has other weights in each process: load some", 2),
    ([*LINE, "--top", "3", "--out", "whole"], "whole is an atlas of other top: ", 2),
    ([*LINE, "--out", "net.py"], "net.py cannot be made: a file is where a folder should be", 1),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """net.py and its weights, with unit 2 dead after its ReLU; ``whole``, which one process makes of the digits, and
    ``begun``, which it was stopped in after five batches.
    """
    folder = tmp_path_factory.mktemp("processes")
    (folder / "net.py").write_text(NET)
    generator = torch.Generator().manual_seed(3)
    shapes = {"0.weight": (6, 1, 3, 3), "0.bias": (6,), "4.weight": (10, 54), "4.bias": (10,)}
    weights = {name: torch.randn(shape, generator=generator) * 0.5 for name, shape in shapes.items()}
    weights["0.bias"][2] = -100
    save_file(weights, folder / "net.safetensors")
    digits_as_idx(folder / "idx")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CONVSCOPE_CACHE", str(folder / "cache"))
        patch.setenv("CONVSCOPE_ALLOCATOR", "default")
        assert run(["atlas", *LINE, "--project", "deconvnet", "--out", "whole"]) == 0
        scope = load("net.py:Net", weights=Path("net.safetensors"), mean=[0.4], std=[0.5], size=8)
        asked = iter([False] * 4 + [True] * 100)
        with pytest.raises(Cancelled, match="goes on with it"), reporting(cancel=lambda: next(asked)):
            scope.atlas("idx", out="begun", layers=LAYERS)
        with closing(Store(Path("begun"))) as store:
            assert (store.meta()["complete"], store.meta()["batches done"]) == (False, 5)
        assert [file.name for file in Path("begun").glob("state*")] == ["state-000005.safetensors"]
    return folder


@dataclass(frozen=True)
class Ended:
    """A command in one of the processes."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="module")
def done(place: Path) -> list[list[Ended]]:
    """What each of several processes says: three make ``three``, two finish ``begun``, and two fail in several ways."""
    lines: list[tuple[int, int | None, list[str], int | None]] = []
    lines.append((3, None, [*LINE, "--project", "deconvnet", "--out", "three"], None))
    finishing = [*LINE, "--out", "begun"]
    drawing = [*LINE, "--project", "deconvnet", "--out", "begun"]
    with ExitStack() as stack:
        for args in (finishing, *(args for args, _, _ in FAILING), drawing):
            opened = stack.enter_context(socket.socket())
            opened.bind(("127.0.0.1", 0))
            lines.append((2, opened.getsockname()[1], args, 1 if args is drawing else None))
    own = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    (place / "driver.py").write_text(DRIVER)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "driver.py"]
    ended = subprocess.run(
        [*start, json.dumps(lines)],
        cwd=place,
        env={**os.environ, **own, "CONVSCOPE_CACHE": str(place / "cache")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    told = [[Ended(*one) for one in json.loads((place / f"told-{rank}.json").read_text())] for rank in range(3)]
    assert [len(own) for own in told] == [len(lines), len(lines), 1]
    return [[own[i] for own in told if i < len(own)] for i in range(len(lines))]


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


def test_three_processes_make_what_one_makes_and_one_of_them_speaks(place: Path, done: list[list[Ended]]) -> None:
    assert [one.code for one in done[0]] == [0, 0, 0], done[0]
    same(place / "whole", place / "three")
    assert rendered(place / "three") == rendered(place / "whole")
    assert len(rendered(place / "three")) == 2 * 9 * (6 + 5 + 10), "each unit that is alive, once"
    lines = done[0][0].out.splitlines()
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["0", "Conv2d", "6", "0"],
        ["1", "ReLU", "6", "1"],
        ["4", "Linear", "10", "0"],
    ]
    assert lines[4:] == ["three: 1,797 photos; a unit's card: convscope unit three 4:0"]
    assert [(one.out, one.err) for one in done[0][1:]] == [("", "")] * 2
    assert [file.name for file in (place / "three").glob("state*")] == ["state.safetensors"]


def test_what_one_began_two_finish(place: Path, done: list[list[Ended]]) -> None:
    assert [one.code for one in done[1]] == [0, 0], done[1]
    same(place / "whole", place / "begun")
    assert done[1][0].out.splitlines()[-1] == "begun: 1,797 photos; a unit's card: convscope unit begun 4:0"
    assert (done[1][1].out, done[1][1].err) == ("", "")
    assert [file.name for file in (place / "begun").glob("state*")] == ["state.safetensors"]


@pytest.mark.parametrize("number", range(len(FAILING)))
def test_an_error_ends_all_processes_in_one_line_each(place: Path, done: list[list[Ended]], number: int) -> None:
    """Also one that the first alone meets, while the other waits for what it has to say."""
    _, words, code = FAILING[number]
    assert len(done[2 + number]) == 2
    for rank, one in enumerate(done[2 + number]):
        assert (one.code, one.out) == (code, ""), one.err
        *remarks, line = one.err.splitlines()
        assert line.startswith(f"convscope: error: {words}")
        assumed = rank == 0 and words.startswith("net.py:Net has other weights")
        assert [remark.partition(",")[0] for remark in remarks] == ["convscope: net.py:Net: no --weights"] * assumed


def test_errors_leave_what_is_there(place: Path, done: list[list[Ended]]) -> None:
    same(place / "whole", place / "three")
    assert not (place / "no").exists()


def test_one_that_cannot_keep_its_pictures_does_not_leave_the_other_waiting(done: list[list[Ended]]) -> None:
    first, second = done[-1]
    assert (first.code, first.out, first.err) == (1, "", "convscope: error: another process failed\n")
    assert (second.code, second.out) == (1, "")
    assert second.err.startswith("convscope: error: begun/atlas.sqlite: ")
    assert second.err.endswith("what is there already is kept\n")
