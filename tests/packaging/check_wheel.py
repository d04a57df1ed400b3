"""Build the wheel and use it outside the checkout, as `make check` does at its end.

The wheel is installed without its dependencies into a fresh environment that reads them from the one which runs this
script. That environment knows nothing of the checkout, so a file missing from the wheel fails here, and nothing is
built into the checkout. Run as `python tests/packaging/check_wheel.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PROBE = """
import importlib.metadata, json, sys, convscope
from importlib.resources import files
templates = files("convscope") / "report" / "templates"
print(json.dumps({
    "file": convscope.__file__,
    "versions": [convscope.__version__, importlib.metadata.version("convscope")],
    "templates": [entry.name for entry in templates.iterdir()],
    "path": sys.path,
}))
"""


def run(*command: str | Path, cwd: Path) -> str:
    """The standard output of ``command``; its whole output and an exit if it fails."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(
            f"{' '.join(str(part) for part in command)}\nfailed with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def check(holds: bool, message: str) -> None:
    if not holds:
        sys.exit(f"wheel check: {message}")


def sources() -> set[str]:
    """The files of the package that git knows or would add, as paths in the wheel."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "convscope", cwd=CHECKOUT)
    return {name for name in listed.splitlines() if (CHECKOUT / name).is_file()}


def build(folder: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=CHECKOUT)
    (wheel,) = folder.glob("convscope-*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """A fresh environment with the wheel; its interpreter."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder.parent)
    # Only now, or pip would see the checkout's own installation there. A .pth file named by another is not read, so
    # the editable installation's path to the checkout stays out.
    purelib = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder.parent).strip()
    (Path(purelib) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def main() -> None:
    before = {path.name for path in CHECKOUT.iterdir()}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        empty = root / "empty"
        empty.mkdir()

        wheel = build(root / "dist")
        with zipfile.ZipFile(wheel) as archive:
            packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        missing, extra = sorted(sources() - packed), sorted(packed - sources())
        check(not missing, f"the wheel lacks {', '.join(missing)}")
        check(not extra, f"the wheel has more than the package: {', '.join(extra)}")

        python = install(wheel, root / "venv")
        probe = json.loads(run(python, "-c", PROBE, cwd=empty))
        check(Path(probe["file"]).is_relative_to(root / "venv"), f"convscope was imported from {probe['file']}")
        check(str(CHECKOUT) not in probe["path"], "the checkout is on the path, so this proves nothing")
        check(len(set(probe["versions"])) == 1, f"two versions: {probe['versions']}")
        check(any(name.endswith(".html") for name in probe["templates"]), "the report's template is not installed")

        version = run(python, "-m", "convscope", "--version", cwd=empty)
        check(probe["versions"][0] in version, f"--version says {version!r}")
        methods = json.loads(run(python.parent / "convscope", "methods", "--json", cwd=empty))
        check(len(methods) > 0, "`convscope methods --json` lists none")
        check(not list(empty.iterdir()), "convscope left files in the working folder")

    left = sorted({path.name for path in CHECKOUT.iterdir()} - before)
    check(not left, f"building left {', '.join(left)} in the checkout")
    print(f"{wheel.name}: {len(packed)} files, {len(methods)} methods, works outside the checkout")


if __name__ == "__main__":
    main()
