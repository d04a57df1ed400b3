"""Networks as people have them: frozen backbones, transformers, heads that end in a sigmoid, wrappers."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import convscope as cs
from convscope.errors import ModelError, UsageError
from convscope.instrument.target import Target
from convscope.methods import METHODS
from convscope.methods.grad_cam import GradCam
from convscope.models.classifier import Classifier
from tests.nets import classifier_of, photos, seeded


class Frozen(nn.Module):
    """A backbone that is run without gradients, as transfer learning is often written, and a head."""

    def __init__(self, how):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU())
        self.head = nn.Sequential(nn.Conv2d(5, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        self.how = how

    def forward(self, x):
        if self.how == "no_grad":
            with torch.no_grad():
                return self.head(self.backbone(x))
        if self.how == "backbone in no_grad":
            with torch.no_grad():
                x = self.backbone(x)
            return self.head(x)
        x = self.backbone(x)
        return self.head(x.detach() if self.how == "detach" else x)


def frozen(how):
    return classifier_of(Frozen(how))


@pytest.mark.parametrize("how", ["backbone in no_grad", "detach"])
def test_a_cam_where_the_backbone_ends(how):
    images, target = photos(2), Target(index=(1, 2))
    layer = "backbone" if how == "backbone in no_grad" else "head.0"
    wanted = GradCam(layer=layer).run(frozen("as it is"), images, target).raw
    found = GradCam(layer=layer).run(frozen(how), images, target).raw
    assert bool(found.any())
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("how", ["no_grad", "backbone in no_grad", "detach"])
@pytest.mark.parametrize("name", ["gradient", "guided", "integrated-gradients", "smoothgrad"])
def test_no_gradient_is_no_empty_map(name, how):
    with pytest.raises(ModelError, match=r"no gradient flows from the target back to the pixels: .*no_grad"):
        METHODS[name]().run(frozen(how), photos(), Target(index=(1,)))


def test_no_gradient_to_a_layer():
    with pytest.raises(ModelError, match=r"back to layer backbone\.0"):
        GradCam(layer="backbone.0").run(frozen("detach"), photos(), Target(index=(1,)))


def test_a_transformers_last_spatial_map_is_said_to_be_early():
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=4).eval()
    image = torch.rand(1, 3, 32, 32)
    note = cs.Scope(vit).explain(image, "grad-cam").notes[0]
    assert note.startswith("the last spatial map of this network, patch_embed.proj, is near its input")
    assert cs.Scope(vit).explain(image, "grad-cam", layer="patch_embed.proj").notes == ()
    assert cs.Scope(seeded(Frozen("as it is"))).explain(photos(), "grad-cam", target=1).notes == ()


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile, lambda net: nn.DataParallel(torch.compile(net))])
def test_wrappers_are_taken_off(wrap):
    net = seeded(Frozen("as it is"), dtype=torch.float32)
    scope = cs.Scope(wrap(net))
    assert scope.classifier.network is net
    assert scope.find_layers("@last_conv") == ["head.0"]


def test_a_network_that_ends_in_a_sigmoid_is_explained_by_its_logit():
    body = seeded(nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 1)))
    images, target = photos(2), Target(index=(1, 0))
    for name in ("grad-cam", "guided", "occlusion", "integrated-gradients"):
        wanted = METHODS[name]().run(Classifier(body), images, target)
        found = METHODS[name]().run(Classifier(nn.Sequential(*body, nn.Sigmoid())), images, target)
        assert torch.allclose(found.raw, wanted.raw, rtol=1e-12)
        assert torch.equal(found.scores, wanted.scores)


# --- what cannot be meant


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if "layer" in cls.__dataclass_fields__])
def test_units_of_a_cams_layer(name):
    scope = cs.Scope(seeded(Frozen("as it is")))
    if METHODS[name].traits.kind == "map":
        with pytest.raises(UsageError, match="a CAM weighs all of a layer's maps"):
            scope.explain(photos(), name, layer="head.0:2")
    with pytest.raises(UsageError, match=r"position|weighs all"):
        scope.explain(photos(), name, layer="head.0:2@1,1")


@pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if not cls.traits.targeted])
def test_a_target_for_what_has_none(name):
    with pytest.raises(UsageError, match=f"{name} explains no target"):
        cs.Scope(seeded(Frozen("as it is"))).explain(photos(), name, target="head.0:2")


@pytest.mark.parametrize("method", [None, GradCam, 3, "grad-cam "])
def test_what_is_no_method(method):
    with pytest.raises(UsageError, match="method"):
        cs.Scope(seeded(Frozen("as it is"))).explain(photos(), method)


def test_a_class_against_itself():
    scope = cs.Scope(seeded(Frozen("as it is")), classes=["a", "b", "c"])
    best = scope.predict(photos()).top(1)[0].name
    for target in (None, best):
        with pytest.raises(UsageError, match="is set against itself"):
            scope.explain(photos(), "grad-cam", target=target, against=best)


# Wrong types meet the tests' own checker first: these run in a process without it.
WRONG = {
    "cs.Scope('torchvision:resnet18')": "a Scope is over a torch.nn.Module, not str; convscope.load(",
    "cs.Scope(len)": "a Scope is over a torch.nn.Module, not builtin_function_or_method",
    "cs.Scope(net, mean='half')": "mean is a number, or one for each channel: got 'half'",
    "cs.Scope(net, size=1.5)": "a size is one side or (height, width), in pixels: got 1.5",
    "scope.explain(image, 'gradient', target=1.5)": "a class is a name or an index, not 1.5",
    "scope.explain(image, 'gradient', target=[1.5])": "a class is a name or an index, not 1.5",
    "scope.explain(image, 'gradient', target={1: 2})": "a class is a name or an index, not {1: 2}",
    "scope.explain(image, 'occlusion', target=1, budget=float('nan'))": "the memory budget must be positive and finite",
    "scope.explain(image, 'smoothgrad', target=1, noise=float('nan'))": "smoothgrad needs",
}


def test_wrong_types_get_one_line():
    code = f"""
import torch
from torch import nn
import convscope as cs
net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
scope, image = cs.Scope(net, progress=False), torch.rand(1, 3, 9, 9)
for call, words in {WRONG!r}.items():
    try:
        eval(call)
    except cs.ConvscopeError as error:
        assert str(error).startswith(words) and "\\n" not in str(error), (call, str(error))
    else:
        raise AssertionError(call)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_load_hands_on_what_is_the_scopes():
    scope = cs.load("convscope:mnist_convnet@random", progress=False, background="black")
    assert scope.progress is False
    assert scope.background == "black"
