"""How long does a user wait: for one explained photo on the command line, and for `import convscope`?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from statistics import median

from _command import command
from _table import Table, options

MODEL, METHODS = "convscope:efficientnet_lite0", "grad-cam,guided,deconvnet,occlusion"
EXPLAIN, IMPORT = 60.0, 0.3  # seconds
CLOCK = "process_time" if os.environ.get("OMP_NUM_THREADS") == "1" else "perf_counter"
SLOWEST = 5


def explain(table: Table, allocator: str, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder, as_file(files("skimage") / "data" / "chelsea.png") as cat:
        arguments = ["explain", MODEL, str(cat), "--methods", METHODS, "--out", str(Path(folder) / "report")]
        runs = [command(["--allocator", allocator, *arguments]) for _ in range(repeats)]
    wall, processor, peak = (median(column) for column in zip(*runs, strict=True))
    waited = processor if CLOCK == "process_time" else wall
    case = f"explain one photo, allocator {allocator}"
    if allocator == "tuned":  # what the command line does by default
        table.at_most(case, waited, EXPLAIN, "s")
    else:
        table.note(case, waited, "s")
    table.note(f"{case}: processor time", processor, "s")
    table.note(f"{case}: peak memory", peak, "MiB")


def import_time(module: str) -> float:
    """Seconds that the import takes inside a fresh interpreter."""
    code = f"from time import {CLOCK} as now; start = now(); import {module}; print(now() - start)"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def slowest_imports(module: str) -> list[tuple[float, str]]:
    """Milliseconds and names of the imports that take longest by themselves, from ``python -X importtime``."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"import {module}"], stderr=subprocess.PIPE, text=True, check=True
    )
    lines = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines() if "|" in line]
    times = [(int(own) / 1000, name.strip()) for own, _, name in lines if own.strip().isdigit()]
    return sorted(times, reverse=True)[:SLOWEST]


def main() -> None:
    chosen = options(__doc__).parse_args()
    table = Table("Waiting: one photo explained by four methods, and imports")
    repeats = 3 if chosen.quick else 9
    table.at_most("import convscope", median(import_time("convscope") for _ in range(repeats)), IMPORT, "s")
    table.note("import convscope.cli", median(import_time("convscope.cli") for _ in range(repeats)), "s")
    table.note("import convscope.scope (with torch)", median(import_time("convscope.scope") for _ in range(3)), "s")
    for milliseconds, name in slowest_imports("convscope"):
        table.note(f"  of import convscope: {name}", milliseconds, "ms")
    for allocator in ("tuned", "default"):
        explain(table, allocator, 1 if chosen.quick else 3)
    table.finish()


if __name__ == "__main__":
    main()
