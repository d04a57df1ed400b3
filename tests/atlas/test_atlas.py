"""An atlas that is opened: its units, their numbers and cards; which network it is of; and one that is not finished."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import nn

import convscope as cs
from convscope.atlas import build as building
from convscope.atlas.atlas import Atlas
from convscope.atlas.filters import filter_picture
from convscope.errors import Cancelled, ConvscopeError, UsageError
from convscope.instrument.record import record
from tests.atlas.conftest import COUNT, net_of, scope_of

NET = """
from torch import nn
def Net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
"""


@pytest.fixture(scope="module")
def maps(photos):
    """What every layer of the network makes of all photos, in their order."""
    scope = scope_of()
    files = sorted(photos.glob("*/*.png"), key=lambda file: file.relative_to(photos))
    images = scope.images([str(file) for file in files])[0]
    layers = ["4", "10"]
    with torch.no_grad(), record(scope.classifier.network.eval(), layers) as kept:
        scope.classifier(images)
    return {layer: kept[layer] for layer in layers}, [str(file.relative_to(photos)) for file in files]


@pytest.mark.parametrize("layer", ["4", "10"])
def test_a_units_figures_are_those_of_all_photos(made, maps, layer):
    found, names = maps
    flat = found[layer].flatten(2).double() if found[layer].ndim > 2 else found[layer].double()[:, :, None]
    labels = np.array(["abc".index(name[0]) for name in names])
    for unit in made.units(layer):
        own = flat[:, unit.number]
        best = own.amax(1)
        assert unit.mean == pytest.approx(float(own.mean()), abs=1e-6)
        assert unit.std == pytest.approx(float(own.std(correction=0)), abs=1e-6)
        assert unit.active == pytest.approx(float((own > 0).double().mean()))
        assert sorted(unit.maxima) == pytest.approx(sorted(best.tolist()), abs=1e-6)
        means = {name: float(own[labels == i].mean()) for i, name in enumerate("abc")}
        assert dict(unit.class_means) == pytest.approx(means, abs=1e-6)
        if unit.dead:
            continue
        order = sorted(range(COUNT), key=lambda i: (-float(best[i]), i))[:4]
        assert [patch.image for patch in unit.top] == [names[i] for i in order]
        assert [patch.class_name for patch in unit.top] == [names[i][0] for i in order]
        for patch, i in zip(unit.top, order, strict=True):
            assert patch.number == i
            if patch.row is None:
                assert layer == "10"
            else:
                assert float(found[layer][i, unit.number, patch.row, patch.col]) == pytest.approx(patch.value, abs=1e-6)
        for address, correlation in unit.neighbours:
            other = flat[:, made.unit(address).number].amax(1)
            assert correlation == pytest.approx(float(torch.corrcoef(torch.stack([best, other]))[0, 1]), abs=1e-6)


def test_units_are_listed_by_what_is_asked(made):
    every = made.units()
    assert [unit.address for unit in every] == sorted(
        (unit.address for unit in every), key=lambda a: (made.layers.index(a.split(":")[0]), int(a.split(":")[1]))
    )
    for order in ("mean", "std", "max", "active", "q50", "selectivity"):
        values = [getattr(unit, order) for unit in made.units(order=order) if getattr(unit, order) is not None]
        assert values == sorted(values, reverse=True)
    assert {unit.layer for unit in made.units("7")} == {"7"}
    assert [unit.address for unit in made.units("1", dead=True)] == ["1:2"]
    assert made.unit("1:5").duplicate_of == 1
    for_b = made.units(class_name="b")
    assert len(for_b) > 3
    assert {unit.class_name for unit in for_b} == {"b"}
    assert len(made.units()[2:5]) == 3
    table = made.units("4", order="selectivity", class_name="b").to_pandas()
    assert list(table["class"].unique()) == ["b"]
    assert list(table["selectivity"]) == sorted(table["selectivity"], reverse=True)
    assert list(table.columns)[:3] == ["address", "layer", "unit"]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda atlas: atlas.unit("4"), "'4' names no single unit: write LAYER:UNIT, such as 0:0"),
        (lambda atlas: atlas.unit("4:1,2"), "names no single unit"),
        (lambda atlas: atlas.unit("4:1@2,3"), "names no single unit"),
        (lambda atlas: atlas.unit("44:1"), "unknown layer '44'; .*of the atlas"),
        (lambda atlas: atlas.unit("4:8"), "unit 8 is out of range: 4 has units 0 to 7"),
        (lambda atlas: atlas.units(order="beauty"), "cannot be ordered by 'beauty': unit, mean"),
        (lambda atlas: atlas.units(class_name="d"), "unknown class 'd'"),
        (lambda atlas: atlas.units("44"), "unknown layer '44'"),
    ],
)
def test_what_cannot_be_asked_is_one_line(made, ask, words):
    with pytest.raises(UsageError, match=words) as caught:
        ask(made)
    assert "\n" not in str(caught.value)


def test_a_card_shows_all_and_a_notebook_shows_the_card(made):
    unit = made.units("4", dead=False)[0]
    card = unit.card()
    assert np.asarray(Image.open(io.BytesIO(unit._repr_png_()))).shape == np.asarray(card).shape
    plain = unit.card(control=False)
    both = unit.card(["guided", "deconvnet"], control=False)
    assert plain.height < card.height, "the control is a strip of its own"
    assert plain.height < both.height
    dead = made.unit("1:2")
    assert "dead" in repr(dead)
    assert dead.card().height < 150
    json.dumps(unit.about())
    assert unit.about()["top"][0]["image"] == unit.top[0].image
    assert "4:" in repr(unit)


def test_only_filters_that_are_pictures_are_shown():
    classifier = scope_of().classifier
    assert filter_picture(classifier, "0", 1).size == filter_picture(classifier, "1", 1).size == (150, 150)
    assert filter_picture(classifier, "2", 1) is None, "what a pool gives is no filter's answer"
    assert filter_picture(classifier, "3", 1) is None, "of six maps"
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 5, groups=6), nn.BatchNorm2d(6), nn.ReLU())
    grouped = scope_of(nn.Sequential(*net, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval())
    picture = np.asarray(filter_picture(grouped.classifier, "3", 4))
    weights = grouped.classifier.network[1].weight[4, 0]
    strongest = divmod(int(weights.abs().argmax()), 5)
    level = picture[strongest[0] * 30 + 15, strongest[1] * 30 + 15, 0]
    assert level == (255 if weights[strongest] > 0 else 0)


def test_a_network_in_python_has_to_be_given(made, photos):
    alone = Atlas(made.folder)
    assert alone.unit("4:0").mean == made.unit("4:0").mean, "numbers need no network"
    with pytest.raises(UsageError, match=r"is an atlas of a model in Python: give that too, as in Atlas\("):
        _ = alone.classifier
    for given in (scope_of(), scope_of().classifier, net_of()):
        assert Atlas(made.folder, given).classifier.mean == made.classifier.mean
    with pytest.raises(UsageError, match=r"is an atlas of another model: .* has other weights"):
        _ = Atlas(made.folder, scope_of(net_of(1))).classifier
    other = cs.Scope(net_of(), mean=0.1, std=0.3, size=32)
    with pytest.raises(UsageError, match="has other normalisation"):
        _ = Atlas(made.folder, other).classifier


def test_code_is_run_only_where_it_is_named(photos, tmp_path):
    (tmp_path / "net.py").write_text(NET)
    torch.manual_seed(0)
    weights = tmp_path / "weights.pt"
    torch.save(cs.load(f"{tmp_path}/net.py:Net", size=32).classifier.network.state_dict(), weights)
    spec = f"{tmp_path}/net.py:Net"
    net = cs.load(spec, weights=weights, size=32, mean=(0.5, 0.4, 0.3), progress=False)
    net.atlas(photos, out=tmp_path / "atlas", layers="1", workers=0)
    with pytest.raises(UsageError, match=r"which is code: if you trust it, name it"):
        Atlas(tmp_path / "atlas").unit("1:0").patch()
    patch = Atlas(tmp_path / "atlas", spec).unit("1:0").patch()  # with the weights, size and mean it had
    assert patch.size == (3, 3)


def test_a_model_by_name_is_found_again(photos, tmp_path):
    net = cs.load("convscope:efficientnet_lite0", progress=False)
    net.atlas(photos, out=tmp_path / "atlas", layers="@stage:0", top=2, workers=0)
    atlas = Atlas(tmp_path / "atlas")
    unit = atlas.units(order="max", dead=False)[0]
    assert unit.projection(0, "deconvnet").size == (7, 7)
    assert atlas.classifier.name == "convscope:efficientnet_lite0"


def test_an_atlas_that_is_only_begun_shows_what_is_known(photos, tmp_path, monkeypatch):
    monkeypatch.setitem(building.AT_ONCE, "cpu", 8)
    asked = iter([False, True])
    monkeypatch.setattr(building, "cancelled", lambda: next(asked))
    with pytest.raises(Cancelled, match="the same command goes on with it"):
        scope_of().atlas(photos, out=tmp_path / "atlas", layers="4", workers=0)
    atlas = Atlas(tmp_path / "atlas", scope_of())
    assert not atlas.complete
    assert "still being built" in repr(atlas)
    unit = atlas.units("4", dead=False)[0]
    assert max(patch.number for patch in unit.top) < 16
    assert len(unit.maxima) == 16
    assert unit.card().height > 500
    monkeypatch.undo()
    whole = scope_of().atlas(photos, out=tmp_path / "atlas", layers="4", workers=0)
    assert whole.complete
    assert len(whole.unit(unit.address).maxima) == COUNT


def test_figures_are_read_though_the_builder_has_moved_on(made, tmp_path):
    shutil.copytree(made.folder, tmp_path / "atlas")
    atlas = Atlas(tmp_path / "atlas")
    (file,) = atlas.meta["state"]
    (tmp_path / "atlas" / file).rename(tmp_path / "atlas" / "state-later.safetensors")
    with pytest.raises(ConvscopeError, match="its figures cannot be read"):
        _ = atlas.unit("4:0").maxima
    store = building.Store(tmp_path / "atlas", write=True)
    store.set_meta({"state": ["state-later.safetensors"]})
    store.close()
    assert np.array_equal(atlas.unit("4:0").maxima, made.unit("4:0").maxima)


def test_tables_as_parquet(made, tmp_path):
    files = made.to_parquet(tmp_path / "tables")
    found = {file.stem: parquet.read_table(file).to_pylist() for file in files}
    assert found["units"] == [
        {name: row[name] for name in found["units"][0]} for row in map(dict, made.store.units("unit", None, None, None))
    ]
    assert [row["name"] for row in found["images"]] == [row["name"] for row in made.store.images()]
    assert len(found["patches"]) == made.store.count("patches")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": "nowhere"}, "unknown layer 'nowhere'"),
        ({"layers": "4:1"}, "an atlas is of whole layers, leave out the units"),
        ({"project": ["grad-cam"]}, "grad-cam does not project a unit"),
        ({"top": 0}, "top is the number of patches of each unit, at least 1"),
        ({"columns": {"path": "x"}}, "--columns is of no use"),
        ({"beauty": 1}, "unknown option of a source 'beauty'"),
    ],
)
def test_what_cannot_be_made_is_one_line_and_leaves_nothing(photos, tmp_path, change, words):
    with pytest.raises(UsageError, match=words) as caught:
        scope_of().atlas(photos, out=tmp_path / "atlas", **{"layers": "4", **change})
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "atlas").exists()


def test_photos_and_sizes_that_cannot_be(photos, tmp_path):
    with pytest.raises(UsageError, match=r"there is no|no such"):
        scope_of().atlas(tmp_path / "nothing", out=tmp_path / "atlas", layers="4")
    with pytest.raises(UsageError, match="takes photos of any size, which cannot be one batch: load it with a size"):
        cs.Scope(net_of()).atlas(photos, out=tmp_path / "atlas", layers="4")
    with pytest.raises(UsageError, match=r"is no atlas: it has no atlas\.sqlite"):
        cs.Atlas(tmp_path)
    assert not (tmp_path / "atlas").exists()


class Scaled(nn.Module):
    """The same weights and the same words about itself, other code."""

    def __init__(self, by):
        super().__init__()
        self.a, self.by = nn.Conv2d(3, 4, 3), by

    def forward(self, x):
        return (self.a(x).relu() * self.by).mean((2, 3))


def test_a_network_that_answers_otherwise_is_another_but_for_what_devices_round(photos, tmp_path):
    torch.manual_seed(0)
    net = Scaled(1.0).eval()
    scope_of(net).atlas(photos, out=tmp_path / "atlas", layers="a", workers=0)
    for by, same in ((1.0, True), (1.004, True), (1.3, False)):
        other = Scaled(by).eval()
        other.load_state_dict(net.state_dict())
        atlas = Atlas(tmp_path / "atlas", scope_of(other))
        if same:
            assert atlas.classifier is not None
        else:
            with pytest.raises(UsageError, match="has other code"):
                _ = atlas.classifier


def test_a_sheet_of_units_shows_projections_beside_patches(made):
    picture = made.sheet("4", [0, 1, 2])
    assert picture.width > 3 * 2 * 3 * 60
    whole = made.sheet("1")
    assert whole.height > picture.height, "six units, the dead one crossed out"
    with pytest.raises(UsageError, match="no unit of 4 is named"):
        made.sheet("4", [])
    with pytest.raises(UsageError, match="out of range"):
        made.sheet("4", [99])


def test_a_card_shows_what_is_kept_where_the_network_is_not_at_hand(made, tmp_path):
    whole = made.units("4", dead=False)[0]
    whole.card()
    shutil.copytree(made.folder, tmp_path / "atlas")
    store = building.Store(tmp_path / "atlas", write=True)
    with store.transaction():
        store._open.execute("DELETE FROM renders WHERE what LIKE '%control' OR what = 'deconvnet'")
    store.close()
    alone = Atlas(tmp_path / "atlas").unit(whole.address)
    assert 600 < alone.card().height < whole.card().height
    with pytest.raises(UsageError, match="is an atlas of a model in Python"):
        alone.card(["deconvnet"])
