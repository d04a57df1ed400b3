"""The registry: every method is documented and configurable from text; what cannot be meant is refused by name."""

import dataclasses
import re

import pytest

from convscope.errors import UsageError
from convscope.methods import METHODS, configure
from convscope.settings import settings_of, summary

NAMES = [
    "activations",
    "filters",
    "gradient",
    "input-x-gradient",
    "integrated-gradients",
    "smoothgrad",
    "vargrad",
    "deconvnet",
    "guided",
    "guided-grad-cam",
    "grad-cam",
    "grad-cam++",
    "hires-cam",
    "layer-cam",
    "eigen-cam",
    "score-cam",
    "ablation",
    "occlusion",
    "rise",
]


def test_all_methods_are_there():
    assert set(NAMES) <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_is_and_where_it_is_from(name):
    cls = METHODS[name]
    assert cls.name == name
    assert re.search(r"\((.+ )?(19|20)\d\d", summary(cls)), "the first line names the paper"
    assert "``raw``" in cls.__doc__


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_has_help_and_a_default_that_it_takes(name):
    for setting in settings_of(METHODS[name]):
        assert setting.help
        assert configure(name, {setting.name: setting.default}) == configure(name)
        assert not setting.choices or setting.default in setting.choices


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_frozen(name):
    method = configure(name)
    field = (dataclasses.fields(method) or [None])[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, field.name if field else "other", 1)


def test_settings_come_as_text():
    found = configure("occlusion", {"size": "16", "stride": "none", "fill": "blur", "budget": "64.5"})
    assert (found.size, found.stride, found.fill, found.budget) == (16, None, "blur", 64.5)
    assert configure("eigen-cam", {"center": "true"}).center is True


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("gradcam", {}, "unknown method 'gradcam'; nearest: grad-cam"),
        ("occlusion", {"sise": 3}, "unknown setting of occlusion 'sise'; nearest: size"),
        ("occlusion", {"fill": "gray"}, "fill is 'gray', not one of black, grey, white, mean, blur"),
        ("occlusion", {"size": "big"}, "occlusion: size is 'big': input should be a valid integer"),
        ("deconvnet", {"seed": "two"}, "seed is 'two', not one of one, activation"),
    ],
)
def test_what_cannot_be_meant(name, settings, said):
    with pytest.raises(UsageError, match=re.escape(said)):
        configure(name, settings)
