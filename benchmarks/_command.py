"""What a command of convscope costs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence


def command(arguments: Sequence[str]) -> tuple[float, float, float]:
    """Seconds of wall time, seconds of processor time and peak MiB of ``convscope`` with these arguments."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "convscope", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    said = child.stderr.read() if child.stderr else ""
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        sys.exit(f"convscope {' '.join(arguments)} ended with {child.returncode}:\n{said}")
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
