"""find_photos: files, folders and globs as people type them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convscope.errors import ImageError, UsageError
from convscope.images.read import find_photos

FILES = """
img10.jpg img2.JPG img1.png notes.txt .hidden.jpg ._img1.png Thumbs.db .git/x.png
deep/er/b.webp deep/a.tif deep/.cache/c.jpg cats [2019]/a1.jpg cats [2019]/a02.jpg
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = FILES.replace("cats [2019]", "cats_[2019]").split()
    for name in names:
        path = tmp_path / "photos" / name.replace("cats_[", "cats [")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*sources: str | Path) -> list[str]:
    return [path.as_posix() for path in find_photos(sources)]


def test_folder_is_searched_to_the_bottom_in_natural_order(here: Path) -> None:
    assert found("photos") == [
        "photos/cats [2019]/a1.jpg",
        "photos/cats [2019]/a02.jpg",
        "photos/deep/a.tif",
        "photos/deep/er/b.webp",
        "photos/img1.png",
        "photos/img2.JPG",
        "photos/img10.jpg",
    ]
    assert found(here / "photos") == [str(here / name) for name in found("photos")]


def test_files_as_given_and_once(here: Path) -> None:
    assert found("photos/notes.txt", "photos/img10.jpg", "photos/img1.png", "photos/img10.jpg") == [
        "photos/notes.txt",
        "photos/img10.jpg",
        "photos/img1.png",
    ]
    assert find_photos("photos/img1.png") == [Path("photos/img1.png")]
    assert find_photos([]) == []


def test_globs(here: Path) -> None:
    assert found("photos/img*") == ["photos/img1.png", "photos/img2.JPG", "photos/img10.jpg"]
    assert found("photos/*.png") == ["photos/img1.png"]
    assert found("photos/img[12].*") == ["photos/img1.png", "photos/img2.JPG"]
    assert found("photos/**/*.webp") == ["photos/deep/er/b.webp"]
    assert found("photos/**") == found("photos")
    assert found(str(here / "photos" / "*.png")) == [str(here / "photos/img1.png")]


def test_names_that_exist_win_over_globs(here: Path) -> None:
    assert found("photos/cats [2019]") == ["photos/cats [2019]/a1.jpg", "photos/cats [2019]/a02.jpg"]
    assert found("photos/cats [2019]/*2.jpg") == ["photos/cats [2019]/a02.jpg"]
    (here / "a[1].jpg").touch()
    (here / "a1.jpg").touch()
    assert found("a[1].jpg") == ["a[1].jpg"]
    (here / "a[1].jpg").unlink()
    assert found("a[1].jpg") == ["a1.jpg"]


def test_links_are_followed_but_not_in_circles(here: Path) -> None:
    (here / "photos/deep/up").symlink_to(here / "photos", target_is_directory=True)
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "far.jpg").touch()
    (here / "photos/link").symlink_to(elsewhere, target_is_directory=True)
    names = [path.name for path in find_photos(["photos"])]
    assert "far.jpg" in names
    assert len(names) == len(set(names)) == 8


@pytest.mark.parametrize("source", ["nowhere", "nowhere.jpg", "*.nothing", "photos/*.txt", "empty", "a\nb", "~noone/x"])
def test_nothing_found_names_it(here: Path, source: str) -> None:
    (here / "empty").mkdir()
    with pytest.raises(UsageError) as caught:
        find_photos(["photos/img1.png", source])
    message = str(caught.value)
    assert source.replace("\n", "\\n") in message
    assert "\n" not in message


def test_folder_that_cannot_be_listed(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, for whom no folder is closed
    with pytest.raises(ImageError, match="photos cannot be listed: Permission denied"):
        find_photos(["photos"])
