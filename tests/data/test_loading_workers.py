"""The processes that read photos: their memory, their end, and what they say when everybody is told to stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from convscope.data import loading
from convscope.data.augment import augmentation
from convscope.data.catalog import Catalog, catalog
from convscope.data.loading import Loader, Photos, Wanted, _unless_left, cut, workers_for
from convscope.images.frame import Framing
from tests.data.pictures import encoded, folder, piece

ROOT = Path(__file__).parents[2]

# A data set of any size, by simulation: its photos are eight small ones over and over. Each worker's own memory (USS:
# pages that it shares with nobody) is taken after its first batches and after its last.
MEMORY = """
import json, multiprocessing, sys
from contextlib import closing
import numpy as np, psutil
from torch.utils.data import Dataset
from convscope.data.catalog import Catalog
from convscope.data.loading import Loader, Photos
from convscope.data.names import Names
from convscope.data.store import Store
from convscope.images.frame import Framing
from tests.data.pictures import encoded, piece

CONTENTS = [encoded(piece(i, 16, 16)) for i in range(8)]

def name(i):
    return f"class {i % 100:03d}/photo number {i:07d} of many.jpg"

class Simulated(Store):
    def __init__(self, count):
        self.names = Names.of(map(name, range(count)))
    def content(self, index):
        return CONTENTS[index % 8]
    def stamps(self):
        raise NotImplementedError
    def take(self, rows):
        raise NotImplementedError

def photos(count):
    rows = np.arange(count)
    found = Catalog(
        "made", "folder", Simulated(count), tuple(map(str, range(100))), (rows % 100).astype(np.int32),
        np.full(count, -1, np.int8), None, rows.astype(np.int32), rows.astype(np.int32), np.ones(count, np.uint16),
        np.stack([rows, rows], 1).astype(np.uint64))
    return Photos(found, Framing((8, 8)), 3)

class Naive(Dataset):
    '''As it is done everywhere: a list of paths and labels, of which each look at one changes its count of users.'''
    def __init__(self, count):
        self.photos = photos(8)
        self.samples = [(name(i), i % 100) for i in range(count)]
    def __getitem__(self, wanted):
        for row in wanted.rows.tolist():
            path, label = self.samples[row]
        return self.photos[wanted._replace(rows=wanted.rows % 8)]

def own():
    return [psutil.Process(worker.pid).memory_full_info().uss / 2**20 for worker in multiprocessing.active_children()]

def growth(photos, count):
    rng = np.random.default_rng(0)
    with closing(Loader(photos, 2)) as loader:
        batches = loader.batches([rng.integers(0, count, 64) for _ in range(80)])
        for _ in range(4):
            next(batches)
        before = own()
        for _ in batches:
            pass
        return max(after - first for first, after in zip(before, own(), strict=True))

few, many = (growth(photos(count), count) for count in (1_000, 100_000))
print(json.dumps({"few": few, "many": many, "naive": growth(Naive(100_000), 100_000)}))
"""


def script(text: str, *args: str) -> subprocess.Popen[str]:
    """A process of its own, with a group of its own as from a terminal."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started.append(subprocess.Popen(
        [sys.executable, "-c", text, *args],
        cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ))  # fmt: skip
    return started[-1]


started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _none_is_left() -> Iterator[None]:
    """A process that a failed test did not come to end would run on."""
    yield
    while started:
        with suppress(ProcessLookupError):
            os.killpg(started.pop().pid, signal.SIGKILL)


def test_a_workers_memory_does_not_grow_with_the_number_of_files() -> None:
    """Measured: half a MiB with a thousand files and with a hundred thousand, 10 with a list of a hundred thousand."""
    process = script(MEMORY)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    grown = json.loads(out)
    assert grown["many"] - grown["few"] < 2, grown
    assert grown["naive"] - grown["few"] > 4, grown  # so that this test can fail


@pytest.fixture
def found(tmp_path: Path) -> Catalog:
    return catalog(folder(tmp_path / "p", {f"{'ab'[i % 2]}/{i}.jpg": encoded(piece(i)) for i in range(12)}))


def test_closing_ends_the_workers(found: Catalog) -> None:
    """In the middle of an epoch, after one, before the first and twice; none is left, dead or alive."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    for taken in (0, 1, 6, None):
        loader = Loader(Photos(found, Framing((8, 8)), 3), 2)
        if taken is not None:
            batches = loader.batches(cut(np.arange(12), 2))
            for _ in range(taken):
                next(batches)
            workers = {child.pid for child in psutil.Process().children(recursive=True)} - before
            assert len(workers) >= 2
        loader.close()
        loader.close()
        assert {child.pid for child in psutil.Process().children(recursive=True)} <= before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_are_no_business_of_a_worker(found: Catalog, number: signal.Signals) -> None:
    photos = Photos(found, Framing((8, 8)), 3)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with closing(Loader(photos, 2)) as loader:
        batches = loader.batches(cut(np.arange(12), 1))
        rows: list[int] = []
        workers = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
        for _ in range(4):  # the first before they have begun
            for worker in workers:  # not by us, who may end them
                subprocess.run(["kill", f"-{number.value}", str(worker.pid)], check=True)
            rows += next(batches).rows.tolist()
        rows += [row for batch in batches for row in batch.rows.tolist()]
        assert rows == list(range(12))
        assert len(workers) >= 2
        assert all(worker.is_running() for worker in workers)
    assert number not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


@pytest.mark.parametrize("room", [0, 2 * 4 * 3 * (3 * 3 * 8 * 8), None])
def test_batches_are_handed_on_in_shared_memory_where_it_has_room(
    found: Catalog, monkeypatch: pytest.MonkeyPatch, room: int | None
) -> None:
    """``room``: bytes; where it is exactly too little there is none."""
    photos = Photos(found, Framing((8, 8)), 3)
    expected = [photos[Wanted(0, rows)] for rows in cut(np.arange(12), 3)]
    if room is not None:
        monkeypatch.setattr(loading, "_shared_memory", lambda: room)  # the workers are forked
    with closing(Loader(photos, 2)) as loader:
        for one, batch in zip(expected, loader.batches(cut(np.arange(12), 3)), strict=True):
            assert torch.equal(one.images, batch.images)
            assert torch.equal(one.labels, batch.labels)
            assert one.rows.tolist() == batch.rows.tolist()
            assert batch.images.is_shared() == (room is None)


@pytest.mark.parametrize(("error", "told"), [(ConnectionResetError(), False), (EOFError(), False), (OSError(5), True)])
def test_only_the_end_of_the_main_process_is_passed_over(
    error: Exception, told: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    _unless_left(type(error), error, None)
    assert bool(capsys.readouterr().err) == told


def test_a_closed_loader_begins_anew_when_it_is_asked(found: Catalog) -> None:
    with closing(Loader(Photos(found, Framing((8, 8)), 3), 1)) as loader:
        for _ in range(2):
            assert [batch.rows.tolist() for batch in loader.batches(cut(np.arange(12), 8))] == [
                [*range(8)],
                [*range(8, 12)],
            ]
            loader.close()


def test_as_many_workers_as_are_asked_for_or_as_there_are_cores(
    found: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = Photos(found, Framing((8, 8)), 3)
    for cores, expected in ((1, 0), (2, 2), (6, 6), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, cores=cores: set(range(cores)), raising=False)
        assert workers_for(photos) == expected
        assert workers_for(photos, 3) == 3
        assert workers_for(photos, 0) == 0
        digits = Photos(catalog("digits"), Framing((8, 8)), 1)
        moved = replace(digits, augmentation=augmentation("rotation=10"))
        assert workers_for(digits) == workers_for(digits, beside_gpu=True) == workers_for(moved) == 0
        assert workers_for(moved, beside_gpu=True) == expected


# Reads for ever. "asked": the signal is answered in an orderly way, as by the command line; "plain": as Python does.
ENDLESS = """
import signal, sys
from contextlib import closing
import numpy as np
from convscope.data.catalog import catalog
from convscope.data.loading import Loader, Photos, cut
from convscope.images.frame import Framing

wanted = []
if sys.argv[2] == "asked":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: wanted.append(number))
else:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in the background ignores it
photos = Photos(catalog(sys.argv[1]), Framing((64, 64)), 3)
batches = 0
try:
    with closing(Loader(photos, 2)) as loader:
        while not wanted and (sys.argv[2] != "once" or batches < 30):
            for batch in loader.batches(cut(np.arange(12), 2)):
                batches += 1
                if batches == 20:
                    print("reading", flush=True)
                if wanted:
                    break
except KeyboardInterrupt:
    pass
print("ended", flush=True)
"""


@pytest.mark.parametrize(
    ("way", "number"),
    [("plain", signal.SIGINT), ("asked", signal.SIGINT), ("asked", signal.SIGTERM), ("asked", signal.SIGHUP)],
)
def test_a_signal_reaches_all_processes_and_none_complains(found: Catalog, way: str, number: signal.Signals) -> None:
    process = script(ENDLESS, found.source, way)
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    os.killpg(process.pid, number)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "ended\n", "")
    psutil.wait_procs(workers, timeout=10)
    assert not any(worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE for worker in workers)


def test_an_end_without_signals_says_nothing_either(found: Catalog) -> None:
    process = script(ENDLESS, found.source, "once")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "reading\nended\n", "")


ENDED = """
import multiprocessing, sys, time
import psutil
from convscope.data import loading

def wait(_):
    loading._quietly(0)
    print("ready", flush=True)
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    with loading._uninterrupted():
        worker = context.Process(target=wait, args=(0,), daemon=True)
        worker.start()
    sys.stdin.readline()
    worker.terminate()
    worker.join(20)
    print(worker.exitcode)
"""


@pytest.mark.parametrize("way", ["fork", "spawn", "forkserver"])
def test_a_worker_hears_its_main_process_alone_however_it_was_begun(way: str, tmp_path: Path) -> None:
    (tmp_path / "ended.py").write_text(ENDED)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "ended.py"), way],
        **{"env": env, "text": True, "start_new_session": True, "bufsize": 1},
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
    )
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    for worker in psutil.Process(process.pid).children(recursive=True):
        if "resource_tracker" not in " ".join(worker.cmdline()) and "forkserver import" not in " ".join(
            worker.cmdline()
        ):
            subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    time.sleep(1)
    out, errors = process.communicate("\n", timeout=60)
    assert out == "1\n", errors


def test_workers_end_with_a_process_that_is_killed(found: Catalog) -> None:
    process = script(ENDLESS, found.source, "plain")
    assert process.stdout is not None
    assert process.stdout.readline() == "reading\n"
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait(30)
    deadline = time.monotonic() + 30
    while [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.communicate()
