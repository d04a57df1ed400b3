"""Atlases whose photos were moved or have odd names, of networks that say odd things of themselves."""

import os
import shutil

import pytest
import torch
from torch import nn

from convscope.atlas.atlas import Atlas
from tests.atlas.conftest import net_of, scope_of


class Telling(nn.Module):
    """Its words hold an address, and its state something that is no tensor."""

    def __init__(self):
        super().__init__()
        self.a, self.rule = nn.Conv2d(3, 4, 3), lambda: None

    def extra_repr(self):
        return repr(self.rule)

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass

    def forward(self, x):
        return self.a(x).relu().mean((2, 3))


def test_photos_that_were_moved_are_found_where_they_are_named(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "before")
    scope_of().atlas(tmp_path / "before", out=tmp_path / "atlas", layers="4", workers=0)
    os.rename(tmp_path / "before", tmp_path / "after")
    atlas = scope_of().atlas(tmp_path / "after", out=tmp_path / "atlas", layers="4", workers=0)
    assert atlas.units("4", dead=False)[0].patch().size == (8, 8)


def test_what_is_projected_later_is_what_is_shown(photos, tmp_path):
    scope_of().atlas(photos, out=tmp_path / "atlas", layers="1", workers=0)
    assert Atlas(tmp_path / "atlas").methods == ("guided",)
    scope_of().atlas(photos, out=tmp_path / "atlas", layers="1", project=["deconvnet"], workers=0)
    assert Atlas(tmp_path / "atlas").methods == ("deconvnet",)
    scope_of().atlas(photos, out=tmp_path / "atlas", layers="1", workers=0)
    assert Atlas(tmp_path / "atlas").methods == ("deconvnet",)


def test_names_that_are_no_utf_8_are_photos_like_any(photos, tmp_path):
    odd = os.fsencode(tmp_path) + b"/d\xe9"
    shutil.copytree(os.fsencode(photos), odd)
    with open(odd + b"/a/bad\xe9.png", "wb") as file:
        file.write(b"no photo")
    shutil.copy(odd + b"/a/00.png", odd + b"/a/more\xe9.png")
    atlas = scope_of().atlas(os.fsdecode(odd), out=tmp_path / "atlas", layers="4", top=40, workers=0)
    assert len(atlas.meta["refused"]) == 1
    unit = atlas.units("4", dead=False)[0]
    rank = next(i for i, patch in enumerate(unit.top) if "more" in patch.image)
    assert unit.patch(rank).size == (8, 8)
    assert "more" in str(unit.about()["top"][rank]["image"])


def test_a_network_that_tells_odd_things_of_itself_is_still_itself(photos, tmp_path):
    torch.manual_seed(0)
    net, other = Telling().eval(), Telling().eval()
    other.a.load_state_dict(net.a.state_dict())
    assert repr(net) != repr(other)
    scope_of(net).atlas(photos, out=tmp_path / "atlas", layers="a", workers=0)
    assert Atlas(tmp_path / "atlas", scope_of(other)).units("a")[0].patch().size == (3, 3)


@pytest.mark.parametrize("spread", [0.0, 1e-3])
def test_a_unit_that_hardly_changes_has_a_card(photos, tmp_path, spread):
    net = net_of()
    net[3].weight.data[0] *= spread
    net[3].bias.data[0] = 100.0
    atlas = scope_of(net).atlas(photos, out=tmp_path / "atlas", layers="3", workers=0)
    unit = atlas.unit("3:0")
    assert unit.dead == (spread == 0)
    assert float(unit.maxima.max() - unit.maxima.min()) < 1e-2
    assert unit.card(control=False).width > 800
