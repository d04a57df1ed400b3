"""Sanity checks on networks whose maps are known without any method."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from skimage.feature import hog
from skimage.metrics import structural_similarity
from torch import nn

from convscope import Scope
from convscope.errors import Cancelled, UsageError
from convscope.instrument.randomised import randomised_layers
from convscope.instrument.weighted import weighted_layers
from convscope.methods import METHODS
from convscope.models.classifier import Classifier
from convscope.progress import reporting
from convscope.studies import configure
from convscope.studies.likeness import Sight
from convscope.studies.sanity_course import CASCADE, SEEN, Course, Step, likeness, mean, plan
from convscope.studies.sanity_tables import findings, on_few, remarks, verdict
from convscope.studies.subject import Album
from tests.nets import Skip, photos, seeded, vgg_like

HEIGHT, WIDTH = 18, 21
QUICK = {"methods": ("guided",), "steps": 2}


def linear(channels=3):
    return seeded(nn.Sequential(nn.Flatten(), nn.Linear(channels * HEIGHT * WIDTH, 4)))


def run(net, images, seed=0, label=None, **settings):
    classifier = Classifier(net, channels=images.shape[1])
    return configure("sanity", settings).run(Album.of(classifier, images, label=label), seed)


def rows(table, **wanted):
    return [row for row in table.records() if all(row[name] == value for name, value in wanted.items())]


def spearman(one, other):
    return scipy.stats.spearmanr(one.ravel(), other.ravel()).statistic


def picture(map):
    low, high = map.min(), np.percentile(map, 99)
    return np.clip((map - low) / (high - low), 0, 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_all_figures_of_a_linear_network_whose_gradient_is_its_weights(channels):
    net = linear(channels)
    images = photos(3, channels, HEIGHT, WIDTH)
    found = run(net, images, 7, methods=("gradient",), cell=3)
    classifier = Classifier(net, channels=channels)
    classes = net(images).argmax(1).tolist()
    layers = weighted_layers(classifier, images)
    other = randomised_layers(classifier, layers, 7).network[1].weight
    assert sorted(other.flatten().tolist()) == sorted(net[1].weight.flatten().tolist())
    before, after = (w.detach().numpy().reshape(4, channels, HEIGHT, WIDTH)[classes] for w in (net[1].weight, other))
    shown = found.table("photos").records()
    assert [row["order"] for row in shown] == ["cascading"] * 3 + ["independent"] * 3  # the one layer is in both
    for i, row in enumerate(shown[:3]):
        one, two = np.abs(before[i]).sum(0), np.abs(after[i]).sum(0)
        assert row["rank"] == pytest.approx(spearman(one, two))
        assert row["signed rank"] == pytest.approx(spearman(before[i].sum(0), after[i].sum(0)))
        a, b = picture(one), picture(two)
        how = {"data_range": 1, "gaussian_weights": True, "use_sample_covariance": False}
        assert row["SSIM"] == pytest.approx(structural_similarity(a, b, **how))
        features = [hog(p, pixels_per_cell=(3, 3)) for p in (a, b)]
        assert row["HOG"] == pytest.approx(np.corrcoef(*features)[0, 1])
        rest = [spearman(np.abs(before[j]).sum(0), two) for j in range(3) if j != i]
        assert row["other photos"] == pytest.approx(np.mean(rest))
    summary = found.table("methods").records()[0]
    for name in SEEN:
        assert summary[name] == pytest.approx(np.mean([row[name] for row in shown[:3]]))
    assert summary["verdict"] == "passes"


class Heads(nn.Module):
    """Two units and two heads: one's weights are all positive, the other's all negative.

    Guided backpropagation sends nothing through the second head, whose signal is negative, and through the first a
    positive multiple of its unit's weights: shuffling the heads cannot change the order of places. The gradient is the
    mixture of both units' weights in the proportion of the heads' weights.
    """

    def __init__(self):
        super().__init__()
        places = 3 * HEIGHT * WIDTH
        self.a, self.b = nn.Linear(places, 1), nn.Linear(places, 1)
        self.up, self.down = nn.Linear(1, 5, bias=False), nn.Linear(1, 5, bias=False)
        generator = torch.Generator().manual_seed(0)
        for layer in (self.a, self.b):  # positive, so that both units are active
            layer.weight.data = torch.rand(1, places, generator=generator)
            layer.bias.data.fill_(0.1)
        self.up.weight.data = torch.tensor([[4.0], [0.1], [1.0], [0.3], [2.0]])
        self.down.weight.data = -torch.tensor([[0.2], [3.0], [0.5], [1.5], [0.1]])

    def forward(self, x):
        x = x.flatten(1)
        a, b = self.a(x).relu(), self.b(x).relu()
        return self.up(a) + self.down(b)


def test_guided_does_not_notice_later_weights_where_it_provably_cannot_and_the_gradient_does():
    net = Heads().double()
    images = photos(3, 3, HEIGHT, WIDTH)
    found = run(net, images, 1, methods=("guided", "gradient"), steps=None, label=0)
    layers = weighted_layers(Classifier(net), images)
    assert [layer.path for layer in layers] == ["a", "b", "up", "down"]
    cascade = found.table("cascading")

    def at(method, count):
        return next(row["mean"] for row in rows(cascade, method=method, layers=count, measure="rank"))

    for count in (1, 2, 3):  # both heads, and the unit that guided never sees
        assert at("guided", count) == pytest.approx(1, abs=1e-12)
    shuffled = randomised_layers(Classifier(net), layers, 1).network
    a, b = (layer.weight.detach().numpy() for layer in (net.a, net.b))
    trained = np.abs(net.up.weight[0].item() * a + net.down.weight[0].item() * b).reshape(3, -1).sum(0)
    for count, up in ((1, net.up), (2, shuffled.up)):
        mixed = np.abs(up.weight[0].item() * a + shuffled.down.weight[0].item() * b).reshape(3, -1).sum(0)
        assert at("gradient", count) == pytest.approx(spearman(trained, mixed))
    assert at("gradient", 2) < 0.5
    # Only the unit's own weights change what guided shows, and to what is known too.
    own = shuffled.a.weight.detach().numpy().reshape(3, -1).sum(0)
    assert at("guided", 4) == pytest.approx(spearman(a.reshape(3, -1).sum(0), own))
    alone = found.table("independent")
    assert [rows(alone, method="guided", layers=n, measure="rank")[0]["layer"] for n in (1, 2, 3, 4)] == [
        *("down", "up", "b", "a")
    ]
    verdicts = dict(zip(found.table().column("method"), found.table().column("verdict"), strict=True))
    assert verdicts == {"guided": "fails", "gradient": "passes"}
    assert any(line.startswith("guided fails: over the cascade") for line in found.findings)


class Known(nn.Conv2d):
    """Begins with weights that its size tells."""

    def reset_parameters(self):
        with torch.no_grad():
            for weight in (self.weight, self.bias):
                numbers = np.random.default_rng(weight.numel()).normal(0, 0.3, tuple(weight.shape))
                weight.copy_(torch.from_numpy(numbers))


def test_cascading_and_independent_by_force():
    """Every network built by hand, its gradient by autograd. Quantus' MPRT (0.6.0) says the same of this, to 1e-15."""

    def built(random):
        net = nn.Sequential(
            *(Known(3, 6, 3, padding=1), nn.ReLU(), Known(6, 8, 3, stride=2), nn.ReLU()),
            *(Known(8, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        ).double()
        for at, path in enumerate("024"):
            if at not in random:
                for weight in net[int(path)].parameters():
                    weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(at)).double() / 3
            else:
                net[int(path)].reset_parameters()  # in float64, as the study finds it
        return net

    images = photos(3, 3, HEIGHT, WIDTH)
    classes = built(())(images).argmax(1)

    def gradient(net):
        pixels = images.clone().requires_grad_()
        net(pixels).gather(1, classes[:, None]).sum().backward()
        return pixels.grad.abs().sum(1).numpy()

    trained = gradient(built(()))
    found = run(built(()), images, methods=("gradient",), steps=None, how="reset")
    shown = found.table("photos")
    ways = {"cascading": [{2}, {1, 2}, {0, 1, 2}], "independent": [{2}, {1}, {0}]}
    for order, sets in ways.items():
        for count, random in enumerate(sets, 1):
            by_force = [spearman(a, b) for a, b in zip(trained, gradient(built(random)), strict=True)]
            assert [row["rank"] for row in rows(shown, order=order, layers=count)] == pytest.approx(by_force)


def course(values, depth=10):
    """A cascade of one method with rank correlations "steps photos"; nothing else is known."""
    likeness = np.full((*np.shape(values), len(SEEN)), np.nan)
    likeness[..., 0] = values
    steps = [Step(CASCADE, count, ()) for count in np.linspace(1, depth, len(values)).round().astype(int).tolist()]
    return Course(CASCADE, depth, steps, {"m": likeness}, {"m": []})


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([[0.8, 0.9, 0.7] * 2, [0.5, 0.6, 0.4] * 2], "fails"),  # photos' means .65, .75, .55
        ([[0.2, 0.3, 0.1] * 2, [0.0, 0.1, -0.1] * 2], "passes"),
        ([[0.2, 0.9, 0.5] * 2, [0.2, 0.9, 0.5] * 2], "unclear"),  # their mean is .53, give or take .3
        ([[0.2, 0.9, 0.5], [0.2, 0.9, 0.5]], "fails"),  # of three photos the mean alone is left
        ([[-0.8, -0.9, -0.7] * 2, [-0.8, -0.9, -0.7] * 2], "fails"),  # the negative of a picture is the same picture
        ([[0.9, np.nan, 0.9], [0.9, np.nan, 0.8]], "fails"),
        ([[0.4, 0.3], [0.5, 0.4]], "passes"),
        ([[np.nan] * 3] * 2, "nothing to compare"),
    ],
)
def test_verdicts_by_the_interval_of_the_mean_over_the_cascade(values, word):
    assert verdict(course(values), "m", 0.5) == word


def test_a_failure_is_told_apart_from_maps_that_are_alike_on_any_photo():
    own = course([[0.9, 0.9, 0.9], [0.8, 0.8, 0.8], [0.6, 0.6, 0.6]])
    own.likeness["m"][..., -1] = 0.1
    said = findings(own, {"m": "fails"}, 0.5)
    assert len(said) == 1
    assert "keep a rank correlation of 0.767 (0.767 to 0.767)" in said[0]
    assert "0.8 with 6 of 10 layers random" in said[0]
    assert "such as its edges, not what the network knows" in said[0]
    own.likeness["m"][..., -1] = 0.7
    assert "with its maps of the other photos it is 0.7: they are much alike" in findings(own, {"m": "fails"}, 0.5)[0]


def test_what_turns_round_and_what_few_photos_have_is_said():
    told = findings(course([[-0.9, -0.8] * 3] * 2), {"m": "fails"}, 0.5)[0]
    assert "strong where it was weak" in told
    assert "would look about the same" not in told
    assert "unclear, 0.5 or -0.5 lying" in findings(course([[-0.9, -0.1] * 3]), {"m": "unclear"}, 0.5)[0]
    values = np.full((1, 20), np.nan)
    values[0, 3] = 0.9
    assert on_few(20, course(values), ["m"]) == [
        "m could be compared on 1 of 20 photos: its verdict is by their mean alone"
    ]
    assert on_few(20, course([[0.1] * 20]), ["m"]) == []


def test_a_mean_leaves_out_what_is_not_there():
    values = np.array([[1.0, np.nan], [3.0, np.nan]])
    np.testing.assert_array_equal(mean(values, 0), [2.0, np.nan])


def test_the_steps_are_spread_over_the_depth_with_both_ends():
    layers = [f"layer {i}" for i in range(50)]
    found = plan(layers, 6, True)
    assert [step.count for step in found] == [1, 11, 21, 30, 40, 50] * 2
    assert found[1].layers == tuple(layers[39:])  # the last eleven
    assert found[7].layers == (layers[39],)
    assert [step.count for step in plan(layers[:3], None, False)] == [1, 2, 3]
    assert [step.count for step in plan(layers[:3], 9, False)] == [1, 2, 3]
    assert [step.count for step in plan(layers, 1, False)] == [50]
    assert [step.count for step in plan(layers, 2, False)] == [1, 50]


class Silent(nn.Module):
    """Its class activation map is zero everywhere: the class speaks against all there is."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 1, 3, padding=1), nn.Linear(1, 2)
        self.conv.weight.data.fill_(1.0)
        self.head.weight.data = torch.tensor([[-1.0], [-1.0]])

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def test_a_map_that_is_zero_everywhere_is_not_counted_and_said_so():
    found = run(Silent().double(), photos(3, 3, HEIGHT, WIDTH), methods=("grad-cam",), independent=False)
    assert found.table("methods").records()[0]["verdict"] == "nothing to compare"
    assert found.table("methods").records()[0]["photos"] == 0
    assert len(found.table("cascading")) == 0
    assert "grad-cam: 6 of 6 comparisons are not counted, a map being the same everywhere" in found.notes
    found.picture("cascading-maps")
    found.picture("cascading-likeness")


def test_a_map_that_becomes_blank_has_nothing_in_common_with_what_it_was():
    rng = np.random.default_rng(0)
    map, other = rng.random((2, 30, 30))
    trained = [Sight.of(map, map - 0.5, 4), Sight.of(other, other, 4), Sight.of(np.zeros((30, 30)), None, 4)]
    now = [
        Sight.of(np.full((30, 30), 2.0), np.zeros((30, 30)), 4),
        Sight.of(np.full((30, 30), np.nan), None, 4),
        trained[0],
    ]
    blank, lost, never = (dict(zip(SEEN, row, strict=True)) for row in likeness(trained, now))
    assert (blank["rank"], blank["signed rank"], blank["blank"]) == (0, 0, 1)
    assert math.isnan(blank["SSIM"])
    assert math.isnan(lost["rank"])  # what is no number says nothing
    assert lost["blank"] == 0
    assert math.isnan(never["rank"])  # there was nothing
    assert math.isnan(never["blank"])
    own = course([[0.9] * 6, [0.0] * 6])
    own.likeness["m"][..., list(SEEN).index("blank")] = [[0] * 6, [1] * 6]
    assert verdict(own, "m", 0.5) == "passes"
    told = remarks(
        [METHODS["grad-cam"]()], None, [replace(own, likeness={"grad-cam": own.likeness["m"]})], (224, 224), 16
    )
    assert "of 12 maps each, these became the same everywhere, and count as unlike: 6 of grad-cam" in told


def test_the_users_network_is_as_it_was_and_the_same_seed_gives_the_same(tmp_path):
    net = seeded(vgg_like(), dtype=torch.float32).train()
    images = photos(2, 3, 22, 27, dtype=torch.float32)
    before = copy.deepcopy(net.state_dict())
    torch.manual_seed(5)
    random = torch.get_rng_state()
    found = run(net, images, 3, **QUICK)
    again = run(net, images, 3, **QUICK)
    other = run(net, images, 4, independent=False, **QUICK)
    assert net.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert [table.csv() for table in found.tables] == [table.csv() for table in again.tables]
    assert found.table("cascading").csv() != other.table("cascading").csv()
    assert [figure.name for figure in found.figures] == [
        f"{order}-{what}" for order in ("cascading", "independent") for what in ("maps", "likeness")
    ]
    other.save(tmp_path)
    assert {file.name for file in tmp_path.glob("*.png")} == {"cascading-maps.png", "cascading-likeness.png"}
    assert json.loads((tmp_path / "result.json").read_text())["settings"]["cell"] == 2


def test_it_ends_when_it_is_cancelled_and_leaves_the_network_alone():
    net = seeded(vgg_like())
    before = copy.deepcopy(net.state_dict())
    asked = iter([False] * 6)
    with reporting(cancel=lambda: next(asked, True)), pytest.raises(Cancelled):
        run(net, photos(2, 3, 22, 27), **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_either_way_of_randomising_and_every_cheap_method_on_a_network_with_a_skip():
    scope = Scope(seeded(Skip(channels=1)), classes=list("abcd"), channels=1)
    images = photos(2, 1, 24, 30)
    found = scope.study("sanity", images, methods="all", steps=2, how="reset", passes=2, independent=False)
    assert len(found.table("methods")) == 13
    said = "\n".join(found.notes)
    assert "left out for what they cost: ablation, occlusion, rise, score-cam" in said
    assert "eigen-cam explains no class: it can only notice what becomes of its own layer" in said
    assert "integrated-gradients, smoothgrad, vargrad: with 2 gradients each" in said
    shuffled = scope.study("sanity", images, methods="gradient", steps=2, independent=False)
    ranks = [rows(one.table("methods"), method="gradient")[0]["rank"] for one in (found, shuffled)]
    assert ranks[0] != ranks[1]


def test_maps_too_small_for_a_window_lack_that_figure_and_a_note_says_so():
    net = seeded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 9, 3)))
    found = run(net, photos(1, 3, 8, 9), methods=("gradient",))
    row = found.table("methods").records()[0]
    assert row["rank"] is not None
    assert row["SSIM"] is None
    assert row["HOG"] is not None  # three cells of 2 pixels fit
    assert row["other photos"] is None
    assert any("maps of 8x9 are too small for SSIM" in note for note in found.notes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"methods": "grad-cm"}, "unknown method 'grad-cm'"),
        ({"methods": "activations"}, "activations does not make a map of a photo"),
        ({"steps": "0"}, "sanity: steps must be at least 1, got 0"),
        ({"steps": "few"}, "sanity: steps is 'few'"),
        ({"below": "1"}, "sanity: below is a rank correlation between 0 and 1, got 1.0"),
        ({"passes": "1"}, "sanity: passes must be at least 2, got 1"),
        ({"cell": "0"}, "sanity: cell must be at least 1, got 0"),
        ({"how": "anew"}, "sanity: how is 'anew', not one of shuffle, reset"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_needed(settings, said):
    with pytest.raises(UsageError) as refused:
        configure("sanity", settings)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_a_network_without_weights_cannot_forget():
    bare = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(UsageError, match="has no weights that could be randomised"):
        run(bare, photos(1, 3, HEIGHT, WIDTH), methods=("gradient",))
