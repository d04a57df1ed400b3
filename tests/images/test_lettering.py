"""Names are drawn in fonts that have their characters; where the machine has none, they are said in another way."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw

from convscope.images import fonts, lettering
from convscope.images.lettering import Line, class_label, fitted, font, font_remark, shorten, spelled, wrap, write
from tests.fonts import font_with, only_fonts

TWO, ONE = "猫犬", "鳥"  # matplotlib's own font has no Chinese


@pytest.fixture
def installed() -> Iterator[list[str]]:
    with only_fonts() as files:
        yield files


def drawn(text: str, size: int = 40) -> np.ndarray:
    """The text's ink, row by row and column by column."""
    picture = Image.new("RGB", (900, 80), "black")
    face = font(size, text)
    write(ImageDraw.Draw(picture), [text], face, 10, 5, (255, 255, 255))
    return np.asarray(picture)[..., 0] > 127


# Where a font has the characters


def test_a_font_of_the_system_draws_what_matplotlibs_lacks(installed: list[str], tmp_path: Path) -> None:
    assert fonts.lacking(TWO) == list(TWO)
    fonts._files.cache_clear()
    installed.append(font_with(TWO, tmp_path / "own.ttf"))
    assert fonts.lacking(TWO) == []
    assert font_remark([f"a {TWO}"]) is None
    assert spelled(f"cat {TWO}") == f"cat {TWO}"
    assert class_label(TWO, 3) == TWO
    heights = [drawn(c).any(1).sum() for c in TWO]
    assert heights == [8, 20]  # 200 and 500 of 1000, at 40 pixels: its own glyphs, no boxes
    assert drawn(f"é{TWO}")[:, 10:30].any(), "the rest is in matplotlib's"


def test_parts_in_two_fonts_follow_each_other_on_one_line(installed: list[str], tmp_path: Path) -> None:
    installed.append(font_with(TWO, tmp_path / "own.ttf"))
    text = f"ж{TWO[0]}ж"
    face, letter = font(40, text), font(40, "ж").getlength("ж")
    assert [part for _, part in face.runs(text)] == ["ж", TWO[0], "ж"]
    assert face.getlength(text) == pytest.approx(2 * letter + 36)  # 900 of 1000, at 40 pixels
    start = int(10 + letter)
    parts = [drawn(text)[:, span] for span in (slice(0, start), slice(start, start + 36), slice(start + 37, None))]
    feet = [int(np.flatnonzero(part.any(1)).max()) for part in parts]
    assert max(feet) - min(feet) <= 1
    assert feet[0] < 5 + lettering.line_height(face)


def test_the_fewest_and_plainest_fonts_are_taken(installed: list[str], tmp_path: Path) -> None:
    for name in ("OwnSerif-Regular", "OwnSans-Bold", "OwnSans-Regular", "OwnSansMono-Regular"):
        installed.append(font_with(TWO, tmp_path / f"{name}.ttf"))
    installed.append(font_with(TWO[0], tmp_path / "AA.ttf"))
    found = fonts.font_files(TWO)
    assert [Path(file).name for file in found] == ["DejaVuSans.ttf", "OwnSans-Regular.ttf"]
    assert fonts._usable(["/a/Arial.ttf", "/a/Last Resort.otf", "/a/AdobeBlank-Regular.ttf"]) == ["/a/Arial.ttf"]


def test_a_font_that_cannot_be_read_or_draws_nothing_is_passed_over(installed: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    hollow = font_with(TWO, tmp_path / "aa.ttf")
    with TTFont(hollow) as opened:
        for name in opened["glyf"].keys():  # noqa: SIM118
            opened["glyf"][name] = TTGlyphPen(None).glyph()
        opened.save(hollow)
    good = font_with(TWO, tmp_path / "zz.ttf")
    installed += [str(tmp_path / "broken.ttf"), str(tmp_path / "gone.ttf"), hollow, good]
    assert fonts.font_files(TWO)[1:] == (good,)


def test_fonts_in_a_users_own_folder_are_found_though_matplotlibs_list_is_older(tmp_path: Path) -> None:
    font_with(TWO, tmp_path / "data" / "fonts" / "own.ttf")
    font_with(TWO, tmp_path / "home" / "Library" / "Fonts" / "own.ttf")
    script = (
        "import matplotlib.font_manager\n"
        "from convscope.images import fonts, lettering\n"
        f"print(fonts.font_files({TWO!r})[1:], lettering.font_remark([{TWO!r}]))"
    )
    own = {"XDG_DATA_HOME": str(tmp_path / "data"), "MPLCONFIGDIR": str(tmp_path / "list")}
    if sys.platform == "darwin":
        own["HOME"] = str(tmp_path / "home")
    environment = os.environ | own

    def told() -> str:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert re.search(r"own\.ttf'\S* None", told())
    cache = next((tmp_path / "list").glob("fontlist*"))
    cache.write_text(re.sub(r'\{[^{}]*"name": "Own".*?\},?', "", cache.read_text(), flags=re.DOTALL))
    assert "own.ttf" not in cache.read_text()
    assert re.search(r"own\.ttf'\S* None", told())


# Where none has


@pytest.mark.usefixtures("installed")
def test_codes_stand_for_characters_and_names_for_emoji() -> None:
    assert spelled("IMG_0001 é.jpg") == "IMG_0001 é.jpg"
    assert spelled(f"{ONE}{TWO[0]}_1.jpg") == "[U+9CE5 U+732B]_1.jpg"
    assert not fonts.lacking("🐱"), "matplotlib's own font has this one"
    assert spelled("🦩🏽\ufe0f 2") == "[flamingo] 2"
    assert class_label("🦩 birds", 4) == "[flamingo] birds"
    assert spelled("") == ""


@pytest.mark.usefixtures("installed")
def test_a_class_goes_by_its_number_and_what_can_be_read() -> None:
    assert class_label("tabby", 3) == "tabby"
    assert class_label("кошка", 3) == "кошка"
    assert class_label(ONE, 3) == "class 3"
    assert class_label(f"cat {ONE} ж", 3) == "class 3 (cat ж)"
    assert class_label(f"cat{ONE} -", 3) == "class 3"


def test_the_remark_is_one_line_with_the_font_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert font_remark(["cat", "Käfer", "кошка", "قطة"]) is None
    assert font_remark([]) is None
    monkeypatch.setattr(lettering, "lacking", lambda text: [c for c in dict.fromkeys(text) if c > "\u0900"])
    said = font_remark(["猫", "猫犬", "แมว", "🦩", "cat"])
    assert said is not None
    assert "\n" not in said
    assert "no font on this machine has the characters 猫, 犬, แ, ม, ว and 1 more" in said
    assert "install Noto Sans CJK and Noto Sans Thai and Noto Emoji" in said
    for text in ("ねこ", "ネコ", "고양이", "ㄅ", "ｶ"):
        assert "install Noto Sans CJK to" in str(font_remark([text]))
    assert "install Noto Sans Devanagari to" in str(font_remark(["बाघ"]))


# Lines


@pytest.mark.parametrize("text", ["IMG_20190412_183212_final_edited.jpeg", "W" * 80, "a", "ab", "", "é" * 50])
@pytest.mark.parametrize("width", [30, 84, 218])
def test_a_long_name_loses_its_middle(text: str, width: int) -> None:
    face = font(11, text)
    short = shorten(text, face, width)
    assert face.getlength(short) <= width
    if short != text:
        assert face.getlength(text) > width
        start, end = short.split("…")
        assert text.startswith(start)
        assert text.endswith(end)
        assert 0 <= len(start) - len(end) <= 1
        assert face.getlength(f"{start}{text[len(start)]}…{end}") > width - 11, "no more than it must"


@pytest.mark.usefixtures("installed")
def test_what_is_around_a_name_stays_whole_however_long_the_name_is() -> None:
    for name in ("cat", "W" * 60, "n02099601 golden retriever, seen from the side at dusk, no 01", ONE * 40):
        face = font(15, name)
        text = fitted(Line(name, "taken for ", " (0.02)"), face, 218)
        assert text.startswith("taken for ")
        assert text.endswith(" (0.02)")
        assert face.getlength(text) <= 218
        assert ("…" in text) == (name != "cat")
        assert face.getlength(fitted(Line(name, "taken for ", " (0.02)"), face, 40)) <= 40


def test_accents_and_joiners_are_not_parted_from_their_letters() -> None:
    word = "ɛ̃" * 20  # the accent is a character of its own
    face = font(15, word)
    assert len(word) == 40
    for width in range(20, 150, 7):
        lines = wrap(word, face, width, 50)
        assert "".join(lines) == word
        assert all(line.startswith("ɛ") for line in lines)
        assert not shorten(word, face, width).partition("…")[2].startswith("\u0303")
    assert lettering.one_line("a\u200db\nc\u202ed") == "a\u200db c d"
