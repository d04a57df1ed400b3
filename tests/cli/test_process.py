"""The command as a process: signals, pipes, full disks, and how it ends."""

from __future__ import annotations

import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from convscope.cli import process
from convscope.cli.process import Ended, uninterrupted
from tests.cli.conftest import MODEL

COMMAND = [sys.executable, "-m", "convscope"]
# 16,129 windows, one at a time
LONG = ["explain", "net.py:Net", "a.png", "--size", "128", "--methods", "occlusion", "--layers", "none"]
LONG += [part for setting in ("size=2", "stride=1", "chunk=1") for part in ("--set", f"occlusion.{setting}")]
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and limits")


def as_started_by_a_shell() -> None:
    """A test run in the background may hand down ignored signals."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@posix
@pytest.mark.parametrize(
    ("number", "code", "line"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "ended by SIGTERM")],
)
def test_a_signal_ends_a_long_job_in_order(here: Path, number: signal.Signals, code: int, line: str) -> None:
    started = subprocess.Popen(
        [*COMMAND, *LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=as_started_by_a_shell
    )
    wait_for("report/.convscope-*", here, started)
    time.sleep(1)
    started.send_signal(number)
    out, err = started.communicate(timeout=120)
    assert started.returncode == code
    assert out == b""
    assert err.decode().splitlines()[-1] == f"convscope: {line}"
    assert b"Traceback" not in err
    assert not (here / "report").exists()


def wait_for(pattern: str, folder: Path, started: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 150
    while not list(folder.glob(pattern)):
        assert started.poll() is None, started.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


@posix
def test_a_full_disk_is_one_line_and_leaves_nothing(here: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = subprocess.run(
        [*COMMAND, "explain", *MODEL, "a.png", "--methods", "grad-cam", "--out", "r"],
        capture_output=True,
        text=True,
        preexec_fn=small_files,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("convscope: error: cannot write r: ")
    assert done.stderr.count("\n") == 1
    assert not (here / "r").exists()


@posix
def test_nobody_reads_or_the_disk_behind_stdout_is_full() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*COMMAND, "--version"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
    if os.path.exists("/dev/full"):
        with open("/dev/full", "w") as full:
            done = subprocess.run([*COMMAND, "--version"], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr == "convscope: error: writing failed: No space left on device\n"


def test_a_bug_shows_its_traceback_and_code_1(here: Path) -> None:
    args = ["predict", "net.py:Buggy", "a.png", "--size", "32"]
    done = subprocess.run([*COMMAND, *args], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: a bug of the user's own" in done.stderr
    assert done.stdout == ""


def test_json_in_a_process_of_its_own_with_any_locale(here: Path) -> None:
    (here / "classes.txt").write_text("Käse\n猫\nx\n", "utf-8")
    done = subprocess.run(
        [*COMMAND, "predict", *MODEL, "a.png", "--json"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "CONVSCOPE_ALLOCATOR": "tuned"},
    )
    assert done.returncode == 0, done.stderr
    assert {entry["name"] for entry in json.loads(done.stdout.decode("ascii"))["photos"][0]["top"]} == {
        "Käse",
        "猫",
        "x",
    }


@pytest.mark.parametrize(
    ("args", "advice"),
    [
        (["train", "explain/"], "try a smaller --batch-size or --size"),
        (["--allocator", "default", "train"], "try a smaller --batch-size or --size"),
        (
            ["explain", "run:train", "train"],
            "try a smaller --size, or a smaller budget, as in --set occlusion.budget=128",
        ),
        (["predict", "run:a", "train"], "try a smaller --size"),
        (["check", "photos"], "check the folders of photos one at a time"),
    ],
)
def test_without_memory_a_command_says_what_it_can_do_with_less(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str], advice: str
) -> None:
    def too_much(_: object) -> int:
        return len(torch.empty(2**55))  # as torch itself fails

    def on_a_gpu(_: object) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 has...")

    def in_python(_: object) -> int:
        raise MemoryError

    for failing in (too_much, on_a_gpu, in_python):
        monkeypatch.setattr(process, "_invoke", failing)
        assert process.run(args) == 1
        assert capsys.readouterr().err == f"convscope: error: out of memory: {advice}\n"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be tuned")
def test_the_allocator_is_said_and_can_be_left_alone() -> None:
    def version(*args: str, **env: str) -> str:
        without = {name: value for name, value in os.environ.items() if name != "CONVSCOPE_ALLOCATOR"}
        done = subprocess.run([*COMMAND, *args, "--version"], capture_output=True, text=True, env={**without, **env})
        return done.stdout.splitlines()[-1]

    assert version() == "allocator tuned (freed memory is kept for reuse)"
    assert version("--allocator", "default") == "allocator default"
    assert version(CONVSCOPE_ALLOCATOR="default") == "allocator default"


def test_signals_wait_while_files_are_put_in_place() -> None:
    done = []
    with pytest.raises(Ended) as ended, process.ended_by_signals():  # noqa: PT012
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            done.append("put in place")
        done.append("not reached")
    assert done == ["put in place"]
    assert ended.value.code == 143


def test_ignored_signals_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with process.ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGHUP, before)
