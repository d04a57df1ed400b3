"""The house's rules: imports run one way, files stay short, and importing convscope or asking for help stays fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ORDER = (
    "cli > explorer > scope > studies > training > atlas > report > methods > optvis > instrument"
    " > {models | data} > images > {progress | parallel | settings} > types > errors"
)
RANKS = {
    name.strip(): rank
    for rank, level in enumerate(reversed(ORDER.split(">")))
    for name in level.strip(" {}").split("|")
}
FRONT_DOOR = {"__init__.py", "__main__.py"}  # convscope/__init__.py and __main__.py reach everywhere
LONGEST = 400
HEAVY = {"torch", "torchvision", "timm", "numpy", "matplotlib"}
PACKAGE = Path(__file__).resolve().parents[1] / "convscope"


def imported(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported in ``tree``, at any depth, by a module that lies in ``package``."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                above = package[: len(package) - level + 1] if level else []
                base = ".".join([*above, *([module] if module else [])])
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in names)
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield node.lineno, name


def home(name: str) -> str | None:
    """The part of the house that ``name`` is in; "" for the front door, None for other libraries and the version."""
    root, part, *_ = f"{name}.".split(".")
    if root != "convscope" or part == "__version__":
        return None
    return part if part in RANKS else ""


def violations(package: Path) -> list[str]:
    """Every import in the tree at ``package`` (a folder called convscope) that goes against the order, as a line."""
    found = []
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(package)
        if str(path) in FRONT_DOOR:
            continue
        where = path.parts[0].removesuffix(".py")
        if where not in RANKS:
            found.append(f"{path}: {where} has no place in the order")
            continue
        for line, name in imported(ast.parse(file.read_text(encoding="utf-8")), ["convscope", *path.parts[:-1]]):
            part = home(name)
            if part is None or part == where:
                continue
            # By the front door come Scope and all it knows, so only what is above Scope may use it.
            if RANKS[part or "scope"] >= RANKS[where]:
                found.append(f"{path}:{line}: {where} may not import {name}")
    return found


def too_long(package: Path) -> list[str]:
    """Every source file in the tree at ``package`` that should be split."""
    files = [f for f in sorted(package.rglob("*")) if f.suffix in {".py", ".html", ".css", ".js"}]
    lengths = {f.relative_to(package): len(f.read_text(encoding="utf-8").splitlines()) for f in files}
    return [f"{path}: {length} lines" for path, length in lengths.items() if length > LONGEST]


def heavy_after(code: str) -> set[str]:
    """The heavy libraries that are loaded once a fresh interpreter has run ``code``."""
    report = f"\nimport sys; print('loaded:', *({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


def test_imports_run_one_way() -> None:
    assert len(list(PACKAGE.rglob("*.py"))) > 10, "the package was not found"
    assert violations(PACKAGE) == []


def test_files_stay_short() -> None:
    assert too_long(PACKAGE) == []


def test_importing_convscope_loads_nothing_heavy() -> None:
    assert heavy_after("import convscope") == set()


def test_help_loads_nothing_heavy() -> None:
    code = """
import sys
from convscope.cli import main
sys.argv = ["convscope", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""
    assert heavy_after(code) == set()


def tree(root: Path, files: dict[str, str]) -> Path:
    """A made-up package of ``files`` under ``root``."""
    for name, text in files.items():
        path = root / "convscope" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root / "convscope"


@pytest.mark.parametrize(
    ("file", "source"),
    [
        pytest.param("errors.py", "import convscope.types", id="upwards"),
        pytest.param("errors.py", "from convscope.types import Maps", id="a name of a part above"),
        pytest.param("models/zoo/lite.py", "from convscope import methods", id="a part above by the front door"),
        pytest.param("models/registry.py", "from convscope.data import catalog", id="between models and data"),
        pytest.param("data/split.py", "import convscope.models.registry as r", id="between data and models"),
        pytest.param("methods/gradcam.py", "from convscope import load", id="a public name from below"),
        pytest.param("scope.py", "import convscope", id="the whole package from below"),
        pytest.param("scope.py", "from convscope import *", id="a star"),
        pytest.param("images/frame.py", "def f():\n    from convscope.cli import main", id="inside a function"),
        pytest.param(
            "types.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from convscope.scope import Scope",
            id="for type checking",
        ),
        pytest.param("images/frame.py", "from ..models import registry", id="relative, two up"),
        pytest.param("images/frame.py", "from .. import models", id="relative, by the front door"),
        pytest.param("progress.py", "from .images import frame", id="relative, one up"),
        pytest.param("models/zoo/__init__.py", "from ...atlas import build", id="relative, from a package's __init__"),
        pytest.param("errors.py", "import importlib\nimportlib.import_module('convscope.cli')", id="by import_module"),
        pytest.param("helpers/text.py", "", id="a folder without a place"),
        pytest.param("util.py", "", id="a file without a place"),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, source: str) -> None:
    found = violations(tree(tmp_path, {file: source}))
    assert len(found) == 1
    assert file in found[0]


def test_what_the_order_allows(tmp_path: Path) -> None:
    files = {
        "__init__.py": "from convscope import methods\nfrom convscope.scope import Scope",
        "__main__.py": "from convscope.cli import main",
        "cli/explain.py": "import convscope\nfrom convscope import load, __version__\nimport convscope.errors",
        "studies/__init__.py": "from convscope import __version__\nfrom convscope.report import embed",
        "methods/gradcam.py": "import torch\nimport convscope.methods.base\nfrom ..models import registry",
        "methods/__init__.py": "from . import gradcam\nfrom .base import register",
        "models/zoo/lite.py": "from ..registry import zoo\nfrom ...images import frame\nimport convscope.types",
        "data/catalog.py": "from convscope import progress, images\nimport convscope.errors",
        "errors.py": "import difflib\nfrom convscopeish.cli import main",
    }
    assert violations(tree(tmp_path, files)) == []


def test_a_long_file_is_found(tmp_path: Path) -> None:
    package = tree(tmp_path, {"errors.py": "\n" * LONGEST, "cli/all.py": "\n" * (LONGEST + 1)})
    assert too_long(package) == [f"cli/all.py: {LONGEST + 1} lines"]


def test_a_heavy_import_is_found() -> None:
    assert heavy_after("import numpy") == {"numpy"}
