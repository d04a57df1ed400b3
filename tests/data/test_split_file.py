"""A split in words and in its file: what people write is read, what is written is read back."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convscope.data.listing import NONE, TEST, TRAIN, VAL
from convscope.data.split import Assignment, Plan, assigned_by, plan, read_split, write_split
from convscope.errors import UsageError

# --- the words for it

PLANS = {
    ("70/15/15", None): Plan(seed=5),
    (".8/.1/.1", None): Plan((0.8, 0.1, 0.1), seed=5),
    ("80/20", None): Plan((0.8, 0.2, 0.0), seed=5),
    ("100 / 0", None): Plan((1.0, 0.0, 0.0), seed=5),
    ("33.3/33.3/33.3", None): Plan((1 / 3, 1 / 3, 1 / 3), seed=5),
    (None, None): Plan(seed=5),
    (None, "1000/500/500"): Plan(subset=(1000, 500, 500), seed=5),
    (None, "1000/500"): Plan(subset=(1000, 500, 0), seed=5),
}


@pytest.mark.parametrize("words", PLANS)
def test_a_plan_is_read(words):
    found = plan(*words, 5)
    assert (found.subset, found.seed) == (PLANS[words].subset, 5)
    assert found.fractions == pytest.approx(PLANS[words].fractions)
    assert sum(found.fractions) == pytest.approx(1, abs=1e-12)


WRONG = ["", "80", "70/15/10", "0/50/50", "-10/60/50", "70/15/10/5", "a/b", "nan/1", "inf/1/1", "1/1/1"]
WRONG_SUBSETS = ["", "1000", "0/5/5", "10.5/3/3", "-1/2", "1/2/3/4", "inf/1", "x/y"]


@pytest.mark.parametrize(
    "words", [*[(word, None) for word in WRONG], *[(None, word) for word in WRONG_SUBSETS], ("80/20", "5/5")]
)
def test_a_plan_that_cannot_be_meant_is_refused_in_a_line(words):
    with pytest.raises(UsageError) as caught:
        plan(*words, 0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"fractions": (0.5, 0.2, 0.2)},
        {"fractions": (0, 0.5, 0.5)},
        {"fractions": (1.2, -0.2, 0)},
        {"fractions": (0.8, 0.2)},
        {"subset": (0, 1, 1)},
        {"subset": (3, -1, 1)},
    ],
)
def test_an_impossible_plan_cannot_be_made(wrong):
    with pytest.raises(UsageError):
        Plan(**wrong)


# --- the file

words = st.binary(min_size=1, max_size=12).map(lambda name: name.decode("utf-8", "surrogateescape")) | st.text(
    st.sampled_from(",\"\n\r' \t;é猫\udcff"), min_size=1, max_size=8
)


@given(st.lists(st.tuples(words, st.integers(-1, 2), st.integers(-1, 2))), st.lists(words, min_size=3, max_size=3))
def test_a_written_split_is_read_back(tmp_path_factory, rows, classes):
    path = tmp_path_factory.getbasetemp() / "split.csv"
    names, labels, of = ([row[i] for row in rows] for i in range(3))
    write_split(path, iter(names), np.array(labels, np.int32), classes, Assignment(np.array(of, np.int8)))
    found = read_split(path)
    assert found[0] == names
    assert found[1] == ["" if label < 0 else classes[label] for label in labels]
    assert found[2].dtype == np.int8
    assert found[2].tolist() == of


def test_a_split_is_plain_lines(tmp_path):
    names = ["a.jpg", "b, c.jpg", 'd".jpg', os.fsdecode(b"\xff.jpg"), "new\nline.jpg"]
    of = np.array([TRAIN, VAL, TEST, NONE, TRAIN], np.int8)
    write_split(tmp_path / "split.csv", names, np.array([0, 0, 1, -1, 1]), ["cat", "dog"], Assignment(of))
    assert (tmp_path / "split.csv").read_bytes() == (
        b'photo,label,split\na.jpg,cat,train\n"b, c.jpg",cat,val\n"d"".jpg",dog,test\n'
        b'\xff.jpg,,\n"new\nline.jpg",dog,train\n'
    )


def test_a_split_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "split.csv"
    write_split(path, ["a"], np.array([0]), ["cat"], Assignment(np.array([TRAIN], np.int8)))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="argument 2 is longer"):
        write_split(path, ["a"], np.array([0, 0]), ["cat"], Assignment(np.array([TRAIN, VAL], np.int8)))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["split.csv"]


def test_a_split_edited_elsewhere_is_read(tmp_path):
    path = tmp_path / "split.csv"
    path.write_bytes(b"\xef\xbb\xbfphoto,label,split\r\na.jpg,cat,Training\r\n\r\nb.jpg,dog, valid\r\n")
    names, labels, of = read_split(path)
    assert (names, labels, of.tolist()) == (["a.jpg", "b.jpg"], ["cat", "dog"], [TRAIN, VAL])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "first line"),
        ("photo,split\n", "first line"),
        ("photo,label,split\na,cat,train\nb,cat,held\n", "line 3"),
        ("photo,label,split\na,cat\n", "line 2"),
        ('photo,label,split\n"a"b,cat,train\n', "line 2: not CSV"),
    ],
)
def test_a_wrong_line_of_a_split_is_named(tmp_path, text, said):
    (tmp_path / "split.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        read_split(tmp_path / "split.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        read_split(tmp_path / "none.csv")


def test_photos_go_where_a_file_says(tmp_path):
    (tmp_path / "split.csv").write_text("photo,label,split\nb,x,train\na,x,test\nc,y,\ngone,y,train\n")
    found = assigned_by(tmp_path / "split.csv", ["a", "b", "c", "new"])
    assert found.of.tolist() == [TEST, TRAIN, NONE, NONE]
    assert found.remarks == (f"1 photo that {tmp_path / 'split.csv'} does not name: not used",)
    with pytest.raises(UsageError, match="it gives none of these photos to train"):
        assigned_by(tmp_path / "split.csv", ["a", "c"])
