"""File names from any text."""

import pytest

from convscope.images.slug import slug


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("features.10", "features.10"),
        ("layer3:12@7,4", "layer3-12@7,4"),
        ("block/relu#2", "block-relu-2"),
        ("/relu", "relu"),
        ("dog, hound", "dog,-hound"),
        ("Straße", "strasse"),
        ("cafe\u0301", "café"),
        ("猫 1", "猫-1"),
        ("../../etc/passwd", "etc-passwd"),
        ("a\n\0\\b", "a-b"),
        (".hidden.", "hidden"),
        ("", "unnamed"),
        ("..", "unnamed"),
        ("\udcff", "unnamed"),
    ],
)
def test_a_name_is_near_to_its_text(text, name):
    assert slug(text) == name


@pytest.mark.parametrize("text", ["CON", "nul", "Aux", "com1", "lpt9", "aux.0", "prn.conv.2"])
def test_devices_of_windows_are_no_names(text):
    assert slug(text) == f"_{text.casefold()}"


@pytest.mark.parametrize("text", ["auxiliary", "console", "aux1", "a.con", "com", "com10"])
def test_what_only_looks_like_them_is(text):
    assert slug(text) == text


@pytest.mark.parametrize("cut", ["-", ".", " ", "/"])
def test_long_names_are_cut_and_end_in_a_character(cut):
    assert slug("x" * 300) == "x" * 60
    assert slug("x" * 59 + cut + "y" * 20) == "x" * 59
