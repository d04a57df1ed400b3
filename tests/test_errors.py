"""Errors are one line that says what is near, and carry their exit code."""

import pytest

from convscope.errors import Cancelled, ConvscopeError, ImageError, ModelError, RuleError, UsageError, unknown


@pytest.mark.parametrize(
    ("kind", "code"), [(UsageError, 2), (ModelError, 1), (ImageError, 1), (RuleError, 1), (Cancelled, 130)]
)
def test_exit_codes(kind, code):
    assert issubclass(kind, ConvscopeError)
    assert kind.exit_code == code


MANY = [f"layer{i}.conv{j}" for i in range(1, 6) for j in range(1, 4)]


@pytest.mark.parametrize(
    ("name", "known", "message"),
    [
        ("grad_cam", ["grad-cam", "guided", "occlusion"], "unknown method 'grad_cam'; nearest: grad-cam"),
        ("GRAD-CAM", ["grad-cam", "rise"], "unknown method 'GRAD-CAM'; nearest: grad-cam"),
        ("cam", ["grad-cam", "hires-cam", "rise"], "unknown method 'cam'; nearest: grad-cam, hires-cam"),
        ("zzz", ["rise", "filters"], "unknown method 'zzz'; known: rise, filters"),
        ("zzz", [], "unknown method 'zzz'; there are none"),
        ("zzz", MANY, "unknown method 'zzz'"),
        ("", ["rise"], "unknown method ''; known: rise"),
        (
            "layer1.conv",
            MANY,
            "unknown method 'layer1.conv'; nearest: layer1.conv3, layer1.conv2, layer1.conv1, layer5.conv3",
        ),
    ],
)
def test_what_is_near_is_named(name, known, message):
    assert str(unknown("method", name, known)) == message


def test_a_hint_comes_last():
    assert str(unknown("layer", "a", ["b"], "see the list")) == "unknown layer 'a'; known: b (see the list)"
    assert isinstance(unknown("layer", "a", iter(["b"])), UsageError)


def test_odd_names_stay_on_one_line():
    assert "\n" not in str(unknown("layer", "a\nb", ["c"]))
