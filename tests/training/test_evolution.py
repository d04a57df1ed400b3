"""Evolution: the snapshots are right, and the training does not notice."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from convscope.atlas import snapshots
from convscope.atlas.snapshots import JUMP, SEAM, shown_field
from convscope.errors import UsageError
from convscope.images.sheet import MARGIN, MARK, contact_sheet, headed
from convscope.instrument.address import Address
from convscope.methods import display
from convscope.methods.guided import Guided
from convscope.models.classifier import Classifier
from convscope.scope import Scope
from convscope.training.evolution import LEGEND, Evolution
from tests.nets import Skip, classifier_of, photos, seeded, vgg_like
from tests.training.test_strongest import by_hand, in_batches

UNITS = ["2:1,3", "5:1-2", "12:3,2"]


def vgg():
    return classifier_of(vgg_like(), seed=2)


def watching(model, out, **options):
    return Evolution(model, **{"units": UNITS, "photos": photos(20, 3, 22, 27), "out": out, "at": 1, **options})


def halves(path):
    """The projection and the photo of a kept picture."""
    pair = np.array(Image.open(path))
    width = (pair.shape[1] - SEAM) // 2
    return pair[:, :width], pair[:, width + SEAM :]


def enlarged(picture, like):
    """A picture with each pixel a square, as large as another."""
    picture = np.asarray(picture)
    times = like.shape[0] // picture.shape[0]
    return picture.repeat(times, 0).repeat(times, 1)


# --- what a snapshot is


@pytest.mark.parametrize("method", ["deconvnet", "guided"])
@pytest.mark.parametrize("size", [3, 20])
def test_the_strongest_photo_and_the_neurons_own_projection(tmp_path, method, size):
    classifier, images = vgg(), photos(20, 3, 22, 27)
    watch = watching(classifier, tmp_path, photos=in_batches(images, size), method=method)
    taken = watch(1)
    assert [one.unit for one in taken] == ["2:1", "2:3", "5:1", "5:2", "12:3", "12:2"]
    for one in taken:
        layer, unit = one.unit.split(":")
        value, index, place = by_hand(classifier, classifier.network[int(layer)], int(unit), images)
        assert (one.index, one.photo, (one.row, one.col)) == (index, f"photo {index}", place)
        assert abs(one.value - value) < 1e-12
        assert (one.jumped, one.dead, one.empty) == (False, False, False)
        right = Scope(classifier).explain(images[index][None], method, target=f"{one.unit}@{one.row},{one.col}")
        top, left, bottom, right_side = one.field
        part = (slice(None), slice(top, bottom), slice(left, right_side))
        outside = right.raw[0].clone()
        outside[part] = 0
        assert not outside.any() or one.unit.startswith("12"), "the field is all of it"
        projection, photo = halves(tmp_path / one.picture)
        wanted = enlarged(display.picture(right.raw[0][part], right.traits), projection)
        assert np.abs(projection.astype(int) - wanted).max() <= 1
        assert np.array_equal(photo, enlarged(np.rint(255 * images[index][part].permute(1, 2, 0).numpy()), photo))


class Spy:
    """A method that keeps what it finds."""

    def __init__(self, method):
        self.method, self.traits, self.found = method, method.traits, []

    def run(self, classifier, images, target):
        self.found.append((target.index, self.method.run(classifier, images, target).raw))
        return self.method.run(classifier, images, target)


@pytest.mark.parametrize("form", ["functional", "clamp in place", "reused"])
def test_one_batch_a_layer_each_unit_seeded_where_it_is_strongest(tmp_path, form):
    classifier, images = classifier_of(Skip(form), seed=2), photos(9, 3, 24, 30)
    images[4:6] = 0.5  # nearly all places of these are equally strong
    layers = {"functional": "/relu:0-4 /relu#3:0-4", "clamp in place": "/clamp:0-4", "reused": "relu1:0-4 relu1#3:0-4"}
    layers = layers[form].split()
    watch = watching(classifier, tmp_path, units=layers, photos=images)
    watch.method = Spy(watch.method)
    taken = watch(1)
    assert [index for index, _ in watch.method.found] == [(0, 1, 2, 3, 4)] * len(layers)
    raws = torch.cat([raw for _, raw in watch.method.found])
    for one, raw in zip(taken, raws, strict=True):
        right = Scope(classifier).explain(
            images[one.index][None], "deconvnet", target=f"{one.unit}@{one.row},{one.col}"
        )
        torch.testing.assert_close(raw, right.raw[0], rtol=1e-12, atol=1e-14)
        assert one.value == pytest.approx(float(right.scores), rel=1e-12)


def test_equal_places_are_seeded_at_the_first(tmp_path):
    classifier, images = vgg(), torch.full((3, 3, 22, 27), 0.5, dtype=torch.float64)
    for one in watching(classifier, tmp_path, units=["2:0-3", "5:0-3"], photos=images)(1):
        assert one.index == 0
        raw = Scope(classifier).explain(images[:1], "deconvnet", target=f"{one.unit}@{one.row},{one.col}").raw[0]
        top, left, bottom, right = one.field
        projection, _ = halves(tmp_path / one.picture)
        if one.dead:
            raw = 0 * raw
        inside = raw[:, top:bottom, left:right]
        assert inside.count_nonzero() == raw.count_nonzero()
        assert np.abs(projection - enlarged(display.picture(inside, Guided.traits), projection).astype(int)).max() <= 1


def test_photos_of_several_sizes_and_a_layer_without_maps(tmp_path):
    classifier, sizes = classifier_of(Skip(), seed=2), [(24, 30), (40, 26), (24, 30), (33, 33)]
    images = [photos(1, 3, *size, seed=i) for i, size in enumerate(sizes)]
    options = {"units": ["relu3:0-7", "relu5:0-6"], "photos": lambda: ((["p"], image) for image in images)}
    taken = watching(classifier, tmp_path, **options)(1)
    assert len({sizes[one.index] for one in taken}) > 1
    for one in taken:
        layer, unit = one.unit.split(":")
        best = []
        for image in images:
            seen = []
            handle = getattr(classifier.network, layer).register_forward_hook(lambda _, __, out, s=seen: s.append(out))
            classifier(image)
            handle.remove()
            best.append(float(seen[0][0, int(unit)].detach().max()))
        assert one.value == pytest.approx(max(best), abs=1e-12)
        assert one.dead == (max(best) == 0)
        assert one.dead or one.index == best.index(max(best))
        assert (one.row is None) == (layer == "relu5")
        assert one.field[2] <= sizes[one.index][0]
        assert one.field[3] <= sizes[one.index][1]


@given(st.integers(0, 2**31), st.floats(0.1, 20))
@settings(deadline=None, max_examples=30)
def test_a_field_of_nearly_all_is_cut_to_what_holds_the_energy(seed, spread):
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(2, generator=generator) * torch.tensor([40, 50])
    rows, cols = torch.meshgrid(torch.arange(40.0), torch.arange(50.0), indexing="ij")
    raw = torch.exp(-((rows - centre[0]) ** 2 + (cols - centre[1]) ** 2) / spread**2)[None].repeat(3, 1, 1).double()
    classifier = Classifier(nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    photo = torch.zeros(3, 40, 50)
    top, left, bottom, right = shown_field(classifier, photo, Address("1"), (0, 0), raw)
    energy = raw.square()
    assert energy[:, top:bottom, left:right].sum() >= 0.95 * energy.sum()
    for smaller in ((top + 1, left, bottom, right), (top, left, bottom, right - 1)):
        lost = energy.sum() - energy[:, smaller[0] : smaller[2], smaller[1] : smaller[3]].sum()
        assert lost > 0.0125 * energy.sum(), "no row or column more than is needed"
    assert shown_field(classifier, photo, Address("0"), (7, 9), raw) == (6, 8, 9, 11), "a small one is left alone"
    assert shown_field(classifier, photo, Address("1"), (0, 0), 0 * raw) == (0, 0, 40, 50)


# --- the training


class Trained(nn.Module):
    """Dropout, BatchNorm, a frozen layer and one that is kept in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.frozen, self.kept = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
        self.conv, self.norm, self.drop = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Dropout2d(0.3)
        self.head = nn.Linear(6, 10)
        self.frozen.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        self.kept.eval()
        return self

    def forward(self, x):
        x = F.relu(self.kept(self.frozen(x)))
        x = F.relu(self.norm(self.conv(x)), inplace=True)
        return self.head(F.dropout(self.drop(x).amax((2, 3)), 0.2, self.training))


def digits():
    found = load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


def everything(model):
    """All that a snapshot may not change."""
    parts = dict(model.named_modules())
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "grad": {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()},
        "requires": [p.requires_grad for p in model.parameters()],
        "modes": {name: part.training for name, part in parts.items()},
        "hooks": {n: [*p._forward_hooks, *p._forward_pre_hooks, *p._backward_hooks] for n, p in parts.items()},
        "torch": torch.random.get_rng_state(),
        "python": random.getstate(),
        "numpy": [part.tolist() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
    }


def differing(now, before):
    """What is not bit for bit the same."""

    def same(a, b):
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    return [key for key in before if not same(now[key], before[key])]


def trained(watch_of=None):
    """A short training whose order, dropout and noise hang on all three random generators."""
    images, labels = digits()
    torch.manual_seed(1)
    np.random.seed(1)
    model = Trained()
    watch = watch_of(model, images[:60]) if watch_of else lambda *_: ()
    random.seed(1)  # not before: the tests' check of shapes draws from it, wherever a function is called
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    loader = DataLoader(TensorDataset(images[:320], labels[:320]), 64, shuffle=True)
    step = 0
    for _ in range(2):
        model.train()
        for x, y in loader:
            step += 1
            x = (x + 0.01 * float(np.random.rand()) + 0.01 * random.random()).clamp(0, 1)
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            before = everything(model)
            watch(step, x)
            assert differing(everything(model), before) == []
    return everything(model)


def noisy_photos(images):
    """Batches that draw from every generator, as an augmenting loader does."""

    def batches():
        for (part,) in DataLoader(TensorDataset(images), 16, shuffle=True):
            random.random(), np.random.rand()
            yield [str(i) for i in range(len(part))], part

    return batches


def test_training_with_and_without_it_is_bit_equal(tmp_path):
    plain = trained()
    taken = []

    def watch_of(model, images):
        watch = Evolution(model, photos=noisy_photos(images), out=tmp_path, at=[1, 4, 9], first_photo=True)
        taken.append(watch)
        return watch

    watched = trained(watch_of)
    assert {one.step for one in taken[0].snapshots} == {1, 4, 9}
    assert differing(watched, plain) == []


def test_a_failing_snapshot_leaves_the_training_as_it_was(tmp_path):
    torch.manual_seed(0)
    images, _ = digits()
    model = Trained().train()
    model(images[:8]).sum().backward()
    good = [True]

    def batches():
        yield "a", images[:1]
        random.random(), np.random.rand(), torch.rand(1)
        if not good[0]:
            raise RuntimeError("the disk is gone")

    watch = Evolution(model, units="conv:0", photos=batches, out=tmp_path, at=1)
    watch(1)
    good[0] = False
    before, files = everything(model), sorted(tmp_path.rglob("*"))
    with pytest.raises(RuntimeError, match="the disk is gone"):
        watch(2)
    assert differing(everything(model), before) == []
    assert sorted(tmp_path.rglob("*")) == files


def test_between_snapshots_nothing_runs(tmp_path):
    model = seeded(vgg_like())
    passes, read = [], []
    model.register_forward_pre_hook(lambda *_: passes.append(1))

    def batches():
        read.append(1)
        yield from in_batches(photos(4, 3, 22, 27), 2)()

    watch = Evolution(model, units=UNITS, photos=batches, out=tmp_path, at=lambda step: step == 5)
    passes.clear(), read.clear()
    assert [watch(step, None) for step in (1, 2, 3, 4)] == [()] * 4
    assert not passes
    assert not read
    assert len(watch(5)) == 6
    assert passes
    assert len(read) == 1, "one pass"


@pytest.mark.parametrize(
    ("at", "due"),
    [([1, 2, 5], [1, 2, 5]), (3, [0, 3, 6]), (range(2, 7, 2), [2, 4, 6]), (lambda step: step > 5, [6, 7])],
)
def test_when_it_is_due(tmp_path, at, due):
    watch = watching(vgg(), tmp_path, units="2:0", photos=photos(1, 3, 22, 27), at=at)
    for step in range(8):
        watch(np.int64(step))
    assert [one.step for one in watch.snapshots] == due


# --- jumps, and the sheet


def eyes(channel):
    """A network whose one unit sees how strong a colour is."""
    net = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    look_for(net, channel)
    return net


def look_for(net, channel):
    net[0].weight.data.zero_()
    if channel is not None:
        net[0].weight.data[0, channel] = 1


def coloured():
    """Three photos: a red, a green and a blue pixel."""
    images = torch.zeros(3, 3, 8, 9)
    for colour in range(3):
        images[colour, colour, 2 + colour, 3] = 1
    return images


def test_a_jump_is_where_another_photo_took_over(tmp_path):
    net = eyes(0)
    watch = Evolution(net, units="1:0", photos=coloured(), out=tmp_path, at=1, label="epoch")
    for epoch, channel in enumerate([0, 0, 2, None, 2, 1], 1):
        look_for(net, channel)
        watch(epoch)
    found = watch.snapshots
    assert [one.photo for one in found if not one.dead] == ["photo 0", "photo 0", "photo 2", "photo 2", "photo 1"]
    assert [one.jumped for one in found] == [False, False, True, False, False, True]
    assert [one.dead for one in found] == [False, False, False, True, False, False]
    assert [(one.row, one.col) for one in found[2:3]] == [(4, 3)]
    assert found[2].field == (4, 3, 5, 4)
    projection, photo = halves(tmp_path / found[2].picture)
    assert (photo == (0, 0, 255)).all()
    assert (projection == (128, 128, 255)).all(), "mid-grey but for blue"
    columns = np.array_split(np.array(watch.sheet())[:, MARGIN:-MARGIN], 6, axis=1)
    assert [(column == JUMP).all(2).sum() > 500 for column in columns] == [one.jumped for one in found]
    assert [(column == MARK).all(2).any() for column in columns] == [one.dead for one in found]


def test_a_cell_says_its_step_and_its_activation_on_lines_of_their_own(tmp_path, monkeypatch):
    drawn = []

    def sheet(tiles, labels, **settings):
        drawn.append(([["".join((line.before, line.name, line.after)) for line in own] for own in labels], settings))
        return contact_sheet(tiles, labels, **settings)

    monkeypatch.setattr(snapshots, "contact_sheet", sheet)
    net = eyes(0)
    watch = Evolution(net, units="1:0", photos=coloured(), out=tmp_path, at=1, label="epoch")
    for epoch, channel in enumerate([0, 2], 1):
        look_for(net, channel)
        watch(epoch)
    watch.sheet()
    ((labels, settings),) = drawn
    assert labels == [["epoch 1", "activation 1"], ["epoch 2", "activation 1"]]
    assert settings["title"] == "unit 1:0, another photo at epoch 2"


def test_the_sheet_has_a_row_a_unit_and_a_column_a_step(tmp_path):
    watch = watching(vgg(), tmp_path, units="2:0", photos=photos(2, 3, 22, 27))
    with pytest.raises(UsageError, match="no snapshots to show"):
        watch.sheet()
    watch(1)
    one = watch.sheet()
    watch(2)
    assert watch.sheet().width > 1.9 * one.width - 40
    watch = watching(vgg(), tmp_path, units=["2:0", "9:1"], photos=photos(2, 3, 22, 27))
    watch(3)  # the new unit has two empty places
    both = watch.sheet()
    heading = headed(Image.new("RGB", (both.width, 1)), LEGEND).height - 1
    tall, both = both.height, both.crop((0, heading, *both.size))
    beside = both.width > both.height  # strips of three snapshots stand side by side or below each other
    width, height = both.width // (2 if beside else 1), both.height // (1 if beside else 2)
    second = np.array(both)[both.height - height :, both.width - width :]
    assert (second[40:, : width * 2 // 3 - MARGIN] == 255).all()
    assert not (second[40:, width * 2 // 3 :] == 255).all()
    with pytest.raises(UsageError, match="no snapshots"):
        watch.sheet("features")
    assert watching(vgg(), tmp_path, units="9:1").sheet().height == tall, "earlier units stay"
