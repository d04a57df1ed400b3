"""Pictures of neurons: what is stored is what the whole photo's explanation shows there, and it is made once."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from convscope.atlas import pictures as module
from convscope.atlas.atlas import Atlas
from convscope.atlas.projections import Neuron, Projector, projecting
from convscope.atlas.renders import BEYOND, PHOTO, control_of
from convscope.errors import ConvscopeError, UsageError
from convscope.images import colour
from convscope.images.frame import to_image
from convscope.instrument.receptive_field import unit_box
from convscope.instrument.trace import trace
from convscope.methods import METHODS
from tests.atlas.conftest import COUNT, SIDE, net_of, scope_of

LOCAL = [name for name, method in METHODS.items() if method.traits.local]


class Smallest(nn.Module):
    """Answers by how many pixels there are: no window is as good as the whole."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 3, 3)

    def forward(self, x):
        x = F.relu(self.a(x) * x.shape[3] / SIDE)
        return F.relu(self.b(x)).mean((2, 3))


class Strict(Smallest):
    """Takes one size alone."""

    def forward(self, x):
        if x.shape[2:] != (SIDE, SIDE):
            raise ValueError("one size alone")
        return super().forward(x)


def expected(scope, canvas, method, layer, patch, unit, box):
    """The whole photo's explanation, cut to a box; beyond the canvas the colour that says so."""
    target = f"{layer}:{unit}" + ("" if patch.row is None else f"@{patch.row},{patch.col}")
    raw = scope.explain(canvas, method, target).raw[0]
    return placed(Image.fromarray(colour.pixels(cut(raw, box))), box)


def cut(values, box):
    top, left, bottom, right = box
    return values[:, max(top, 0) : bottom, max(left, 0) : right]


def placed(picture, box):
    top, left, bottom, right = box
    whole = Image.new("RGB", (right - left, bottom - top), BEYOND)
    whole.paste(picture, (max(-left, 0), max(-top, 0)))
    return whole


def same(picture, other):
    """To a rounding of one level: a window's convolutions add up in another order."""
    return picture.size == other.size and np.abs(np.asarray(picture, int) - np.asarray(other, int)).max() <= 1


def canvas_of(scope, photos, patch):
    return scope.images(str(photos / patch.image))[0]


@pytest.mark.parametrize("layer", ["0", "1", "4", "5", "7", "8", "10"])
def test_a_projection_is_the_whole_photos_cut_to_what_the_unit_sees(made, photos, layer):
    scope = scope_of()
    taken = trace(scope.classifier.network, scope.blank(), through=scope.classifier)
    units = made.units(layer, dead=False)
    for unit in [units[0], units[-1]]:
        found = made.pictures(layer, [unit.neuron(patch) for patch in unit.top], LOCAL)
        for patch in unit.top:
            canvas = canvas_of(scope, photos, patch)
            photo = found[unit.number, patch.number, PHOTO]
            assert same(photo.image, placed(to_image(cut(canvas[0], photo.box)), photo.box))
            for method in LOCAL:
                picture = found[unit.number, patch.number, method]
                assert picture.box == photo.box
                wanted = expected(scope, canvas, method, layer, patch, unit.number, photo.box)
                assert same(picture.image, wanted), (layer, method)
            top, left, bottom, right = photo.box
            if patch.row is None:
                continue
            status, ((first, last), (west, east)) = unit_box(taken, taken.event(layer).value, patch.row, patch.col)
            if status == "exact":
                assert (max(top, 0), min(bottom, SIDE)) == (first, last + 1)
                assert (max(left, 0), min(right, SIDE)) == (west, east + 1)


def test_fields_keep_their_size_at_the_border(made):
    sizes = {unit.patch(rank).size for unit in made.units("4", dead=False) for rank in range(4)}
    assert sizes == {(8, 8)}
    boxes = [
        made.pictures("4", [unit.neuron(patch)])[unit.number, patch.number, PHOTO].box
        for unit in made.units("4", dead=False)
        for patch in unit.top
    ]
    assert any(box[0] < 0 or box[1] < 0 or box[2] > SIDE or box[3] > SIDE for box in boxes), "none is at the border"


def test_a_field_of_everything_shrinks_to_where_the_energy_is(photos, tmp_path):
    net = nn.Sequential(
        nn.Conv2d(3, 4, 31, padding=15), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    with torch.no_grad():
        net[0].weight.zero_()
        net[0].weight[:, :, 15:18, 15:18] = 1  # of a large filter a corner counts
    atlas = scope_of(net).atlas(photos, out=tmp_path / "atlas", layers="1", workers=0)
    unit = atlas.unit("1:0")
    (picture,) = atlas.pictures("1", [unit.neuron(unit.top[0])]).values()
    top, left, bottom, right = picture.box
    assert (bottom - top, right - left) == (3, 3)
    assert (top, left) == (unit.top[0].row, unit.top[0].col)


def test_a_unit_at_the_bound_of_a_relu6_is_projected(photos, tmp_path):
    net = net_of(rectifier=nn.ReLU6)
    net[0].weight.data *= 20
    scope = scope_of(net)
    atlas = scope.atlas(photos, out=tmp_path / "atlas", layers="1", workers=0)
    bound = [unit for unit in atlas.units("1") if unit.max == 6]
    assert bound
    for unit in bound:
        patch = unit.top[0]
        picture = atlas.pictures("1", [unit.neuron(patch)], ["guided"])[unit.number, patch.number, "guided"]
        # What went into the rectifier is projected, as of the convolution.
        own = expected(scope, canvas_of(scope, photos, patch), "guided", "0", patch, unit.number, picture.box)
        assert same(picture.image, own)
        assert not picture.told["empty"]


@pytest.mark.parametrize("network", [Smallest, Strict])
def test_where_a_window_is_not_as_the_whole_the_whole_is_taken(photos, tmp_path, network):
    torch.manual_seed(0)
    scope = scope_of(network().eval())
    atlas = scope.atlas(photos, out=tmp_path / "atlas", layers="b", workers=0)
    assert (Projector(scope.classifier, "b").windows is None) == (network is Strict)
    unit = next(unit for unit in atlas.units("b") if unit.max > 0)
    for patch in unit.top[:3]:
        found = atlas.pictures("b", [unit.neuron(patch)], ["guided"])
        picture = found[unit.number, patch.number, "guided"]
        canvas = canvas_of(scope, photos, patch)
        assert same(picture.image, expected(scope, canvas, "guided", "b", patch, unit.number, picture.box))


def test_what_a_projection_carries_is_what_its_pixels_alone_excite(made, photos):
    """By hand: the photo with all but the strongest pixels of the projection grey, through the plain network."""
    scope, net = scope_of(), net_of()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (scope.classifier.mean, scope.classifier.std))

    def answer(pixels, patch, unit):
        with torch.no_grad():
            return float(net[:5](((pixels - mean) / std)[None])[0, unit.number, patch.row, patch.col])

    for unit in made.units("4", dead=False):
        found = made.pictures("4", [unit.neuron(patch) for patch in unit.top], ["guided"])
        for patch in unit.top:
            picture = found[unit.number, patch.number, "guided"]
            canvas = canvas_of(scope, photos, patch)
            raw = scope.explain(canvas, "guided", f"4:{unit.number}@{patch.row},{patch.col}").raw[0]
            energy = raw.double().square().sum(0)
            order = energy.flatten().argsort(descending=True)
            enough, kept = 0.0, torch.zeros(SIDE * SIDE, dtype=torch.bool)
            for place in order.tolist():
                if enough >= 0.95 * float(energy.sum()):
                    break
                kept[place] = True
                enough += float(energy.flatten()[place])
            shown = torch.where(kept.view(SIDE, SIDE), canvas[0], torch.tensor(0.5))
            grey = answer(torch.full_like(canvas[0], 0.5), patch, unit)
            share = (answer(shown, patch, unit) - grey) / (patch.value - grey)
            assert picture.carried.kept == pytest.approx(share, rel=1e-3, abs=1e-3)
            inside = cut(kept.view(1, SIDE, SIDE), picture.box).float().mean()
            assert picture.carried.pixels == pytest.approx(float(inside), abs=1e-6)
            assert picture.carried.chance >= 0 or picture.carried.chance < picture.carried.kept


def test_the_control_is_of_shuffled_weights_and_leaves_the_network_alone(made):
    scope = scope_of()
    projector = Projector(scope.classifier, "4")
    before = {name: value.clone() for name, value in scope.classifier.state_dict().items()}
    other = projector.control.classifier
    for (name, weight), own in zip(
        other.network.named_parameters(), scope.classifier.network.parameters(), strict=True
    ):
        torch.testing.assert_close(weight.flatten().sort().values, own.flatten().sort().values, msg=name)
        assert weight.numel() < 4 or not torch.equal(weight, own), name
    assert all(torch.equal(before[name], value) for name, value in scope.classifier.state_dict().items())
    unit = made.units("4", dead=False)[0]
    found = made.pictures("4", [unit.neuron(unit.top[0])], ["guided"], control=True)
    plain, control = (found[unit.number, unit.top[0].number, what] for what in ("guided", control_of("guided")))
    assert plain.box == control.box
    assert not same(plain.image, control.image)


def test_pictures_are_made_once(photos, made, tmp_path, monkeypatch):
    shutil.copytree(made.folder, tmp_path / "atlas")
    atlas = Atlas(tmp_path / "atlas", scope_of())
    unit = atlas.units("7", dead=False)[0]
    neurons = [unit.neuron(patch) for patch in unit.top]
    atlas.pictures("7", neurons, ["guided"])
    first = {key: np.asarray(one.image) for key, one in atlas.pictures("7", neurons, ["deconvnet"]).items()}
    monkeypatch.setattr(module, "render", lambda *_, **__: pytest.fail("made again"))
    again = Atlas(tmp_path / "atlas")  # nothing is to be made: no model is needed
    found = again.pictures("7", neurons, ["guided", "deconvnet"])
    assert all(np.array_equal(np.asarray(found[key].image), value) for key, value in first.items())
    assert {what for _, _, what in found} >= {PHOTO, "guided", "deconvnet"}


def test_all_projections_at_once_are_those_made_one_by_one(photos, made, tmp_path):
    atlas = scope_of().atlas(photos, out=tmp_path / "atlas", layers=["1", "4"], top=4, project=["guided"], workers=0)
    assert atlas.methods == ("guided",)
    for layer in ("1", "4"):
        for unit in atlas.units(layer):
            rows = atlas.store.renders(atlas.layer(layer)["layer"], unit.number)
            assert {what for _, what in rows} == (set() if unit.dead else {PHOTO, "guided"})
            if unit.dead:
                continue
            for rank in range(4):
                assert same(unit.projection(rank, "guided"), made.unit(unit.address).projection(rank, "guided"))


def test_where_nothing_can_be_kept_pictures_are_made_all_the_same(photos, made, tmp_path, monkeypatch):
    shutil.copytree(made.folder, tmp_path / "atlas")
    atlas = Atlas(tmp_path / "atlas", scope_of())

    def full(*_, **__):
        raise ConvscopeError("database or disk is full")

    monkeypatch.setattr(module.Store, "put", full)
    unit = atlas.units("3", dead=False)[0]
    picture = unit.projection(0, "guided")
    assert same(picture, made.unit(unit.address).projection(0, "guided"))
    monkeypatch.setattr(module, "render", lambda *_, **__: pytest.fail("made again"))
    assert same(unit.projection(0, "guided"), picture)


def test_photos_that_are_gone_or_others_are_said_to_be(photos, made, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    scope = scope_of()
    atlas = scope.atlas(tmp_path / "photos", out=tmp_path / "atlas", layers="4", top=COUNT, workers=0)
    unit = atlas.units("4", dead=False)[0]
    gone, other = unit.top[0], unit.top[1]
    (tmp_path / "photos" / gone.image).unlink()
    Image.new("RGB", (SIDE, SIDE)).save(tmp_path / "photos" / other.image)
    with pytest.raises(ConvscopeError, match=f"{gone.image} cannot be read any more from .*photos: no such file"):
        unit.patch(0)
    with pytest.raises(ConvscopeError, match="is not the photo that the atlas was made of"):
        unit.patch(1)
    assert unit.patch(2).size == (8, 8)
    assert unit.card().width > 800, "the others are shown"
    assert set(atlas.troubles) >= {gone.number, other.number}


def test_methods_that_do_not_project_a_unit_are_refused():
    for name in ("grad-cam", "occlusion", "smoothgrad", "filters"):
        with pytest.raises(UsageError, match=f"{name} does not project a unit .*guided"):
            projecting([name])
    assert set(projecting(LOCAL)) == set(LOCAL)


def test_patterns_are_made_for_what_is_alive_and_shown(photos, tmp_path):
    atlas = scope_of().atlas(photos, out=tmp_path / "atlas", layers="1", workers=0)
    atlas.patterns(units=[0, 2, 3])
    assert atlas.pattern("1", 2) is None, "dead"
    assert atlas.pattern("1", 1) is None, "not asked for"
    assert atlas.pattern("1", 0).image.width > 20
    assert atlas.pattern("1", 0).told["verdict"] == ""


def test_a_neuron_knows_its_place():
    assert Neuron(1, 2, None, None, 0.5).place is None
    assert Neuron(1, 2, 0, 3, 0.5).place == (0, 3)
