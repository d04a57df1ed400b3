"""The grammar of addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convscope.errors import UsageError
from convscope.instrument.address import Address, find_module, matching, modules_by_path, parse_address

# The shape checker looks at random items of tuples.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")

READ = {
    "features.28": Address("features.28"),
    "conv1#2": Address("conv1", call=2),
    "conv1#1": Address("conv1"),
    "layer4:137": Address("layer4", units=(137,)),
    "layer4:0-3": Address("layer4", units=(0, 1, 2, 3)),
    "layer4:1,5-7": Address("layer4", units=(1, 5, 6, 7)),
    "layer4:9-9": Address("layer4", units=(9,)),
    "layer4:137@7,4": Address("layer4", units=(137,), position=(7, 4)),
    "layer4#3:137@7,4": Address("layer4", 3, (137,), (7, 4)),
    "block/relu#2": Address("block/relu", call=2),
    "/relu": Address("/relu"),
    "/add#2:5": Address("/add", 2, (5,)),
    "@last_conv": Address("@last_conv"),
    "@last_conv:5@1,2": Address("@last_conv", units=(5,), position=(1, 2)),
    "@stages": Address("@stages"),
    "@stage:-1": Address("@stage:-1"),
    "@stage:2:0-1": Address("@stage:2", units=(0, 1)),
    "features.*": Address("features.*"),
    "layer?.[01].conv1": Address("layer?.[01].conv1"),
    "  conv1:3 ": Address("conv1", units=(3,)),
}


@pytest.mark.parametrize("text", READ)
def test_what_can_be_written(text):
    assert parse_address(text) == READ[text]


REFUSED = {
    "": "write path",
    ":5": "write path",
    "conv1:": "write path",
    "conv1:x": "write path",
    "conv1:-3": "write path",
    "conv1:1-": "write path",
    "conv1:1,,2": "write path",
    "conv1#x": "write path",
    "conv1:5#2": "write path",
    "conv1:5@7": "write path",
    "conv1:5@7, 4": "write path",
    "conv1:5@7,4,1": "write path",
    "conv1#0": "counted from 1",
    "conv1@7,4": "needs one unit",
    "conv1:1,2@7,4": "needs one unit",
    "conv1:7-5": "runs backwards",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(text):
    with pytest.raises(UsageError, match=REFUSED[text]) as caught:
        parse_address(text)
    assert "\n" not in str(caught.value)


segment = st.text("abcdefghijklmnopqrstuvwxyz_0123456789", min_size=1, max_size=6)
paths = st.lists(segment, min_size=1, max_size=4).map(".".join)
layers = paths | st.builds("{}/{}".format, paths | st.just(""), segment) | st.sampled_from(["@last_conv", "@stage:-2"])
units = st.none() | st.lists(st.integers(0, 5000), min_size=1, max_size=4).map(tuple)


@st.composite
def addresses(draw):
    wanted = draw(units)
    place = draw(st.none() | st.tuples(st.integers(0, 300), st.integers(0, 300)))
    return Address(draw(layers), draw(st.integers(1, 12)), wanted, place if wanted and len(wanted) == 1 else None)


@given(addresses())
def test_reading_what_is_written_gives_the_same(address):
    assert parse_address(str(address)) == address


@given(st.text(max_size=20))
def test_any_text_is_an_address_or_refused(text):
    try:
        address = parse_address(text)
    except UsageError:
        return
    assert parse_address(str(address)) == address


def test_parts():
    call = parse_address("block/relu#2:3")
    assert (call.key, call.path, call.function) == ("block/relu#2", "block", "relu")
    assert (parse_address("/relu").path, parse_address("conv#1").key) == ("", "conv")
    assert parse_address("conv:3").function is None
    many = [text for text in READ if parse_address(text).selects_many]
    assert many == ["@stages", "features.*", "layer?.[01].conv1"]


def test_modules_are_found_under_every_name():
    net = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(3, 4, 1)))
    net.add_module("again", net[1])
    assert list(modules_by_path(net)) == ["0", "1", "1.0", "again", "again.0"]
    assert find_module(net, "again.0") is net[1][0]
    assert find_module(net, "") is net
    with pytest.raises(UsageError, match=r"unknown layer 'agin\.0'; nearest: again\.0"):
        find_module(net, "agin.0")


def test_globs():
    keys = ["conv1", "conv1#2", "layer1.0.conv1", "layer1.0/relu"]
    assert matching("*conv1", keys) == ["conv1", "layer1.0.conv1"]
    assert matching("conv*#2", keys) == ["conv1#2"]
    assert matching("layer1.0/*", keys) == ["layer1.0/relu"]
    with pytest.raises(UsageError, match="no layer matches"):
        matching("Conv*", keys)
