"""What was once wrong: networks and wishes out of the ordinary, whose patterns came out false or not at all."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import convscope as cs
from convscope.errors import ConvscopeError
from convscope.instrument.own_filters import takes
from convscope.optvis import channel, cosine, neuron
from convscope.optvis.folder import PatternFolder, stem
from convscope.optvis.visualize import plan_patterns
from tests.nets import photos, seeded
from tests.optvis.small import small


class Wide(nn.Module):
    """Its first layer has more filters than taps; a convolution with groups is behind it."""

    def __init__(self, slope=0.0):
        super().__init__()
        self.one = nn.Conv2d(3, 32, 3, padding=1)
        self.two = nn.Conv2d(32, 32, 3, groups=4, dilation=2, padding=2)
        self.head, self.slope = nn.Linear(32, 4), slope

    def forward(self, x):
        return self.head(F.leaky_relu(self.two(self.one(x).relu()), self.slope).mean((2, 3)))


def scope_of(net, **options):
    return cs.Scope(net, **{"size": 24, "progress": False, **options})


@pytest.mark.parametrize("recipe", ["fourier", "maco"])
@pytest.mark.parametrize("diversity", [2, 3])
def test_diverse_pictures_are_the_same_alone(recipe, diversity):
    scope = scope_of(seeded(Wide()))
    options = {"recipe": recipe, "diversity": diversity, "steps": 24}
    together = scope.visualize("two:0-3", **options).raw
    alone = [scope.visualize(f"two:{i}", **options).raw for i in range(4)]
    assert torch.equal(together, torch.cat(alone))


def scaled_by_hand(net, times):
    plain = net.one.forward
    net.one.forward = lambda x: plain(x) * times


def test_a_layer_whose_forward_is_another_is_run_as_it_is():
    net, times = seeded(Wide()), torch.linspace(1, 2, 32, dtype=torch.float64).view(1, -1, 1, 1)
    scaled_by_hand(net, times)
    assert not takes(net.one)
    found = scope_of(net).visualize("one", units=[5, 31], steps=3, recipe="classic")
    wanted = net.one(found.raw)[[0, 1], [5, 31]].mean((1, 2))
    assert torch.allclose(found.after, wanted)


def test_hooks_on_all_modules_are_heeded():
    net = seeded(Wide())
    hook = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, output: output * 2 if module is net.one else None
    )
    try:
        found = scope_of(net).visualize("one", units=[5], steps=3)
        wanted = float(net.one(found.raw)[0, 5].mean())
    finally:
        hook.remove()
    assert float(found.after) == pytest.approx(wanted, rel=1e-9)


def test_checkpointed_segments_are_run_whole():
    net = seeded(Wide())

    class Saving(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = copy.deepcopy(net)

        def forward(self, x):
            x = checkpoint(lambda x: self.net.two(self.net.one(x).relu()), x, use_reentrant=False)
            return self.net.head(x.relu().mean((2, 3)))

    found = scope_of(Saving().eval()).visualize("net.one", units=[5, 7], steps=3)
    wanted = scope_of(net).visualize("one", units=[5, 7], steps=3)
    assert (found.after > found.before).all()
    assert torch.allclose(found.before, wanted.before, atol=0.1)


def test_strong_activations_of_half_precision_do_not_overflow():
    net = seeded(Wide(), dtype=torch.float32)
    net.one.weight.data *= 60
    half = scope_of(copy.deepcopy(net).half())
    image = photos(1, height=24, width=24, dtype=torch.float32)
    found = half.caricature(image, "two", steps=4)
    wanted = scope_of(net).caricature(image, "two", steps=4)
    assert torch.allclose(found.before.float(), wanted.before, rtol=0.05)
    assert half.visualize("two:0", diversity=2, steps=2).after.isfinite().all()
    silent = half.visualize(cosine("one", torch.ones(32)) * 0, steps=2)
    assert silent.verdicts == ("dead",)


def test_what_rises_less_than_half_precision_shows_has_risen_all_the_same():
    scope = scope_of(seeded(Wide(), dtype=torch.float32).to(torch.bfloat16))
    found = scope.visualize("two", units=[0, 1, 2], diversity=2, steps=20)
    assert found.verdicts == ("",) * 6
    assert (found.after > found.before).all()


@pytest.mark.parametrize(
    ("layer", "rectifies"),
    [
        (nn.Hardtanh(), False),
        (nn.Hardtanh(0, 3), True),
        (nn.ReLU6(), True),
        (nn.ReLU(), True),
        (nn.Hardtanh(-2, 0), False),
    ],
)
def test_what_is_wanted_least_is_read_before_rectifiers_alone(layer, rectifies):
    net = seeded(nn.Sequential(nn.Conv2d(3, 8, 3), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)))
    notes = scope_of(net).visualize("1", units=[0], negative=True, steps=2).notes
    assert any("is rectified" in note for note in notes) == rectifies


def test_other_answers_of_the_same_weights_are_made_anew(tmp_path):
    net = seeded(Wide())
    job = plan_patterns(scope_of(net).classifier, "two:0", steps=2)
    folder = PatternFolder(tmp_path)
    for rows, patterns in job.batches():
        folder.keep(job, rows, patterns)
    assert PatternFolder(tmp_path).done(plan_patterns(scope_of(net).classifier, "two:0", steps=2)) == {0}
    scaled_by_hand(net, 1.5)
    other = plan_patterns(scope_of(net).classifier, "two:0", steps=2)
    assert PatternFolder(tmp_path).done(other) == set()
    assert PatternFolder(tmp_path).others(other) == 1


def test_pictures_of_one_unit_that_is_named_twice_are_two(tmp_path):
    scope = small()[1]
    twice = plan_patterns(scope.classifier, channel("two", 3).repeated(2), steps=3)
    found = twice.patterns(range(2))
    assert not torch.equal(found.raw[0], found.raw[1])
    assert torch.equal(found.raw[:1], scope.visualize("two:3", steps=3).raw)
    folder = PatternFolder(tmp_path)
    assert len({folder.file(twice, row) for row in range(2)}) == 2


def test_layers_that_differ_in_case_have_files_of_their_own():
    net = seeded(nn.ModuleDict({"conv": nn.Conv2d(3, 4, 3), "Conv": nn.Conv2d(4, 4, 3)}))
    net.forward = lambda x: net["Conv"](net["conv"](x)).mean((2, 3))
    stems = [stem(plan_patterns(scope_of(net).classifier, layer, steps=1)) for layer in ("conv", "Conv")]
    assert stems[0] == "conv" != stems[1]
    assert len({name.casefold() for name in stems}) == 2


def test_a_neuron_out_of_the_middle_is_found_wherever_it_is():
    torch.manual_seed(0)
    net = seeded(Wide())
    scope = scope_of(net, size=160)
    for row, col in ((3, 3), (80, 20), (156, 120)):
        found = scope.visualize(neuron("two", [1, 2, 3], row, col), steps=48)
        assert found.verdicts == ("",) * 3
        exact = scope.visualize(neuron("two", [1, 2, 3]), size=24, steps=48)
        assert (found.after > 0.6 * exact.after).all()


def test_what_units_want_least_is_beside_the_lowest_answers():
    net, scope = small()
    images = photos(3, height=24, width=24)
    found = scope.visualize("two:0-3", negative=True, photos=images, steps=20)
    maps = net.two(F.relu(net.one(images)))[:, :4].amin((0, 2, 3))
    assert torch.allclose(found.natural, maps)
    assert torch.allclose(found.peaks, net.two(F.relu(net.one(found.raw)))[range(4), range(4)].amin((1, 2)))
    assert "what they want least" in found.heading


def test_the_edge_of_an_early_layers_canvas_is_not_shown():
    scope = small(size=224)[1]
    found = scope.visualize("one:0", steps=2)
    assert found.raw.shape[2:] == (51, 51)
    assert found.picture().size == (31, 31)
    assert scope.visualize("one:0", steps=2, size=51).picture().size == (51, 51)


def test_several_classes_as_a_range():
    scope = small()[1]
    assert scope.visualize("@logits:0-2", steps=1).names == scope.visualize("@logits:0,1,2", steps=1).names
    assert (channel("two", 3) / 4).needs == channel("two", 3).needs


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        x = self.one(torch.cat([x, x.flip(3)]))
        return self.head(x.mean((2, 3)))[: len(x) // 2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: scope_of(seeded(Doubled())).visualize("one", units=[1]), "2 rows for one picture"),
        (lambda: small(fixed=True, size=32)[1].visualize("one:0"), "fails on an input of 32x32"),
        (lambda: small()[1].visualize(channel("@last_conv", 1)), "several layers"),
    ],
)
def test_what_cannot_be_meant_is_one_line(make, words):
    with pytest.raises(ConvscopeError, match=re.escape(words)) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_seeds_may_be_any_whole_number():
    scope = small()[1]
    image = photos(1, height=24, width=24)
    assert scope.caricature(image, "two", steps=1, seed=-1).raw.isfinite().all()
    assert scope.visualize("two:0", steps=1, seed=2**64).raw.isfinite().all()
    assert scope.dream(image.half(), "two", steps=1).raw.isfinite().all()


def test_caricatures_keep_to_the_budget_part_by_part():
    scope = small()[1]
    images = photos(5, height=24, width=24)
    whole, parts = (scope.caricature(images, "two", steps=3, budget=budget) for budget in (2048, 2))
    assert torch.equal(whole.raw, parts.raw)
    assert whole.names == parts.names
