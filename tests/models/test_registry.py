"""Specifiers: what each means, and what load_classifier makes of it and of what overrides it."""

import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from convscope.errors import ModelError, UsageError
from convscope.images.frame import Framing
from convscope.models.classes import Classes, imagenet
from convscope.models.registry import RANDOM, SOURCES, TRAINED, Request, load_classifier, parse, resized
from convscope.models.zoo import ARCHITECTURES
from tests.nets import photos


def refusal(function, *arguments, kind=UsageError, **options):
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Specifiers


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("convscope:zfnet", ("convscope", "zfnet", TRAINED)),
        ("convscope:zfnet@random", ("convscope", "zfnet", RANDOM)),
        ("timm:resnet18.a1_in1k", ("timm", "resnet18.a1_in1k", TRAINED)),
        ("torchvision:vgg16@IMAGENET1K_V1", ("torchvision", "vgg16", "IMAGENET1K_V1")),
        ("hf-hub:timm/resnet18.a1_in1k@v2", ("hf-hub", "timm/resnet18.a1_in1k", "v2")),
        ("run:runs/cats@home", ("run", "runs/cats@home", TRAINED)),
        (r"run:C:\runs\cats", ("run", r"C:\runs\cats", TRAINED)),
        ("net.py:Net", ("file", "net.py:Net", TRAINED)),
        ("../my nets/net.py:Net@random", ("file", "../my nets/net.py:Net", RANDOM)),
        (r"C:\me@home\net.py:Net", ("file", r"C:\me@home\net.py:Net", TRAINED)),
        ("pkg.mod:factory", ("module", "pkg.mod:factory", TRAINED)),
        ("mod:factory@random", ("module", "mod:factory", RANDOM)),
    ],
)
def test_parse(spec, parts):
    assert parse(spec) == parts


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        *((spec, "does not say where it comes from") for spec in ("", "resnet18", "net.py", ":resnet18", "timm:")),
        *((spec, "unknown model source") for spec in ("timmm:resnet18.a1", "http://x.org/a", "a..b:c", ".a:b", "1a:b")),
        ("tim:a/b", "nearest: timm"),
        *((spec, "write NAME, NAME@WEIGHTS or NAME@random") for spec in ("timm:resnet18@", "timm:@random")),
    ],
)
def test_specifiers_that_are_none(spec, words):
    assert words in refusal(parse, spec)


def test_a_run_folder_that_is_not_there_is_told_with_those_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("last", "cats", "notes"):
        Path("runs", name).mkdir(parents=True)
    for name in ("last", "cats"):
        Path("runs", name, "config.yaml").write_text("model: {}")
    for spec, nearest in (("runs/lst", "; nearest: runs/last"), ("runs/note", ""), ("other/last", "")):
        assert refusal(parse, spec) == f"model '{spec}': there is no such run folder{nearest}"
    assert parse("runs/last") == ("run", "runs/last", TRAINED)


def test_every_source_is_known():
    parse("convscope:zfnet")
    assert set(SOURCES) == {"convscope", "timm", "torchvision", "hf-hub", "run", "file", "module", "without"}


# Factories and their options


def takes(width, depth=2, *, bias=True):
    return (width, depth, bias)


def passes_on(depth=2, **options):
    return takes(depth=depth, **options)


def fails(width=1):
    raise TypeError("takes() got an unexpected keyword argument 'width'")


def calls_wrongly(**options):
    return takes(1, colour=3)


def build(factory, options, **fixed):
    return Request("net.py:Net", options=options).build(factory, **fixed)


def test_options_reach_the_factory():
    assert build(takes, {"width": 4, "bias": False}) == (4, 2, False)
    assert build(takes, {"depth": 3}, width=5) == (5, 3, True)
    assert build(passes_on, {"width": 4}) == (4, 2, True)
    assert build(functools.partial(takes, 7), {"bias": False}) == (7, 2, False)
    assert build(nn.Linear, {"in_features": 2, "out_features": 3}).weight.shape == (3, 2)
    assert build(dict, {"width": 4}) == {"width": 4}  # written in C, without a signature


@pytest.mark.parametrize(
    ("factory", "options", "words"),
    [
        (takes, {"widht": 4}, "unknown option 'widht'; nearest: width"),
        (takes, {"bias": False}, "net.py:Net needs the option width"),
        (nn.Linear, {}, "net.py:Net needs the options in_features, out_features"),
        (passes_on, {"width": 1, "colour": 4}, "net.py:Net: it takes no option 'colour'"),
        (nn.ReLU, {"widht": 4}, "unknown option 'widht'; known: inplace"),
        (nn.Identity().__class__.__base__, {"width": 4}, "it takes no option 'width'"),  # nn.Module takes **options
    ],
)
def test_options_that_a_factory_does_not_take(factory, options, words):
    assert words in refusal(build, factory, options)


def test_what_a_source_passes_is_not_the_users():
    assert "unknown option 'pretrained'" in refusal(build, passes_on, {"pretrained": True}, pretrained=False)


@pytest.mark.parametrize(("factory", "options"), [(fails, {"width": 3}), (fails, {}), (calls_wrongly, {"width": 3})])
def test_a_bug_in_a_factory_stays_one(factory, options):
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        build(factory, options)


# Loading


def test_a_classifier_of_the_zoo():
    classifier = load_classifier("convscope:mnist_convnet@random")
    entry = ARCHITECTURES["mnist_convnet"]
    assert not any(module.training for module in classifier.network.modules())
    assert (classifier.name, classifier.channels) == ("convscope:mnist_convnet@random", entry.channels)
    assert classifier.framing == Framing((28, 28), 28, entry.interpolation)
    assert classifier.classes is None
    assert classifier(photos(2, 1, 28, 28, dtype=torch.float32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        *(("mnist_convnet", 40, {}), ("mnist_convnet", (32, 44), {}), ("catdog_convnet", (64, 96), {})),
        ("zfnet", 96, {"fc": 8}),
        ("vgg16_gap", 64, {}),  # any size will do
        ("efficientnet_lite0", (64, 96), {}),
    ],
)
def test_size_reaches_networks_that_flatten(name, size, options):
    classifier = load_classifier(f"convscope:{name}@random", size=size, options=options)
    canvas = (size, size) if isinstance(size, int) else size
    assert classifier.framing.size == canvas
    with torch.no_grad():
        assert classifier(torch.rand(1, classifier.channels, *canvas)).isfinite().all()
    natural = load_classifier(f"convscope:{name}@random", options=options).framing
    assert classifier.framing == resized(natural, size)


def test_size_among_the_options_moves_the_canvas_too():
    classifier = load_classifier("convscope:mnist_convnet@random", options={"size": [32, 40]})
    assert classifier.framing.size == (32, 40)
    assert classifier(torch.rand(1, 1, 32, 40)).shape == (1, 10)
    classifier = load_classifier("convscope:mnist_convnet@random", size=36, options={"size": 32})
    assert classifier.framing.size == (36, 36)
    assert classifier(torch.rand(1, 1, 36, 36)).shape == (1, 10)


def test_what_the_source_says_can_be_overridden(tmp_path):
    torch.manual_seed(0)
    state = ARCHITECTURES["mnist_convnet"].build(num_classes=3).state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "w.pt")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    classifier = load_classifier(
        "convscope:mnist_convnet",
        weights=tmp_path / "w.pt",
        classes=tmp_path / "names.txt",
        mean=[0.1],
        std=[0.3],
        options={"num_classes": 3},
    )
    assert all(torch.equal(value, state[key]) for key, value in classifier.network.state_dict().items())
    assert (classifier.classes, classifier.mean, classifier.std) == (Classes(("a", "b", "c")), (0.1,), (0.3,))
    classifier = load_classifier("convscope:mnist_convnet@random", classes=["x", "y"], options={"num_classes": 2})
    assert classifier.classes.names == ("x", "y")


def test_trained_weights_of_the_package():
    classifier = load_classifier("convscope:efficientnet_lite0")
    state = ARCHITECTURES["efficientnet_lite0"].pretrained()
    assert all(torch.equal(value, state[key]) for key, value in classifier.network.state_dict().items())
    assert classifier.classes is imagenet()
    assert classifier.framing == Framing((224, 224), 256, "bicubic")
    assert (classifier.mean, classifier.std) == ((0.5,) * 3, (0.5,) * 3)


def test_random_weights_are_not_the_trained_ones():
    torch.manual_seed(0)
    random = load_classifier("convscope:efficientnet_lite0@random").network.state_dict()
    trained = ARCHITECTURES["efficientnet_lite0"].pretrained()
    assert not any(torch.equal(random[key], trained[key]) for key in random if key.endswith("conv_pw.weight"))


def test_structure_alone_needs_no_weights(monkeypatch):
    def fetched():
        raise AssertionError("fetched")

    monkeypatch.setattr("convscope.models.sources.silence", fetched)
    monkeypatch.setattr("convscope.models.sources.fetching", fetched)
    for spec in (
        "convscope:zfnet",
        "torchvision:squeezenet1_1",
        "torchvision:resnet18@IMAGENET1K_V1",
        "timm:test_resnet",
    ):
        options = {"fc": 8} if spec.startswith("convscope") else {}
        assert load_classifier(spec, structure_only=True, options=options).name == spec


def test_contradictions():
    message = refusal(load_classifier, "torchvision:vgg16@IMAGENET1K_V1", weights="w.pt")
    assert message == "torchvision:vgg16@IMAGENET1K_V1 names weights and --weights names others: give one of them"
    assert "a size is one side or" in refusal(load_classifier, "convscope:mnist_convnet@random", size=0)
    assert "no such file" in refusal(load_classifier, "convscope:mnist_convnet", weights="none.pt")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"spec": "convscope:zfnt"}, UsageError, "unknown architecture 'zfnt'; nearest: zfnet"),
        ({"spec": "convscope:zfnet"}, ModelError, "convscope:zfnet@random"),
        (
            {"spec": "convscope:efficientnet_lite0@V1"},
            UsageError,
            "unknown weights of convscope:efficientnet_lite0 'V1'",
        ),
        ({"spec": "convscope:efficientnet_lite0", "options": {"num_classes": 7}}, UsageError, "1000 classes, not for"),
        ({"spec": "convscope:zfnet@random", "options": {"width": 7}}, UsageError, "unknown option 'width'"),
        ({"spec": "convscope:catdog_convnet@random", "size": 8}, UsageError, "8x8 is too small"),
    ],
)
def test_refusals_of_the_zoo(options, kind, words):
    assert words in refusal(load_classifier, kind=kind, **options)


def test_another_number_of_classes_of_a_random_network():
    classifier = load_classifier("convscope:efficientnet_lite0@random", options={"num_classes": 7})
    assert classifier.classes is None
    with torch.no_grad():
        assert classifier(torch.rand(1, 3, 32, 32)).shape == (1, 7)


# Framing at another size


@pytest.mark.parametrize(
    ("framing", "size", "expected"),
    [
        (Framing((224, 224), 256), 112, Framing((112, 112), 128)),
        (Framing((224, 224), 256), (112, 224), Framing((112, 224), 128)),
        (Framing((224, 224), 224, "bilinear"), 299, Framing((299, 299), 299, "bilinear")),
        (Framing((224, 224), 249, squash=True), 112, Framing((112, 112), 124, squash=True)),
        (Framing((224, 224)), 64, Framing((64, 64))),
        (Framing(), (64, 32), Framing((64, 32), 32)),
    ],
)
def test_resized(framing, size, expected):
    assert resized(framing, size) == expected
    assert resized(expected, size) == expected
