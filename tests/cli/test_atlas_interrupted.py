"""``convscope atlas`` as a process that is interrupted, killed and ended: the same command goes on to the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from convscope import Atlas
from tests.atlas.test_build import everything
from tests.cli.atlases import DIGITS, grey_network, made
from tests.cli.conftest import Call
from tests.cli.test_process import as_started_by_a_shell
from tests.data.test_sources_idx import digits_as_idx

ROOT = Path(__file__).resolve().parents[2]
LINE = (*DIGITS[:1], "idx", *DIGITS[2:], "--layers", "conv,relu,head", "--workers", "0", "-o", "a")


def seen() -> list[int]:
    """The batches that the network was given so far."""
    return [int(line) for line in Path("batches").read_text().split()] if Path("batches").exists() else []


def hit(number: signal.Signals, batches: int) -> tuple[int, str, str]:
    """The command as a process that a signal hits while it looks at so many batches' last."""
    before = len(seen())
    process = subprocess.Popen(
        [sys.executable, "-m", "convscope", "atlas", *LINE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_started_by_a_shell,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "SLOW": ".1"},
    )
    end = time.monotonic() + 120
    while len(seen()) < before + batches:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(number)
    out, told = process.communicate(timeout=120)
    return process.returncode, out, told


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
def test_interrupted_killed_and_ended_it_goes_on_to_the_same_tables(
    call: Call, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONVSCOPE_CACHE", str(here / "cache"))
    grey_network(here)
    digits_as_idx(here / "idx")
    made(call, *LINE[:-1], "whole")
    Path("batches").unlink()
    on = "; what is done is in a, the same command goes on with it"

    code, out, told = hit(signal.SIGINT, 3)
    assert (code, out) == (130, ""), told
    assert told == f"convscope: interrupted{on}\n"
    put_away = len(seen())
    assert 3 <= put_away < 57, "the batch that it was at is finished"
    assert Atlas("a").meta["batches done"] == put_away
    assert not Atlas("a").complete
    listed = call("unit", "a", "--json")
    assert listed.err == "convscope: a is still being built: this is of the photos that were looked at so far\n"
    assert len(listed.json["units"]) == 22
    shown = call("unit", "a", "conv:0", "--model", "grey.py:Net", "--json")
    assert shown.code == 0, shown.err
    assert len(shown.json["top"]) == 9
    assert max(patch.number for patch in Atlas("a").unit("conv:0").top) < 32 * put_away

    assert hit(signal.SIGKILL, 2) == (-signal.SIGKILL, "", "")
    assert Atlas("a").meta["batches done"] == put_away, "what came after the last time of putting away is lost"
    lost = len(seen()) - put_away
    assert lost >= 2

    code, out, told = hit(signal.SIGTERM, 4)
    assert (code, out) == (143, ""), told
    assert told == f"convscope: ended by SIGTERM{on}\n"
    assert Atlas("a").meta["batches done"] == len(seen()) - lost
    assert len(list(Path("a").glob("state-*"))) == 1

    done = made(call, *LINE)
    assert len(seen()) - lost == -(-1797 // 32), "each other batch was looked at once"
    assert done.out.splitlines()[-1].startswith("a: 1,797 photos; ")
    assert everything(Path("a")) == everything(Path("whole"))
    assert {file.name for file in Path("a").glob("state*")} == {file.name for file in Path("whole").glob("state*")}
