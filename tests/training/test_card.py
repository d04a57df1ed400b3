"""A card says what is so, admits what is not known, and no name of a class becomes mark-up in it."""

import ast
import html
import re
import shlex
from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from convscope.errors import UsageError
from convscope.images.lettering import one_line
from convscope.training.card import CardFacts, duration, escape, model_card
from convscope.training.metrics import measure

CLASSES = ("cat", "dog", "owl")
MARKDOWN = MarkdownIt("commonmark").enable("table")


def measured(counts, right, classes=CLASSES):
    """Figures of so many photos of each class, of which so many are recognised; the others are taken for the next."""
    labels, predicted = [], []
    for i, (count, hits) in enumerate(zip(counts, right, strict=True)):
        labels += [i] * count
        predicted += [i] * hits + [(i + 1) % len(classes)] * (count - hits)
    logits = 3 * torch.nn.functional.one_hot(torch.tensor(predicted), len(classes)).double()
    return measure(logits, torch.tensor(labels), classes)


FACTS = CardFacts(
    title="Cats, dogs and owls",
    run="runs/pets",
    classes=CLASSES,
    photos={"train": (100, 12, 300), "val": (20, 3, 40), "test": (25, 0, 50)},
    base="timm:resnet18.a1_in1k",
    trained="the head; the base is frozen",
    optimizer="AdamW",
    learning_rate=1e-3,
    epochs=20,
    augmentation="flip, crop",
    seed=7,
    seconds=754.2,
    device="cpu (2 threads)",
    versions={"convscope": "0.1", "torch": "2.14.1"},
    source="photos/",
    date="2025-01-02",
    best_epoch=13,
    chosen_on="val",
    measured={"val": measured((20, 3, 40), (19, 3, 38)), "test": measured((25, 0, 50), (20, 0, 49))},
    quarantined={"cannot be decoded": 3, "empty": 1},
    more={"batch": 32, "weight decay": 1e-4},
    pictures={"curves": "curves.png", "confusion": "confusion.png"},
)


def section(card, title):
    return card.split(f"## {title}\n")[1].split("\n## ")[0]


def tables(card):
    """Every table as rows of plain text, as a reader of the page sees them."""
    page = MARKDOWN.render(card)
    plain = [
        [
            [html.unescape(re.sub("<[^>]*>", "", cell)) for cell in re.findall("<t[hd].*?>(.*?)</t[hd]>", row)]
            for row in re.findall("<tr>(.*?)</tr>", table, re.S)
        ]
        for table in re.findall("<table>(.*?)</table>", page, re.S)
    ]
    assert plain
    return plain


# What it says


def test_photos_are_counted_by_split_and_class():
    assert tables(section(model_card(FACTS), "Photos")) == [
        [
            ["class", "train", "val", "test"],
            ["cat", "100", "20", "25"],
            ["dog", "12", "3", "0"],
            ["owl", "300", "40", "50"],
            ["all", "412", "63", "75"],
        ]
    ]
    assert "tells 3 classes apart: cat, dog, owl. It was made from 550 photos with convscope on 2025-01-02." in (
        model_card(FACTS)
    )


def test_settings_are_a_table():
    rows = dict(tables(section(model_card(FACTS), "Training"))[0])
    assert rows == {
        "setting": "value",
        "base": "timm:resnet18.a1_in1k",
        "trained": "the head; the base is frozen",
        "optimizer": "AdamW",
        "learning rate": "0.001",
        "epochs": "20 (the weights are those of epoch 13, chosen on val)",
        "augmentation": "flip, crop",
        "batch": "32",
        "weight decay": "0.0001",
        "seed": "7",
        "duration": "12 min 34 s",
        "device": "cpu (2 threads)",
        "versions": "convscope 0.1, torch 2.14.1",
    }


def test_quality_is_that_of_the_test_photos():
    quality = section(model_card(FACTS), "How good it is")
    assert "**92.0 %** of the 75 photos of test are classified correctly (95 % interval 83.6 to 96.3 %" in quality
    assert "val 95.2 % of 63, test 92.0 % of 75." in quality
    summary, classes = tables(quality)
    assert ["balanced accuracy", "89.0 %", "mean recall over 2 of 3 classes"] in summary
    assert classes[1:] == [list(row) for row in FACTS.measured["test"].table()[1:]]
    assert classes[1][:4] == ["cat", "25", "95.2 %", "80.0 %"]
    assert classes[2] == ["dog", "0", "0.0 %", "-", "-", "-"]


def test_pictures_are_shown_where_there_are_some():
    page = MARKDOWN.render(model_card(FACTS))
    assert re.findall('<img src="(.*?)"', page) == ["curves.png", "confusion.png"]
    spaced = MARKDOWN.render(model_card(replace(FACTS, pictures={"curves": "my curves.svg"})))
    assert re.findall('<img src="(.*?)"', spaced) == ["my%20curves.svg"]
    assert "<img" not in MARKDOWN.render(model_card(replace(FACTS, pictures={})))


@pytest.mark.parametrize("run", ["runs/pets", "my runs/pet's", "a\nb", "猫", 'say "run"', "-x;rm *"])
def test_what_is_to_be_typed_works(run):
    blocks = re.findall("```(sh|python)\n(.*?)\n```", model_card(replace(FACTS, run=run)), re.S)
    assert [kind for kind, _ in blocks] == ["sh", "python"]
    shell, python = (code for _, code in blocks)
    typed = f"run:{run}" if run.isprintable() else ascii(f"run:{run}")
    assert [shlex.split(line) for line in shell.splitlines()] == [
        ["convscope", "predict", typed, "photo.jpg"],
        ["convscope", "explain", typed, "photo.jpg"],
    ]
    assert len(python.splitlines()) == 3
    calls = [node for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Call)]
    loaded = next(call for call in calls if getattr(call.func, "attr", "") == "load")
    assert ast.literal_eval(loaded.args[0]) == f"run:{run}"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (59.6, "1 min 0 s"), (754.2, "12 min 34 s"), (90061, "25 h 1 min")],
)
def test_durations_are_in_words(seconds, words):
    assert duration(seconds) == words


# What it admits


def limits(facts):
    return section(model_card(facts), "Limits").strip().splitlines()


def test_limits_name_what_is_weak():
    assert limits(FACTS) == [
        "- val was used to choose the epoch, so that the figure of test is the honest one.",
        "- Few training photos, fewer than 20: dog (12).",
        "- No photos in test: dog.",
        "- Measured on fewer than 30 photos in test, so that their figures are rough: cat (25).",
        "- 4 files were quarantined and neither trained nor measured: cannot be decoded (3), empty (1).",
        "- The figures hold for photos like these: of other cameras, places or times it may be much worse.",
        "- Every photo is taken for one of the 3 classes, also one that shows none of them.",
    ]


def test_nothing_is_admitted_that_is_not_so():
    good = measured((90, 80, 70), (90, 80, 70))
    facts = replace(FACTS, photos={"train": (100, 200, 300)}, measured={"test": good}, quarantined={"empty": 0})
    assert len(limits(facts)) == 3  # of the choice and of all classifiers


def test_figures_of_the_split_that_chose_the_epoch_are_called_too_good():
    facts = replace(FACTS, measured={"val": FACTS.measured["val"], "train": FACTS.measured["test"]})
    assert "of the 63 photos of val" in model_card(facts)
    assert limits(facts)[0].startswith(
        "- val chose the epoch, and the figures are of val too: they are somewhat too good"
    )


def test_figures_of_training_photos_are_called_that():
    facts = replace(FACTS, measured={"train": FACTS.measured["val"]}, chosen_on=None, best_epoch=None)
    assert "- The figures are of the photos it was trained on" in limits(facts)[0]


def test_without_a_choice_there_is_none_to_admit():
    facts = replace(FACTS, chosen_on=None, best_epoch=None)
    assert limits(facts)[0] == "- No split chose the epoch: nothing was fitted to test by the training."
    assert dict(tables(section(model_card(facts), "Training"))[0])["epochs"] == "20"


def test_what_was_not_measured_is_unknown():
    facts = replace(FACTS, measured={}, chosen_on=None, photos={"train": (1, 1, 1), "val": (0, 0, 0)})
    assert "Not measured" in section(model_card(facts), "How good it is")
    assert limits(facts)[:3] == [
        "- How good it is on photos that it has not seen is unknown.",
        "- Few training photos, fewer than 20: cat (1), dog (1), owl (1).",
        "- There are no photos in val.",
    ]


def test_of_many_classes_the_weakest_are_listed():
    classes = tuple(f"class {i}" for i in range(150))
    right = [i % 10 for i in range(150)]
    facts = replace(
        FACTS,
        classes=classes,
        photos={"train": [1000 - i for i in range(150)]},
        measured={"test": measured([9] * 150, right, classes)},
    )
    card = model_card(facts)
    photos = tables(section(card, "Photos"))[0]
    assert [row[0] for row in photos[1:]] == [f"class {i}" for i in range(149, 129, -1)] + ["all"]
    assert photos[-1][1] == str(sum(1000 - i for i in range(150)))
    worst = tables(section(card, "How good it is"))[1][1:]
    assert [row[3] for row in worst] == ["0.0 %"] * 15 + ["11.1 %"] * 5
    assert "The 20 classes of 150 that it recognises worst:" in card
    assert len(card.splitlines()) < 150


def test_counts_that_are_not_of_the_classes_are_refused():
    with pytest.raises(UsageError, match="val counts photos of 2 classes, and there are 3"):
        model_card(replace(FACTS, photos={"train": (1, 2, 3), "val": (1, 2)}))


# Names are names

NASTY = ["*bold*", "a|b", "<script>alert(1)</script>", "[x](http://y)", "`code`", "&lt;", "\\", "a\\|b", "_x_", "~~s~~"]


@settings(max_examples=150, deadline=None)
@example(NASTY)
@example(["a\\", "# head", "![i](j)", "two\nlines", "1. one", "- item", "&amp;", "@name", "$x$", "<!-- -->"])
@given(st.lists(st.text("ab*_`[]()<>|\\&#~!-+.=:1 \n猫", min_size=1, max_size=12), min_size=2, max_size=6))
def test_names_are_read_as_they_are(names):
    facts = replace(
        FACTS,
        title=names[0],
        source=names[1],
        classes=names,
        photos={"train": [5] * len(names)},
        measured={"test": measured([4] * len(names), [3] * len(names), tuple(names))},
    )
    card = model_card(facts)
    photos = tables(section(card, "Photos"))[0]
    assert [row[0] for row in photos[1:-1]] == [one_line(name) for name in names]
    classes = tables(section(card, "How good it is"))[1]
    assert [row[0] for row in classes[1:]] == [one_line(name) for name in names]
    page = MARKDOWN.render(card)
    assert not re.findall("<(?!/?(?:h1|h2|p|table|thead|tbody|tr|th|td|ul|li|pre|code|strong|img)\\b)", page)
    assert page.count("<h1>") == 1
    assert page.count("<strong>") == 1
    assert page.count("<code") == 2
    heading = html.unescape(re.sub("<[^>]*>", "", re.search("<h1>(.*?)</h1>", page, re.S)[1]))
    assert heading == one_line(names[0])


def test_plain_names_stay_plain():
    assert escape("golden retriever (dog), 3.5-year-old; it's!") == "golden retriever (dog), 3.5-year-old; it's!"
