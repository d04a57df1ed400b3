"""Class names: how a user's word finds its class, and every file that people keep names in."""

import json

import numpy as np
import pytest
import torch

from convscope.errors import UsageError
from convscope.models.classes import Classes, as_classes, imagenet, numbered, read_classes

PETS = Classes(("tabby, tabby cat", "beagle", "African elephant, Loxodonta africana", "7", "Straße"))
TABBY, ELEPHANT = 281, 386


def refusal(function, *arguments):
    with pytest.raises(UsageError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Finding a class


@pytest.mark.parametrize(
    ("query", "index"),
    [
        *((0, 0), (4, 4), ("0", 0), (" 4 ", 4), (np.int64(2), 2), (torch.tensor(2), 2)),
        ("tabby, tabby cat", 0),  # the whole name, which holds a comma
        *(("tabby", 0), ("TABBY CAT", 0), ("beagle", 1), ("loxodonta africana", 2)),
        *(("7", 3), ("STRASSE", 4)),  # a name wins over an index
    ],
)
def test_words_for_a_class(query, index):
    assert PETS.find(query) == index


def test_a_name_written_exactly_so_wins() -> None:
    names = Classes(("Polish", "polish", "us", "US"))
    assert [names.find(name) for name in names.names] == [0, 1, 2, 3]
    assert refusal(names.find, "POLISH").endswith("give the index instead, 0 or 1")
    assert refusal(Classes(("cat", "cat", "Cat")).find, "cat").endswith("give the index instead, 0 or 1")


@pytest.mark.parametrize("query", ["5", "-1", 5, -1])
def test_indices_out_of_range(query):
    assert refusal(PETS.find, query) == f"class index {query} is out of range: the model has 5 classes"


@pytest.mark.parametrize("query", ["²", "--3", "1.5", "", "beagl e"])
def test_no_class(query):
    assert refusal(PETS.find, query).startswith(f"unknown class {query!r}")


def test_nearest_names_are_offered():
    assert "nearest: beagle" in refusal(PETS.find, "beagel")
    assert "African elephant" in refusal(imagenet().find, "afrcan elephant")


def test_short_names():
    assert [PETS.short(i) for i in range(3)] == ["tabby", "beagle", "African elephant"]
    assert PETS[0] == "tabby, tabby cat"
    assert numbered(2).names == ("class 0", "class 1")


# ImageNet


@pytest.mark.parametrize(
    ("query", "index"),
    [
        *(("tabby", TABBY), ("tabby cat", TABBY), ("n02123045", TABBY), ("281", TABBY), ("tiger cat", 282)),
        *(("African elephant", ELEPHANT), ("Loxodonta africana", ELEPHANT), ("tusker", 101), ("espresso", 967)),
    ],
)
def test_words_for_an_imagenet_class(query, index):
    assert imagenet().find(query) == index


def test_a_name_of_two_classes_is_settled_by_index_or_synset():
    crane = refusal(imagenet().find, "crane")
    assert crane == "class 'crane' names 2 classes: give the index instead, 134 (n02012849) or 517 (n03126707)"
    assert imagenet().find("n02012849") == imagenet().find("134") == 134
    assert imagenet().find("n03126707") == imagenet().find(517) == 517


def test_a_name_twice_without_synsets():
    assert refusal(Classes(("cat", "dog", "cat")).find, "Cat").endswith("give the index instead, 0 or 2")
    assert refusal(Classes(("cat, pet", "dog, pet")).find, "pet").endswith("0 or 1")


def test_imagenet_agrees_with_torchvision():
    from torchvision.models import ResNet18_Weights

    ours, theirs = imagenet(), ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    assert len(ours) == len(ours.synsets) == len(theirs) == 1000
    words = [{word.strip().lower() for word in name.split(",")} for name in ours.names]
    same = [name.lower() in words[i] for i, name in enumerate(theirs)]
    assert sum(same) > 980  # they renamed a few: "crane bird", "maillot"
    assert len(imagenet("imagenet-12k")) == 11821


# Files


@pytest.mark.parametrize(
    "content",
    [
        b"cat\ndog\nsea lion, Otaria\n",
        b"cat\ndog\nsea lion, Otaria",
        b"\xef\xbb\xbfcat\r\ndog\r\nsea lion, Otaria\r\n",
        b"  cat\ndog  \nsea lion, Otaria\n\n \n",
    ],
)
def test_text(tmp_path, content):
    (tmp_path / "names.txt").write_bytes(content)
    assert read_classes(tmp_path / "names.txt") == Classes(("cat", "dog", "sea lion, Otaria"))


def test_names_keep_their_letters(tmp_path):
    names = ("Käse", "猫", "a\u2028b", "x\x0cy")  # the last two hold what Python's splitlines takes for line ends
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    assert read_classes(str(tmp_path / "names.txt")).names == names


@pytest.mark.parametrize(
    "found",
    [["cat", "dog", "crane"], {"0": "cat", "1": "dog", "2": "crane"}, {"dog": 1, "cat": 0, "crane": 2}],
    ids=["list", "by index", "class_to_idx"],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_json(tmp_path, found, encoding):
    (tmp_path / "names.json").write_text(json.dumps(found), encoding=encoding)
    assert read_classes(tmp_path / "names.json").names == ("cat", "dog", "crane")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("names.txt", b"", "the file is empty"),
        ("names.txt", b"\n\n", "the file is empty"),
        ("names.txt", b"cat\n\ndog\n", "line 2 is empty"),
        ("names.txt", "cat\ndog".encode("utf-16"), "not UTF-8"),
        *(("names.json", content, "expected a JSON list") for content in (b"", b"[", b"[]", b"{}", b"3", b'"cat"')),
        *(("names.json", content, "expected a JSON list") for content in (b'["cat", 1]', b'["cat", ""]', b"[[1]]")),
        ("names.json", b'{"1": "cat", "2": "dog"}', "expected a JSON list"),
        ("names.json", b'{"cat": 0, "dog": 0}', "expected a JSON list"),
        ("names.json", b'{"cat": 0, "dog": 2}', "expected a JSON list"),
    ],
)
def test_files_that_hold_no_names(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    message = refusal(read_classes, tmp_path / name)
    assert str(tmp_path / name) in message
    assert words in message


def test_files_that_cannot_be_read(tmp_path):
    assert refusal(read_classes, tmp_path / "none.txt").endswith("cannot be read (No such file or directory)")
    assert refusal(read_classes, tmp_path).endswith("cannot be read (Is a directory)")


# What a user gives


def test_given_in_python(tmp_path):
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    path = tmp_path / "names.txt"
    same = [["cat", "dog"], ("cat", "dog"), np.array(["cat", "dog"]), path, str(path), Classes(("cat", "dog"))]
    for given in (*same, {0: "cat", 1: "dog"}, {"dog": 1, "cat": 0}):
        assert as_classes(given) == Classes(("cat", "dog"))
    assert as_classes(range(3)).names == ("0", "1", "2")
    assert as_classes(None) is None
    assert as_classes("imagenet") is imagenet()


@pytest.mark.parametrize("given", [[], ["cat", ""], [" "], {}, {1: "cat"}])
def test_given_nothing(given):
    assert refusal(as_classes, given).startswith("classes are the names")
