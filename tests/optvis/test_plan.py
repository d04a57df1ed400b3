"""What is settled before the long work: the canvas, what is refused, how many pictures a batch holds."""

import subprocess
import sys
from dataclasses import replace
from math import prod

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convscope as cs
from convscope.errors import ModelError, UsageError
from convscope.instrument.address import parse_address
from convscope.models.classifier import Classifier
from convscope.optvis import channel, cosine, direction, diversity, energy, logit, neuron, pad, plan
from convscope.optvis.recipes import FOURIER
from convscope.optvis.visualize import plan_patterns
from tests.nets import PreActivation, Skip, photos, seeded, with_relu6
from tests.optvis.small import Small, small


def refusal(work, kind=UsageError):
    with pytest.raises(kind) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the canvas


class Chain(nn.Sequential):
    """Convolutions 3x3 of these strides, one after the other, and a head over the mean."""

    def __init__(self, *strides, width=4):
        layers = [nn.Conv2d(width if i else 3, width, 3, stride, 1) for i, stride in enumerate(strides)]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 3))


def seen_by_a_unit(net, depth, side=160):
    """Pixels on a side that a unit in the middle of the maps of ``depth`` layers depends on, by its gradient."""
    image = maps = photos(1, height=side, width=side).requires_grad_()
    for layer in list(net)[:depth]:
        maps = layer(maps)
    middle = maps.shape[2] // 2
    maps[0, :, middle, middle].sum().backward()
    rows = image.grad.abs().sum((0, 1, 3)).nonzero().flatten()
    return int(rows[-1] - rows[0]) + 1


@pytest.mark.parametrize("strides", [(1,), (1, 2), (2, 2, 1), (3, 1), (3, 2)])
def test_the_canvas_is_the_receptive_field_and_a_margin_in_whole_steps(strides):
    net = seeded(Chain(*strides))
    for depth in range(1, len(strides) + 1):
        step = prod(strides[:depth])
        side, other = plan.canvas_for(Classifier(net), channel(str(depth - 1), 0).needs)
        assert side == other
        assert side % step == 0
        assert 0 <= side - seen_by_a_unit(net, depth) - 48 < step


def test_several_layers_take_the_largest_canvas_and_the_deepest_at_most_128():
    classifier = Classifier(seeded(Chain(2, 2, 2, 2, 2)))
    canvas = [plan.canvas_for(classifier, channel(str(i), 0).needs)[0] for i in range(5)]
    assert canvas == [52, 56, 64, 80, 128]  # fields of 3, 7, 15, 31, 63 and 48, in steps of 2, 4, 8, 16 and 32
    both = channel("0", 0) - channel("2", 1)
    assert plan.canvas_for(classifier, both.needs) == (64, 64)
    far = Classifier(seeded(Chain(2, 2, 2, 2, 2, 1, 1)))
    assert plan.canvas_for(far, channel("6", 0).needs) == (128, 128)


class Excited(nn.Module):
    """Squeeze and excite: every unit sees the whole of the picture."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 4), nn.Linear(4, 3)
        self.out = nn.Identity()

    def forward(self, x):
        x = self.conv(x)
        x = self.out(x * self.gate(x.mean((2, 3))).sigmoid()[:, :, None, None])
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(("size", "canvas"), [(None, (128, 128)), (200, (128, 128)), ((60, 80), (60, 80))])
def test_units_that_see_the_whole_picture_have_128_pixels_or_the_networks_own_fewer(size, canvas):
    scope = cs.Scope(seeded(Excited()), size=size, progress=False)
    assert plan.canvas_for(scope.classifier, channel("out", 1).needs) == canvas


@pytest.mark.parametrize("objective", [logit(0), channel("act", 0) + logit(1), neuron("act", 0, 3, 4)])
def test_logits_and_a_named_place_are_on_the_networks_own_input(objective):
    _, scope = small(size=(60, 80))
    assert plan.canvas_for(scope.classifier, objective.needs) == (60, 80)
    assert plan.canvas_for(Classifier(seeded(Small())), objective.needs) == (224, 224)


def test_the_centre_of_a_map_is_on_any_canvas():
    _, scope = small(size=(60, 80))
    assert plan.canvas_for(scope.classifier, neuron("act", 0).needs) == (54, 54)


class Flat(nn.Module):
    """A layer of numbers behind maps of one size."""

    def __init__(self, side):
        super().__init__()
        self.conv, self.wide, self.head = nn.Conv2d(3, 2, 3, padding=1), nn.Linear(2 * side**2, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(F.relu(self.wide(self.conv(x).flatten(1))))


def test_a_layer_behind_a_part_of_fixed_size_takes_that_size():
    scope = cs.Scope(seeded(Flat(160)), size=160, progress=False)
    assert plan.canvas_for(scope.classifier, channel("wide", 0).needs) == (160, 160)
    assert plan.canvas_for(scope.classifier, channel("conv", 0).needs) == (51, 51)


@pytest.mark.parametrize("error", [AssertionError, ValueError, RuntimeError])
def test_a_network_that_insists_on_its_size_gets_it(error):
    class Picky(Small):
        def forward(self, x):
            if x.shape[2:] != (70, 70):
                raise error("70 pixels, please")
            return super().forward(x)

    scope = cs.Scope(seeded(Picky()), size=70, progress=False)
    assert scope.visualize("act:0", steps=1).raw.shape[2:] == (70, 70)
    words = refusal(lambda: scope.visualize("act:0", size=50))
    assert words == "Picky does not run on a canvas of 50x50 as far as act (70 pixels, please): give another size"


@pytest.mark.parametrize("what", ["act:0", "head:0", "@logits", "@last_conv:1", "act:0@1,1"])
def test_a_size_that_nobody_said_is_asked_for(what):
    scope = cs.Scope(seeded(Small(fixed=True)), progress=False)
    words = refusal(lambda: scope.visualize(what), ModelError)
    assert words.startswith("Small fails on an input of 224x224 (mat1 and mat2 shapes cannot be multiplied")
    assert words.endswith("load it with the size that it takes, size= or --size")
    assert scope.visualize(channel("act", 0), size=24, steps=1).raw.shape[2:] == (24, 24)


# --- what is refused


@pytest.mark.parametrize(
    ("what", "options", "words"),
    [
        ("nolayer", {}, "unknown layer 'nolayer'"),
        ("act#2:0", {}, "act#2 did not run in the forward pass: it has fewer than 2 calls"),
        ("*", {}, "* selects 4 layers, one is needed"),
        ("act:8", {}, "unit 8 is out of range: act has 8 units, 0 to 7"),
        ("head:4", {}, "unit 4 is out of range: head has 4 units, 0 to 3"),
        ("act:1@99,2", {}, "position 99,2 is out of range: the maps of act are 12x12"),
        ("act:1@2,12", {}, "position 2,12 is out of range: the maps of act are 12x12"),
        ("act:1@-1,2", {}, "position -1,2 is out of range"),
        ("act:0-1@2,2", {}, "a position needs one unit"),
        ("head:1@0,0", {}, "head has no rows and columns: a layer with maps is needed"),
        ("act:1", {"size": 1}, "the maps of act are one pixel on a canvas of 1x1: give a larger size, such as 24"),
        ("act:1", {"size": 0}, "size"),
        ("act:1", {"steps": 0}, "a pattern takes at least 1 step, got 0"),
        ("act:1", {"diversity": 0}, "at least 1, got 0"),
        ("act:1", {"recipe": "fouriers"}, "unknown recipe 'fouriers'; nearest: fourier"),
        ("act:1", {"budget": 0.01}, "does not hold one pattern of 24x24"),
        ("act:1", {"budget": 0}, "must be positive and finite, got 0"),
        ("act:1", {"budget": float("nan")}, "must be positive and finite"),
        ("act:1", {"budget": float("inf")}, "must be positive and finite"),
        ("act:1", {"units": 2}, "act:1 names units already"),
        ("act", {"units": "two"}, "units of a layer are numbers, got 'two'"),
        ("act", {"units": []}, "at least one unit"),
        ("act", {"units": [-1]}, "units are counted from 0"),
        ("act", {"units": range(9)}, "unit 8 is out of range"),
        ("@logits:cats", {}, "unknown class 'cats'; nearest: cat"),
        ("@logits:cat", {"units": 2}, "@logits:cat names classes already"),
        ("@logits", {"units": 4}, "class index 4 is out of range"),
        ("@logitscat", {}, "unknown alias '@logitscat'"),
        (channel("act", 1), {"units": 2}, "an objective has its units already"),
        (direction("act", torch.ones(3)), {}, "the direction has 3 numbers, act has 8 units"),
        (cosine("head", torch.ones(8)), {}, "the direction has 8 numbers, head has 4 units"),
        (direction("head", torch.ones(4, 2, 2)), {}, "head has no rows and columns"),
        (neuron("head", 1), {}, "head has no rows and columns"),
        (neuron("act", 1), {"size": 2}, "the maps of act are one pixel on a canvas of 2x2"),
        (channel("act", 1) + diversity("head", 2), {}, "head has no rows and columns"),
        (energy("gone"), {"size": 24}, "unknown layer 'gone'"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(what, options, words):
    _, scope = small()
    assert words in refusal(lambda: scope.visualize(what, **options))


@pytest.mark.parametrize("what", ["act", "@logits"])
@pytest.mark.parametrize("units", [1.7, [0, 1.7], [True]])
def test_units_are_whole_numbers_and_nothing_near(what, units):
    _, scope = small()
    assert f"units are numbers, got {units}" in refusal(lambda: plan_patterns(scope.classifier, what, units=units))


class Tokens(nn.Module):
    """Attention over patches: a layer that gives two tensors, and one whose output is neither maps nor numbers."""

    def __init__(self):
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 8, 4, stride=4), nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.attention(x, x, x)[0]).mean(1))


def test_a_layer_without_units_is_refused():
    scope = cs.Scope(seeded(Tokens()), size=32, progress=False)
    words = "layer norm gives (64, 8) a picture: neither maps nor numbers; name a layer inside it"
    assert refusal(lambda: scope.visualize("norm:0")) == words
    assert refusal(lambda: scope.visualize("attention:0")).startswith("layer attention gives tuple, not one tensor")
    assert scope.visualize("patches:0", steps=1).raw.shape == (1, 3, 32, 32)


def test_maps_of_one_pixel_are_refused_where_they_might_be_larger():
    net = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)))
    scope = cs.Scope(net, size=24, progress=False)
    assert refusal(lambda: scope.visualize("0:1", size=3)) == (
        "the maps of 0 are one pixel on a canvas of 3x3: give a larger size, such as 24"
    )
    assert scope.visualize("2:1", steps=1).names == ("2:1",)  # a mean is one pixel on any canvas
    assert refusal(lambda: scope.visualize(neuron("2", 1))).endswith("the maps of 2 are one pixel on a canvas of 24x24")


def test_a_network_of_one_size_refuses_transforms_that_change_it():
    _, scope = small(fixed=True)
    padded = replace(FOURIER, how=replace(FOURIER.how, transforms=(pad(0.25),)))
    assert refusal(lambda: scope.visualize("@logits", recipe=padded)) == (
        "Small takes a canvas of 24x24 alone, of which the transforms make 36x36: leave out what changes the size, "
        "such as pad"
    )
    assert scope.visualize("act:1", recipe=padded, steps=1).raw.shape[2:] == (24, 24)
    assert "does not run on a canvas of 30x30 as far as @logits" in refusal(lambda: scope.visualize("@logits", size=30))


# --- batches


def batch_of(objective, budget, views=1, size=24):
    _, scope = small()
    return plan.batch_of(scope.classifier, objective, (3, size, size), views, budget)


def test_a_batch_grows_with_the_budget_in_whole_groups_as_far_as_it_pays():
    one = channel("act", range(8))
    batches = [batch_of(one, budget) for budget in (0.8, 1.6, 3, 5, 1000)]
    assert batches == sorted(batches)
    assert 1 <= batches[0] < batches[1] < batches[2]
    assert batches[-1] == 16
    three = one.repeated(3) + diversity("act", 3)
    for budget in (3, 4, 8, 1000):
        assert batch_of(three, budget) % 3 == 0
    assert batch_of(three, 1000) == 15
    assert batch_of(one, 1000, views=4) == 4
    assert batch_of(one.repeated(40) + diversity("act", 40), 1000) == 40, "a group is never parted"


def test_a_budget_that_holds_no_pattern_says_what_one_takes():
    one = channel("act", 0)
    assert refusal(lambda: batch_of(one, 0.1)) == (
        "a memory budget of 0.1 MiB does not hold one pattern of 24x24 at once: give at least 1 MiB, or a smaller size"
    )
    takes = int(refusal(lambda: batch_of(one, 2, size=128)).split("at least ")[1].split()[0])
    assert takes > 2
    assert batch_of(one, takes, size=128) == 1
    assert batch_of(one, 2 * takes, size=128) == 2
    assert "does not hold 3 patterns of 24x24" in refusal(lambda: batch_of(one.repeated(3) + diversity("act", 3), 0.1))


BATCH = """
import pathlib, sys
import torch
from torch import nn
import convscope as cs
from convscope.optvis.visualize import plan_patterns, visualize

def peak():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

torch.set_num_threads(1)
torch.manual_seed(0)
convs = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()]
net = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
scope = cs.Scope(net.eval(), size=160, progress=False)
layer, recipe, budget = sys.argv[1], sys.argv[2], float(sys.argv[3])
options = {"recipe": recipe, "steps": 2}
visualize(plan_patterns(scope.classifier, f"{layer}:0", size=16, **options))
job = plan_patterns(scope.classifier, layer, size=128, budget=budget, **options)
before = peak()
for rows in (range(job.batch), range(job.batch)):
    job.patterns(rows)
print(job.batch, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc says how much memory a process had")
@pytest.mark.parametrize(("layer", "recipe", "budget"), [("5", "fourier", 200), ("3", "maco", 250)])
def test_a_batch_keeps_within_the_budget(layer, recipe, budget):
    line = [sys.executable, "-c", BATCH, layer, recipe, str(budget)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    batch, grown = map(float, done.stdout.split())
    assert batch > 1
    # A quarter for what the system's allocator keeps in between.
    assert budget / 5 < grown < 1.25 * budget


# --- before a ReLU


@pytest.mark.parametrize(
    ("net", "layer", "before"),
    [
        (Skip(), "relu1", "norm1"),
        (Skip(), "relu2", "/add"),  # what a residual block adds up
        (Skip("functional"), "/relu", "norm1"),
        (Skip("functional"), "/relu#2", "/add"),
        (Skip("functional in place"), "/relu#3", "conv3"),
        (Skip("method"), "/relu#2", "/add"),
        (Skip("clamp"), "/clamp#3", "conv3"),
        (Skip("modules in place"), "relu2", "/add"),
        (Skip("modules in place"), "relu5", "fc1"),
        (Skip("reused"), "relu1#3", "conv3"),
        (PreActivation(), "relu", "conv1"),
        (with_relu6(Chain(1, 1).insert(1, nn.ReLU())), "1", "0"),
        (Chain(1, 1).insert(1, nn.LeakyReLU()), "1", "1"),
        (Chain(1, 1).insert(1, nn.Hardswish()), "1", "1"),
        (Skip(), "norm1", "norm1"),
        (Skip(), "drop", "drop"),
        (Skip(), "fc2", "fc2"),
    ],
)
def test_what_a_relu_cuts_off_is_read_before_it(net, layer, before):
    scope = cs.Scope(seeded(net), size=(24, 30), progress=False)
    address = parse_address(f"{layer}:3")
    assert str(plan.unrectified(scope.classifier, address)) == f"{before}:3"


def test_a_neuron_keeps_its_place_before_its_relu():
    scope = cs.Scope(seeded(Skip()), size=(24, 30), progress=False)
    assert str(plan.unrectified(scope.classifier, parse_address("relu2:3@4,5"))) == "/add:3@4,5"
