"""A unit across checkpoints: its strongest photo at each, framed where another took over."""

import numpy as np
import pytest
from PIL import Image

from convscope.atlas.evolution import evolution, sheet, stage_folder, stages_of
from convscope.atlas.snapshots import SEAM
from convscope.errors import UsageError
from tests.atlas.conftest import net_of, scope_of


def test_a_unit_at_each_epoch_with_its_jumps(made, photos, tmp_path):
    out = tmp_path / "atlas"
    nets = {1: net_of(), 2: net_of(), 5: net_of()}
    nets[2][0].weight.data *= -1  # what excited it no longer does
    nets[5][0].weight.data[1], nets[5][0].bias.data[1] = 0, -1  # dead
    whole = scope_of().atlas(photos, out=out, layers="1", workers=0)
    for epoch, net in nets.items():
        scope_of(net).atlas(photos, out=stage_folder(out, epoch), layers="1", workers=0)
    stages = stages_of(whole)
    assert list(stages) == [1, 2, 5]
    for epoch, atlas in stages.items():
        atlas._pictures.given = scope_of(nets[epoch])
    found = evolution(stages, ["1:1", "1:0"], "guided", tmp_path / "kept")
    assert [(one.unit, one.step) for one in found] == [("1:1", 1), ("1:1", 2), ("1:1", 5), *[("1:0", i) for i in nets]]
    assert [one.dead for one in found[:3]] == [False, False, True]
    assert [one.jumped for one in found[:3]] == [False, True, False]
    for one in found:
        top = stages[one.step].unit(one.unit).top[0]
        assert (one.value, one.photo, one.row, one.col) == (top.value, top.image, top.row, top.col)
    with Image.open(tmp_path / "kept" / found[0].picture) as opened:
        pair = np.asarray(opened)
    side = (pair.shape[1] - SEAM) // 2
    unit = stages[1].unit("1:1")
    seen = np.asarray(unit.patch(0).resize((side, pair.shape[0]), Image.Resampling.NEAREST))
    assert np.array_equal(pair[:, side + SEAM :], seen)
    drawn = sheet(tmp_path / "kept", found)
    assert drawn.height > 300


def test_without_checkpoints_there_is_nothing_to_follow(made, tmp_path):
    assert stages_of(made) == {}
    with pytest.raises(UsageError, match="there are no checkpoints: train with --keep 1"):
        evolution({}, ["1:1"], "guided", tmp_path)
