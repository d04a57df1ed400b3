"""The documentation runs: every Python block of the README and the guide, with the demo's photos at hand."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/guide.md", "docs/patterns.md", "docs/training.md"]


def blocks(page):
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.S | re.M)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    subprocess.run([sys.executable, ROOT / "examples" / "demo_photos.py", folder], check=True)
    return folder


@pytest.mark.parametrize(("page", "number"), [(page, i) for page in PAGES for i in range(len(blocks(page)))])
def test_block_runs(page, number, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(blocks(page)[number], f"{page} block {number}", "exec"), {})


@pytest.mark.parametrize("page", [*PAGES, "docs/methods.md"])
def test_pictures_and_links_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_every_recipe_is_documented():
    from convscope.optvis import RECIPES

    rows = re.findall(r"^\| `(\w+)`", (ROOT / "docs/patterns.md").read_text(encoding="utf-8"), flags=re.M)
    assert rows == list(RECIPES)


def test_every_method_is_documented():
    from convscope.methods import METHODS

    headings = re.findall(r"^## (\S+)$", (ROOT / "docs/methods.md").read_text(encoding="utf-8"), flags=re.M)
    assert headings == list(METHODS)
