"""What convscope wrote is not taken for photos, whoever looks for them; what is a person's own always is."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from convscope.data.catalog import catalog
from convscope.errors import UsageError
from convscope.images.own import MARK, is_own, make_own
from convscope.images.read import find_photos


def photo(place: Path, colour: int = 0) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (colour, 7 * colour % 256, 9)).save(place)
    return place


def names(found: list[Path], below: Path) -> list[str]:
    return [str(place.relative_to(below)) for place in found]


def test_only_a_folder_that_is_made_is_marked(tmp_path: Path) -> None:
    make_own(tmp_path / "a" / "report")
    assert is_own(tmp_path / "a" / "report")
    assert not is_own(tmp_path / "a"), "other things may come to lie there"
    mine = photo(tmp_path / "cats" / "1.png").parent
    make_own(mine)
    assert not is_own(mine)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        make_own(tmp_path / "file")


def test_results_below_a_folder_of_photos_are_passed_over(tmp_path: Path) -> None:
    photo(tmp_path / "1.png")
    photo(tmp_path / "more" / "2.png")
    report = tmp_path / "report"
    make_own(report)
    photo(report / "heat.png")
    photo(report / "000-cat" / "grey.png")
    assert names(find_photos([tmp_path]), tmp_path) == ["1.png", "more/2.png"]
    assert names(find_photos([tmp_path / "**/*.png"]), tmp_path) == ["1.png", "more/2.png"]
    assert names(find_photos([tmp_path / "*/*.png"]), tmp_path) == ["more/2.png"]


def test_results_that_are_named_are_meant(tmp_path: Path) -> None:
    report = tmp_path / "report"
    make_own(report)
    photo(report / "000-cat" / "grey.png")
    for source in (report, report / "000-cat", report / "000-cat" / "grey.png", report / "**" / "*.png"):
        assert names(find_photos([source]), report) == ["000-cat/grey.png"]
    with pytest.raises(UsageError, match="no photos in the folder"):
        find_photos([tmp_path])


def test_a_glob_passes_over_what_it_does_not_name(tmp_path: Path) -> None:
    photo(tmp_path / "cats" / "report" / "1.png")  # a person's own, whatever it is called
    for number in (1, 2):
        make_own(tmp_path / f"out{number}")
        photo(tmp_path / f"out{number}" / "000-cat" / "grey.png")
    found = ["out1/000-cat/grey.png", "out2/000-cat/grey.png"]
    for pattern in ("out*/000-cat/*.png", "out[12]/*/grey.png", "out*/**/grey.png"):
        assert names(find_photos([tmp_path / pattern]), tmp_path) == found
    assert names(find_photos([tmp_path / "*/report/*.png"]), tmp_path) == ["cats/report/1.png"]
    for pattern in ("*/000-cat/*.png", "**/grey.png", "**/out1/000-cat/*.png"):
        with pytest.raises(UsageError, match="but not in what convscope wrote, unless its folder is named"):
            find_photos([tmp_path / pattern])


def test_where_there_are_only_results_it_is_said(tmp_path: Path) -> None:
    make_own(tmp_path / "runs")
    photo(tmp_path / "runs" / "curves.png")
    with pytest.raises(UsageError, match="left out, as convscope wrote it: runs"):
        catalog(str(tmp_path))


def test_a_run_among_the_classes_is_no_class(tmp_path: Path) -> None:
    top = tmp_path / "photos"
    for number in range(3):
        photo(top / "cats" / f"{number}.png", 10 + number)
        photo(top / "dogs" / f"{number}.png", 20 + number)
    make_own(top / "runs" / "last")
    photo(top / "runs" / "last" / "curves.png")
    make_own(top / "cats" / "report")
    photo(top / "cats" / "report" / "heat.png")
    found = catalog(str(top))
    assert found.classes == ("cats", "dogs")
    assert len(found) == 6
    (remark,) = (line for line in found.remarks if "convscope" in line)
    assert remark == "left out, as convscope wrote it: cats/report, runs/last"


def test_a_folder_of_results_is_a_data_set_where_it_is_named(tmp_path: Path) -> None:
    make_own(tmp_path / "crops")
    for number in range(3):
        photo(tmp_path / "crops" / "a" / f"{number}.png", number)
        photo(tmp_path / "crops" / "b" / f"{number}.png", 50 + number)
    assert catalog(str(tmp_path / "crops")).classes == ("a", "b")
    assert (tmp_path / "crops" / MARK).stat().st_size == 0
