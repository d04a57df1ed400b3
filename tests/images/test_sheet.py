"""Contact sheets: every picture whole and in its place, every label inked and unclipped, dead units marked."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from convscope.errors import ConvscopeError, UsageError
from convscope.images.lettering import Line, font, line_height, wrap
from convscope.images.sheet import GAP, MARGIN, MARK, contact_sheet, headed, row, save_each
from tests.fonts import only_fonts


def plain(count: int, size: int = 84) -> list[np.ndarray]:
    """Tiles that are told apart by their grey."""
    return [np.full((size, size), 20 + i, np.uint8) for i in range(count)]


def array(sheet: Image.Image) -> np.ndarray:
    assert sheet.mode == "RGB"
    return np.asarray(sheet).astype(int)


def ink(pixels: np.ndarray, paper: int = 255) -> np.ndarray:
    """Where something is on the paper."""
    return (np.abs(pixels - paper) > 40).any(-1)


def test_pixels_are_where_they_must_be() -> None:
    sheet = array(contact_sheet(plain(20)))
    assert sheet.shape == (2 * MARGIN + 2 * 84 + GAP, 2 * MARGIN + 16 * 84 + 15 * GAP, 3)
    rest = sheet.copy()
    for i in range(20):
        top, left = MARGIN + i // 16 * (84 + GAP), MARGIN + i % 16 * (84 + GAP)
        assert (sheet[top : top + 84, left : left + 84] == 20 + i).all()
        rest[top : top + 84, left : left + 84] = 255
    assert (rest == 255).all()


def test_small_maps_are_enlarged_in_whole_pixels() -> None:
    small = np.arange(49, dtype=np.uint8).reshape(7, 7) * 5
    sheet = array(contact_sheet([small] * 16))
    got = sheet[MARGIN : MARGIN + 84, MARGIN : MARGIN + 84, 0]
    np.testing.assert_array_equal(got, np.kron(small, np.ones((12, 12), int)))


@pytest.mark.parametrize("size", [1, 2, 5, 7, 13, 14, 27, 28, 32, 55, 56, 64, 83, 84, 112, 224, 2000])
@pytest.mark.parametrize("columns", [1, 3, 8, 16])
def test_tiles_are_legible_and_the_page_is_bounded(size: int, columns: int) -> None:
    sheet = contact_sheet(plain(columns, size), columns=columns)
    side = sheet.height - 2 * MARGIN
    assert 83 <= side <= 640
    assert sheet.width <= 2200
    assert size >= 84 or side % size == 0


def test_large_pictures_are_reduced_without_aliasing() -> None:
    stripes = np.tile(np.uint8([0, 255]), (2000, 1000))
    sheet = array(contact_sheet([stripes] * 16))
    assert np.abs(sheet[MARGIN + 4 : -MARGIN - 4, MARGIN + 4 : MARGIN + 80] - 127.5).max() < 3


def test_mixed_sizes_keep_their_aspect() -> None:
    tiles = [np.zeros((50, 100), np.uint8), np.zeros((400, 100), np.uint8), Image.new("L", (3, 3))]
    dark = ink(array(contact_sheet(tiles, tile=80)))
    for i, (height, width) in enumerate([(40, 80), (80, 20), (80, 80)]):
        cell = dark[:, MARGIN + i * (80 + GAP) :][:, :80]
        rows, cols = np.flatnonzero(cell.any(1)), np.flatnonzero(cell.any(0))
        assert (len(rows), len(cols)) == (height, width)
        assert rows[-1] == MARGIN + 79, "they stand on one line"
        assert abs((cols[0] + cols[-1]) / 2 - 39.5) <= 0.5, "and in the middle"


def test_rows_are_as_high_as_they_need() -> None:
    flat, tall = np.zeros((20, 100), np.uint8), np.zeros((100, 100), np.uint8)
    assert contact_sheet([flat, tall, flat], tile=100, columns=1).height == 2 * MARGIN + 140 + 2 * GAP


def test_fewer_columns_when_there_are_fewer_tiles() -> None:
    assert contact_sheet(plain(3, 100), columns=16, tile=100).width == 2 * MARGIN + 300 + 2 * GAP
    assert row(plain(5, 100), tile=100).width == 2 * MARGIN + 500 + 4 * GAP


LABELS = [
    "7",
    "features.28:137",
    "IMG_20190412_183212_final_final_edited.jpeg",
    "n02123045 tabby, tabby cat, and a great many more words than could ever be set below a small picture",
    "W" * 300,
    "кот 猫 café × 2\nnew\tline \udcff",
]


@pytest.mark.parametrize("tile", [20, 84, 200])
@pytest.mark.parametrize("label", LABELS)
def test_labels_are_inked_inside_their_cell(tile: int, label: str) -> None:
    labels = ["", label, ""]
    sheet = contact_sheet(plain(3, 50), labels, tile=tile)
    marks = ink(array(sheet))
    assert not marks[:, :MARGIN].any()
    assert not marks[:, -MARGIN:].any()
    assert not marks[-MARGIN + 1 :].any()
    cell = (sheet.width - 2 * MARGIN - 2 * GAP) // 3
    below = marks[MARGIN + tile :]
    others = below.copy()
    others[:, MARGIN + cell + GAP - 1 : MARGIN + 2 * cell + GAP + 1] = False
    assert below.any()
    assert not others.any(), "it runs into its neighbours' cells"


def test_a_label_makes_only_its_own_row_higher() -> None:
    face = font(11, "")
    assert len(wrap("two words or three", face, 84, 3)) == 2
    sheet = contact_sheet(plain(3), ["a", "two words or three", "c"], columns=1, tile=84)
    assert sheet.height == 2 * MARGIN + 3 * 84 + 2 * GAP + (1 + 2 + 1) * line_height(face)


def test_tiny_tiles_leave_room_for_a_few_characters() -> None:
    face = font(11, "")
    assert wrap("1234", face, 44, 1) == ["1234"]
    assert contact_sheet(plain(2), ["1234", ""], tile=20).width == 2 * MARGIN + 2 * 44 + GAP
    assert contact_sheet(plain(2), tile=20).width == 2 * MARGIN + 2 * 20 + GAP


def test_rows_with_labels_do_not_overlap() -> None:
    sheet = array(contact_sheet(plain(3), ["a", "b", "c"], columns=1, tile=84))
    for i in range(3):
        top = MARGIN + i * (84 + line_height(font(11, "")) + GAP)
        assert (sheet[top : top + 84, MARGIN : MARGIN + 84] == 20 + i).all()


def test_characters_beyond_ascii_are_not_boxes() -> None:
    cells = [array(contact_sheet(plain(1), [character], tile=84))[MARGIN + 84 :] for character in "éйß"]
    assert len({cell.tobytes() for cell in cells}) == 3


def test_what_no_font_has_is_spelled_and_never_a_box() -> None:
    with only_fonts():
        drawn = array(contact_sheet(plain(1, 200), ["猫 1.jpg"], tile=200, title="of 猫"))
        said = array(contact_sheet(plain(1, 200), ["[U+732B] 1.jpg"], tile=200, title="of [U+732B]"))
    np.testing.assert_array_equal(drawn, said)


@pytest.mark.parametrize("name", ["cat", "W" * 300, "n02099601 golden retriever at dusk", "鳥" * 90], ids=range(4))
@pytest.mark.parametrize("tile", [84, 224])
def test_a_labels_lines_stay_lines_and_apart_from_their_neighbours(name: str, tile: int) -> None:
    lines = [Line(name), Line(name, "true: ", " (0.02)"), Line(name, "taken for ")]
    sheet = array(contact_sheet(plain(3, tile), [[], lines, lines], tile=tile))
    face = font(11 if tile == 84 else 15, "x")
    assert sheet.shape[0] == 2 * MARGIN + tile + 3 * line_height(face)
    below = ink(sheet[MARGIN + tile :])
    assert not below[:, : MARGIN + tile + GAP].any()
    second = MARGIN + 2 * (tile + GAP)
    assert not below[:, second - GAP : second].any()
    for i in range(3):
        assert below[1 + i * line_height(face) : 1 + (i + 1) * line_height(face), second:].any()


def test_a_heading_is_above_and_the_picture_whole_below() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 300, 3)).astype(np.uint8))
    for text in ("short", "words that go on " * 20):
        sheet = array(headed(picture, text))
        head = len(sheet) - 40
        np.testing.assert_array_equal(sheet[head:], np.asarray(picture))
        marks = ink(sheet[:head])
        assert marks.any()
        assert not marks[:, :MARGIN].any()
        assert not marks[:, -MARGIN:].any()


def test_label_stands_under_its_own_tile() -> None:
    sheet = array(contact_sheet(plain(4), ["", "", "x", ""], columns=2, tile=84))
    second = MARGIN + 84 + GAP  # the first row has no labels and no room for them
    assert (sheet[second : second + 84, MARGIN : MARGIN + 84] == 22).all()
    below = ink(sheet[second + 84 : -MARGIN])
    assert below[:, MARGIN : MARGIN + 84].any()
    assert not below[:, MARGIN + 84 :].any()


@pytest.mark.parametrize("size", [11, 18])
@pytest.mark.parametrize("text", LABELS)
@pytest.mark.parametrize("width", [44, 84, 300])
@pytest.mark.parametrize("most", [1, 3, 100])
def test_wrapped_lines_fit_and_lose_nothing_unsaid(size: int, text: str, width: int, most: int) -> None:
    face = font(size, text)
    lines = wrap(text, face, width, most)
    assert 1 <= len(lines) <= most
    assert all(face.getlength(line) <= width for line in lines)
    if not lines[-1].endswith("…"):
        assert "".join("".join(lines).split()) == "".join(text.encode("utf-8", "replace").decode().split())
    else:
        assert len(lines) == most


def test_lines_break_after_words() -> None:
    face = font(11, "")
    assert wrap("tabby cat and dog", face, int(face.getlength("tabby cat")) + 1, 3) == ["tabby cat", "and dog"]
    assert wrap("features.28:137", face, int(face.getlength("features.2")), 3) == ["features.", "28:137"]
    assert wrap("", face, 50, 3) == []


def test_every_line_of_a_label_has_its_height() -> None:
    face = font(15, "Ågjpqy")
    top, bottom = face.fonts[0].getbbox("Ågjpqy|")[1::2]
    assert 0 <= top < bottom <= line_height(face)


@pytest.mark.parametrize("title", ["short", "a title that is far longer than this one small picture is wide " * 3])
def test_title_is_whole_and_above(title: str) -> None:
    untitled, sheet = contact_sheet(plain(1), tile=84), contact_sheet(plain(1), tile=84, title=title)
    marks = ink(array(sheet))
    assert marks[MARGIN : sheet.height - untitled.height, MARGIN : sheet.width - MARGIN].any()
    assert not marks[:, -MARGIN:].any()
    assert (array(sheet)[-MARGIN - 84 : -MARGIN, MARGIN : MARGIN + 84] == 20).all()
    assert sheet.width >= untitled.width


@pytest.mark.parametrize("dead", [{1, 3}, [1, 3], [False, True, False, True], np.array([0, 1, 0, 1], bool)])
def test_dead_tiles_are_crossed_out(dead: object) -> None:
    sheet = array(contact_sheet(plain(4), tile=84, dead=dead))  # type: ignore[arg-type]
    for i in range(4):
        left = MARGIN + i * (84 + GAP)
        cell = sheet[MARGIN : MARGIN + 84, left : left + 84]
        marked = (cell == MARK).all(-1)
        assert marked.any() == (i in (1, 3))
        if i in (1, 3):
            assert marked[[0, 0, -1, -1, 20, 63], [0, -1, 0, -1, 20, 20]].all(), "from corner to corner"
            middle = cell[30:54, 20:64]
            assert (middle > 200).all(-1).sum() > 20, "the word is white on the mark"
            assert (cell[10, 42] == 20 + i).all(), "the map stays to be seen"


def tiles_of(sheet: np.ndarray, count: int, side: int = 84) -> list[np.ndarray]:
    return [sheet[MARGIN : MARGIN + side, MARGIN + i * (side + GAP) :][:, :side] for i in range(count)]


def test_tiles_are_crossed_out_with_other_words() -> None:
    marks = {1: "did not start", 2: "dead"}
    plainly, sheet = (array(contact_sheet(plain(4), tile=84, **more)) for more in ({}, {"marks": marks}))
    same = [(one == other).all() for one, other in zip(tiles_of(plainly, 4), tiles_of(sheet, 4), strict=True)]
    assert same == [True, False, False, True]
    for i in (1, 2):
        tile = tiles_of(sheet, 4)[i]
        assert (tile[[0, 0, -1, -1], [0, -1, 0, -1]] == MARK).all(), "from corner to corner"
        assert (tile[30:54] > 200).all(-1).sum() > 20, "the word is white on the mark"
    as_dead = tiles_of(array(contact_sheet(plain(4), tile=84, dead={2})), 4)
    assert (tiles_of(sheet, 4)[2] == as_dead[2]).all()


@pytest.mark.parametrize("side", [84, 128, 224])
def test_a_long_word_is_as_wide_as_its_tile_allows(side: int) -> None:
    """So that it can be read: small letters on a large tile cannot."""
    tile = tiles_of(array(contact_sheet(plain(2, side), tile=side, marks={1: "did not start"})), 2, side)[1]
    middle = (tile[side // 2 - 2 : side // 2 + 2] > 100).any(-1).any(0)
    assert middle.sum() > min(0.6 * side, 110)
    high = (tile > 200).all(-1).any(1).sum()
    assert high >= min(side // 12, 14)


@pytest.mark.parametrize("word", ["did not start", "dead", "a", "a word that is far too long for a tile"])
@pytest.mark.parametrize("side", [84, 128, 300])
def test_a_word_is_within_its_tile_and_the_picture_stays_to_be_seen(word: str, side: int) -> None:
    sheet = array(contact_sheet(plain(3, side), tile=side, marks={1: word}))
    first, crossed, last = tiles_of(sheet, 3, side)
    assert (first == 20).all()
    assert (last == 22).all()
    between = sheet[MARGIN : MARGIN + side, MARGIN + side : MARGIN + side + GAP]
    assert (between == 255).all()
    assert (crossed == 21).all(-1).mean() > 0.5


def test_a_mark_goes_before_dead_and_names_a_picture_that_is_there() -> None:
    both = array(contact_sheet(plain(2), tile=84, dead={0}, marks={0: "stuck"}))
    assert (both == array(contact_sheet(plain(2), tile=84, marks={0: "stuck"}))).all()
    assert (array(contact_sheet(plain(2), tile=84, marks={})) == array(contact_sheet(plain(2), tile=84))).all()
    for index in (2, -1):
        with pytest.raises(UsageError, match=f"marks name picture {index}, but there are 2"):
            contact_sheet(plain(2), marks={index: "stuck"})


def test_dead_marks_on_tiny_and_narrow_tiles() -> None:
    for shape in [(1, 1), (1, 40), (40, 1)]:
        contact_sheet([np.zeros(shape, np.uint8)], tile=12, dead={0})


def test_arguments_are_not_changed() -> None:
    image, values = Image.new("RGB", (84, 84), "navy"), np.zeros((84, 84), np.uint8)
    before = image.copy()
    contact_sheet([image, values], dead={0, 1}, tile=84)
    assert ImageChops.difference(image, before).getbbox() is None
    assert (values == 0).all()


def test_ink_suits_the_background() -> None:
    dark = array(contact_sheet(plain(1), ["label"], background="black", tile=84))
    assert dark[MARGIN + 84 :].max() > 200
    assert (dark[0, 0] == 0).all()


def test_512_maps_take_about_a_second() -> None:
    tiles = [np.random.default_rng(i).integers(0, 255, (14, 14)).astype(np.uint8) for i in range(512)]
    start = time.perf_counter()
    sheet = contact_sheet(tiles, [f"unit {i}" for i in range(512)], title="512 maps", dead=range(0, 512, 7))
    assert time.perf_counter() - start < 3
    assert sheet.width * sheet.height < 10_000_000


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tiles": []}, "at least one"),
        ({"labels": ["a"]}, "2 pictures but 1 labels"),
        ({"columns": 0}, "must be positive"),
        ({"tile": -3}, "must be positive"),
        ({"dead": {2}}, "dead names picture 2, but there are 2"),
        ({"dead": {-1}}, "dead names picture -1"),
        ({"dead": [True]}, "2 pictures but 1 dead marks"),
        ({"background": "whit"}, "unknown colour 'whit'"),
        ({"tiles": [np.zeros((4, 4))]}, "array of float64"),
        ({"tiles": [np.zeros((3, 4, 4), np.uint8)]}, "shape 3 x 4 x 4"),
        ({"tiles": [np.zeros((0, 4), np.uint8)]}, "no pixels"),
        ({"tiles": ["cat.jpg"]}, "picture 0 is a str"),
    ],
)
def test_what_cannot_be_meant(options: dict[str, object], says: str) -> None:
    arguments = {"tiles": plain(2), **options}
    with pytest.raises(UsageError, match=says):
        contact_sheet(**arguments)  # type: ignore[arg-type]


# One by one.


def test_save_each(tmp_path: Path) -> None:
    tiles = [np.full((7, 5), i, np.uint8) for i in range(11)]
    paths = save_each(tiles, None, tmp_path / "a" / "b")
    assert [path.name for path in paths] == [f"{i:02d}.png" for i in range(11)]
    for i, path in enumerate(paths):
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert (np.asarray(image) == i).all()
            assert image.size == (5, 7)


def test_save_each_enlarges_bilinearly(tmp_path: Path) -> None:
    ramp = np.tile(np.uint8([0, 100, 200, 250]), (4, 1))
    (path,) = save_each([ramp], ["x"], tmp_path, size=256)
    want = Image.fromarray(ramp).resize((256, 256), Image.Resampling.BILINEAR).convert("RGB")
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(want))


def test_file_names_are_safe_and_distinct(tmp_path: Path) -> None:
    labels = [
        "../../etc/passwd",
        "a:b*c?",
        "CON",
        "Cat",
        "cat",
        "cat-2",
        "",
        "...",
        ".hidden",
        "x" * 300,
        "кот 猫",
        "a\n\0b",
        "CAT",
    ]
    paths = save_each([np.zeros((2, 2), np.uint8)] * len(labels), labels, tmp_path)
    names = [path.name for path in paths]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert all(path.parent == tmp_path for path in paths)
    assert len({name.casefold() for name in names}) == len(labels)
    assert not [name for name in names if set(name) & set('/\\:*?"<>|\n\0') or name.startswith(".")]
    assert max(len(name.encode()) for name in names) <= 255
    assert names[1:8] == ["a_b_c_.png", "_CON.png", "Cat.png", "cat-2.png", "cat-2-2.png", "06.png", "07.png"]
    assert names[10] == "кот 猫.png"


def test_save_each_errors(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConvscopeError, match="cannot be saved") as caught:
        save_each(plain(1), None, tmp_path / "file")
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="1 pictures but 2 labels"):
        save_each(plain(1), ["a", "b"], tmp_path)
    with pytest.raises(UsageError, match="size must be positive"):
        save_each(plain(1), None, tmp_path, size=0)
    assert save_each([], None, tmp_path / "none") == []
