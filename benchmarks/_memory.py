"""Peak memory of this process, as Linux counts it; measure each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

MIB = 2**20
# What `convscope --allocator tuned` does, said to glibc before the process starts: keep freed memory for reuse.
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


def peak_growth(run: Callable[[], object]) -> float:
    """MiB by which the peak of ``run`` passes what the process held before it.

    What it held is what is resident, its highest point until then not counted.
    """
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    run()
    return (_status("VmHWM") - before) / MIB


def again(*arguments: str, tuned: bool = False) -> subprocess.CompletedProcess[str]:
    """This script once more in a process of its own; what it prints is in ``stdout``, errors go to the terminal."""
    environment = {**os.environ, **(TUNED if tuned else {})}
    return subprocess.run(
        [sys.executable, sys.argv[0], *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=False
    )


def _status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}: memory is measured on Linux only")
