"""Pictures of a run are whole: they open, say what they are given, clip nothing, and are the same each time."""

import io
import itertools
import math
import warnings
import xml.etree.ElementTree as ElementTree
from unittest import mock

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from convscope.errors import UsageError
from convscope.training import charts
from tests.fonts import font_with, only_fonts

LONG = "n02099601_golden retriever with a very long name that says where it was photographed, number"


def row(epoch, *, val=True, lr=0.1, acc=True):
    """A line of metrics.jsonl."""
    return {
        "epoch": epoch,
        "train_loss": 0.1 + 2 * math.exp(-epoch / 8),
        "train_accuracy": 1 - 0.7 * math.exp(-epoch / 8) if acc else None,
        "val_loss": 0.2 + 2 * math.exp(-epoch / 9) if val else None,
        "val_accuracy": 0.95 - 0.65 * math.exp(-epoch / 8) if val and acc else None,
        "lr": lr,
    }


RUNS = {
    "one epoch": ([row(1)], 1),
    "one epoch without val": ([row(1, val=False)], None),
    "two epochs": ([row(1), row(2)], 2),
    "forty epochs": ([row(e, lr=0.1 * 0.1 ** (e // 15)) for e in range(1, 41)], 33),
    "losses alone": ([row(e, acc=False) for e in range(1, 8)], 3),
    "val now and then": ([row(e, val=e % 5 == 0) for e in range(1, 21)], 15),
    "perfect": ([row(e) | {"train_accuracy": 1.0, "val_accuracy": 1.0, "train_loss": 0.0} for e in range(1, 4)], 1),
    "of all sizes": ([row(e) | {"train_loss": 1e4 * 0.5**e} for e in range(300)], 299),
    "hardly begun": ([{"epoch": 1}], None),
}

WORDS = ["cat", "dog", "owl", "$x^2$", "猫", "two\nlines", "W" * 80, "", "_" * 90, "a|b", LONG]
NAMES = {
    2: ["cat", f"{LONG} 1"],
    11: WORDS,
    12: [f"{LONG} {i}" for i in range(12)],
    20: [f"{i}" for i in range(20)],
    21: [f"{LONG} {i}" for i in range(21)],
    100: [f"{LONG} {i}" if i % 3 else f"cat {i}" for i in range(100)],
    1000: [f"{LONG} {i}" for i in range(1000)],
}


def counts(k, seed=0, right=200, absent=()):
    table = np.random.default_rng(seed).poisson(50 / k, (k, k))
    table[np.arange(k), np.arange(k)] += right
    table[list(absent)] = 0
    return table


def texts(figure):
    """Every text that is drawn and has some letters, and its box in pixels."""
    drawn, draw = [], Text.draw

    def note(text, *args, **kwargs):
        drawn.append(text)
        return draw(text, *args, **kwargs)

    canvas = FigureCanvasAgg(figure)
    with mock.patch.object(Text, "draw", note), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        canvas.draw()
        boxes = [(text, text.get_window_extent(canvas.get_renderer())) for text in drawn]
    assert boxes
    return [(text, box) for text, box in boxes if text.get_visible() and text.get_text().strip()]


def outside(figure):
    """The texts that lie outside the figure, in part at least."""
    width, height = figure.get_size_inches() * figure.dpi
    return [
        (text.get_text(), box)
        for text, box in texts(figure)
        if box.x0 < 0 or box.y0 < 0 or box.x1 > width or box.y1 > height
    ]


def said(figure):
    return [text.get_text() for text, _ in texts(figure)]


def check_files(paths, name):
    """Both files open and show something."""
    assert [path.name for path in paths] == [f"{name}.svg", f"{name}.png"]
    svg, png = paths
    tree = ElementTree.parse(svg).getroot()
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}path"))) > 10
    with Image.open(png) as picture:
        picture.load()
        assert picture.format == "PNG"
        pixels = np.asarray(picture.convert("L"))
    assert min(pixels.shape) > 300
    assert (pixels < 128).sum() > 500
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border == 255).all()  # nothing runs over it
    assert not [path for path in svg.parent.iterdir() if path not in paths]


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("name", RUNS)
def test_curves_open_and_are_whole(tmp_path, name):
    rows, best = RUNS[name]
    check_files(charts.curves(rows, tmp_path / "run", best=best, title=f"{name} " * 40), "curves")
    assert outside(charts.draw_curves(rows, best=best, title=f"{name} " * 40)) == []


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("k", NAMES)
def test_confusions_open_and_are_whole(tmp_path, k):
    table = counts(k, absent=[1])
    check_files(charts.confusion(torch.from_numpy(table), NAMES[k], tmp_path / "run", f"{LONG} " * 9), "confusion")
    assert outside(charts.draw_confusion(table, NAMES[k], f"{LONG} " * 9)) == []


def apart(boxes):
    """No two of the boxes overlap. In pixels; a hair of rounding is none."""
    return all(
        min(a.x1, b.x1) - max(a.x0, b.x0) < 0.5 or min(a.y1, b.y1) - max(a.y0, b.y0) < 0.5
        for a, b in itertools.combinations(boxes, 2)
    )


@pytest.mark.parametrize("k", [2, 12, 20, 21, 100])
def test_labels_and_counts_do_not_run_into_each_other(k):
    figure = charts.draw_confusion(counts(k) * 1000, NAMES[k], "title")
    axes = figure.axes[0]
    boxes = {id(text): box for text, box in texts(figure)}
    plain = [text for text in axes.texts + axes.get_yticklabels() if text.get_text().strip()]
    assert len(plain) == k + (k * k if k <= 20 else 0)
    assert apart([boxes[id(text)] for text in plain])
    below = [boxes[id(text)] for text in axes.get_xticklabels()]
    bottom = axes.get_window_extent().y0
    assert all(box.y1 <= bottom for box in below)
    named = [box for text, box in texts(figure) if text.get_text() == "predicted class"]
    assert all(box.y0 > named[0].y1 for box in below)


@pytest.mark.parametrize("name", ["one epoch", "forty epochs", "of all sizes", "perfect"])
def test_words_beside_curves_do_not_run_into_each_other(name):
    rows, best = RUNS[name]
    assert apart([box for _, box in texts(charts.draw_curves(rows, best=best, title="title " * 60))])


# What is shown


def lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_curves_are_the_rows():
    rows, best = RUNS["forty epochs"]
    figure = charts.draw_curves(rows, best=best, title="cats")
    for axes, name in zip(figure.axes, ("loss", "accuracy"), strict=True):
        found = lines(axes)
        for split in ("train", "val"):
            assert list(found[split].get_xdata()) == list(range(1, 41))
            assert not found[split].get_clip_on()  # a marker at 100 % is whole
            assert list(found[split].get_ydata()) == [row[f"{split}_{name}"] for row in rows]
        assert set(found["best epoch: 33"].get_xdata()) == {33}
        assert list(found["learning rate changed"].get_xdata()) == [15, 30]
    assert {"cats", "loss", "accuracy", "train", "val", "best epoch: 33"} <= set(said(figure))


def test_what_was_not_measured_is_not_drawn():
    assert "val" not in said(charts.draw_curves(*RUNS["one epoch without val"][:1], best=None, title=""))
    figure = charts.draw_curves(RUNS["losses alone"][0], best=3, title="")
    assert said(figure).count("not measured") == 1
    gaps = lines(charts.draw_curves(RUNS["val now and then"][0], best=15, title="").axes[0])["val"].get_ydata()
    assert [i + 1 for i, value in enumerate(gaps) if not math.isnan(value)] == [5, 10, 15, 20]


def test_a_single_epoch_is_a_marker_and_its_number():
    figure = charts.draw_curves([row(7)], best=7, title="")
    assert all(lines(axes)[split].get_marker() in ("o", "s") for axes in figure.axes for split in ("train", "val"))
    assert said(figure).count("7") == 2


def test_only_steps_of_the_learning_rate_are_marked():
    def steps(rates):
        return charts.learning_rate_steps([{"epoch": i, "lr": rate} for i, rate in enumerate(rates)])

    assert steps([0.1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001]) == [3, 5]
    assert steps([0.1 * math.cos(i / 8) for i in range(10)]) == []
    assert steps([0.1, 0.05]) == []
    assert steps([0.1, None, 0.1, 0.1, 0.01]) == [4]
    assert steps([0.1]) == steps([None, None]) == []


def test_cells_are_coloured_by_their_share_of_the_row():
    table = np.array([[8, 2, 0], [0, 0, 0], [1, 1, 98]])
    figure = charts.draw_confusion(table, ["cat", "dog", "owl"], "test")
    shares = figure.axes[0].images[0].get_array()
    assert np.allclose(shares[0], [0.8, 0.2, 0])
    assert np.allclose(shares[2], [0.01, 0.01, 0.98])
    assert shares.mask[1].all()  # no photos, no colour
    written = {(t.get_position(), t.get_text()) for t in figure.axes[0].texts}
    assert written == {((col, row), f"{count}") for (row, col), count in np.ndenumerate(table)}
    assert "of the class's photos (grey: it has none)" in said(figure)
    assert "of the class's photos" in said(charts.draw_confusion(table[::2, ::2], ["cat", "owl"], "test"))


def test_counts_stand_out_from_their_cells():
    table = np.arange(1, 401).reshape(20, 20) % 23  # shares of every size
    figure = charts.draw_confusion(np.triu(table), NAMES[20], "test")
    image = figure.axes[0].images[0]
    colours = image.cmap(image.norm(image.get_array()))[..., :3]

    def luminance(rgb):
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    for text in figure.axes[0].texts:
        if text.get_text() != "0":  # zeros step back
            col, row = text.get_position()
            ink, paper = luminance(matplotlib.colors.to_rgb(text.get_color())), luminance(colours[row, col])
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 4.5  # WCAG 2.1, contrast of text


def test_many_classes_are_numbered_and_none_is_lost():
    figure = charts.draw_confusion(counts(1000), NAMES[1000], "test")
    assert "true class, by number" in said(figure)
    assert not any(LONG[:9] in text for text in said(figure))
    axes = figure.axes[0]
    box = axes.get_window_extent()
    assert min(box.width, box.height) >= 1000  # a pixel a cell, at least


@pytest.mark.parametrize("k", [1001, 2500])
def test_cells_too_small_for_a_pixel_show_their_largest(k):
    table = np.zeros((k, k), dtype=int)
    table[np.arange(k), np.arange(k)] = 9
    table[5, k - 1] = 1
    table[200:300] = 0
    axes = charts.draw_confusion(table, [str(i) for i in range(k)], "test").axes[0]
    shares = axes.images[0].get_array()
    factor = -(-k // 1000)
    assert shares.shape == (-(-k // factor),) * 2
    assert shares[5 // factor, -1] == pytest.approx(0.1)
    assert shares[0, 0] == 1
    assert shares.mask[250 // factor].all()
    left, right, bottom, top = axes.images[0].get_extent()
    assert (left, top) == (-0.5, -0.5)
    assert right == bottom == shares.shape[0] * factor - 0.5
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, k - 0.5), (k - 0.5, -0.5))


@pytest.mark.filterwarnings("ignore:Glyph")
@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80), st.sampled_from([7, 9]))
def test_labels_fit_and_say_when_they_are_shortened(name, size):
    label = charts.short_label(name, charts.LABEL, size)
    whole = charts.short_label(name, 1e6, size)
    assert "\n" not in label
    if label != whole:
        start, end = label.split("…")[0], label.split("…")[-1]
        assert whole.startswith(start)
        assert whole.endswith(end)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = matplotlib.figure.Figure(dpi=72)
        text = figure.text(0, 0, label, fontsize=size, parse_math=False)
        wide = text.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width if label.strip() else 0
    assert wide <= charts.LABEL * 1.05


def test_names_that_differ_at_the_end_stay_different():
    labels = {charts.short_label(f"{LONG} {i}", charts.LABEL, 9) for i in range(30)}
    assert len(labels) == 30


def test_names_that_are_alike_when_shortened_have_their_numbers():
    names = [f"Labrador retriever, {colour}, in the garden behind the old house" for colour in ("brown", "black")]
    assert len({charts.short_label(name, charts.LABEL, 9) for name in names}) == 1
    labels = charts._labels(["cat", *names, "cat", ""])
    assert len(set(labels)) == 5
    assert [label.partition(":")[0] for label in labels[:4]] == ["0", "1", "2", "3"]
    assert outside(charts.draw_confusion(counts(3), ["cat", *names], "test")) == []


# Names in any script


@pytest.fixture
def installed():
    with only_fonts() as files:
        yield files


CHINESE = ["猫 cat", "犬", "owl"]


@pytest.mark.filterwarnings("error::UserWarning")  # of missing glyphs, when the figure is drawn
def test_names_are_drawn_in_a_font_of_the_system_where_matplotlibs_lacks_them(installed, tmp_path):
    installed.append(font_with("猫犬", tmp_path / "own.ttf"))
    before = {name: list(matplotlib.rcParams[name]) for name in ("font.family", "font.sans-serif")}
    figure = charts.draw_confusion(counts(3), CHINESE, "猫")
    FigureCanvasAgg(figure).draw()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == CHINESE
    assert "猫" in said(figure)
    assert outside(figure) == []
    FigureCanvasAgg(charts.draw_curves([row(1)], best=1, title="犬")).draw()
    assert {name: list(matplotlib.rcParams[name]) for name in before} == before
    one, two = (draw_title(title) for title in ("猫", "犬"))
    assert not np.array_equal(one, two)  # two glyphs, no boxes


def draw_title(title):
    figure = charts.draw_curves([row(1)], best=1, title=title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:80].copy()


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.usefixtures("installed")
def test_classes_that_no_font_can_write_go_by_their_numbers():
    figure = charts.draw_confusion(counts(3), CHINESE, "猫, test photos")
    FigureCanvasAgg(figure).draw()
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["class 0 (cat)", "class 1", "owl"]
    assert "[U+732B], test photos" in said(figure)
    FigureCanvasAgg(charts.draw_curves([row(1)], best=1, title="犬")).draw()


# The same each time


def draw_both(folder):
    rows, best = RUNS["forty epochs"]
    paths = charts.curves(rows, folder, best=best, title="cats")
    paths += charts.confusion(counts(12), NAMES[12], folder, "cats")
    return [path.read_bytes() for path in paths]


def test_the_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    first = draw_both(tmp_path / "one")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    assert draw_both(tmp_path / "two") == first


def test_a_users_own_settings_of_matplotlib_are_left_out_and_left_alone(tmp_path):
    first = draw_both(tmp_path / "one")
    own = {
        "font.size": 30,
        "axes.facecolor": "black",
        "savefig.bbox": "tight",
        "svg.hashsalt": "mine",
        "lines.marker": "x",
    }
    with matplotlib.rc_context(own):
        assert draw_both(tmp_path / "two") == first
        assert {name: matplotlib.rcParams[name] for name in own} == own


def test_pictures_are_replaced(tmp_path):
    charts.curves([row(1)], tmp_path, best=1, title="cats")
    before = (tmp_path / "curves.png").read_bytes()
    charts.curves([row(1), row(2)], tmp_path, best=2, title="cats")
    after = (tmp_path / "curves.png").read_bytes()
    assert before != after
    assert Image.open(io.BytesIO(after)).size == Image.open(io.BytesIO(before)).size


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((3, 2)), "got 3 x 2"),
        (np.zeros((3, 3)), "each of 2 classes, got 3 x 3"),
        (np.zeros(4), "got 4"),
    ],
)
def test_what_is_no_confusion_matrix_is_refused(table, message):
    with pytest.raises(UsageError, match=message):
        charts.draw_confusion(table, ["cat", "dog"], "test")


def test_no_epochs_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no epochs to draw"):
        charts.curves([], tmp_path, best=None, title="cats")
