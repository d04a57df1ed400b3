"""Two atlases beside each other: units that stayed, moved, died; by what they answer to the same photos."""

import numpy as np
import pytest
import torch

from convscope.atlas.compare import compare, correlations
from convscope.errors import UsageError
from tests.atlas.conftest import net_of, scope_of


def atlas_of(net, photos, folder, **options):
    return scope_of(net).atlas(photos, out=folder, **{"layers": ["1", "4"], "top": 4, "workers": 0, **options})


def test_correlations_are_pearsons_over_what_both_saw():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(40, 3)).astype(np.float32), rng.normal(size=(40, 5)).astype(np.float32)
    before[3], after[7] = np.nan, np.nan
    after[:, 2] = 4  # never changes
    after[7, 2] = np.nan
    seen = np.setdiff1d(np.arange(40), [3, 7])
    found = correlations(before, after)
    assert found.shape == (3, 5)
    for i in range(3):
        for j in range(5):
            if j == 2:
                assert np.isnan(found[i, j])
            else:
                assert found[i, j] == pytest.approx(np.corrcoef(before[seen, i], after[seen, j])[0, 1], abs=1e-6)


def test_the_same_network_keeps_all(made, photos, tmp_path):
    found = compare(made, made)
    assert len(found.changes) == len(made.units())
    for change in found.changes:
        unit = made.unit(f"{change.layer}:{change.unit}")
        if unit.dead:
            assert (change.verdict, change.correlation, change.match) == ("dead", None, None)
            continue
        assert (change.verdict, change.shared) == ("kept", 1.0)
        assert change.correlation == pytest.approx(1)
        assert change.match == change.unit or unit.duplicate_of is not None


def test_units_that_moved_are_found_where_they_are(photos, tmp_path):
    """Filters in another order, one of them dead now; what reads them is reordered too, so that all else stays."""
    before, after = net_of(), net_of()
    order = torch.tensor([3, 0, 4, 1, 5, 2])
    with torch.no_grad():
        after[0].weight.copy_(before[0].weight[order])
        after[0].bias.copy_(before[0].bias[order])
        after[3].weight.copy_(before[3].weight[:, order])
        after[3].weight[6], after[3].bias[6] = 0, -1
    first, second = atlas_of(before, photos, tmp_path / "a"), atlas_of(after, photos, tmp_path / "b")
    found = compare(first, second)
    own = {change.unit: change for change in found.changes if change.layer == "1"}
    for place, unit in enumerate(order.tolist()):
        if unit not in (1, 2, 5):  # dead, and twice the same
            assert (own[unit].match, own[unit].verdict) == (place, "moved")
            assert own[unit].match_correlation == pytest.approx(1)
    assert own[2].verdict == "came alive"
    assert first.unit("1:5").duplicate_of == 1
    assert own[1].verdict == own[5].verdict == "moved"
    deeper = {change.unit: change.verdict for change in found.changes if change.layer == "4"}
    dead = {unit.number for unit in first.units("4", dead=True)}
    assert deeper == {unit: "dead" if unit in dead else "died" if unit == 6 else "kept" for unit in range(8)}
    (one, two) = found.summary()
    assert (one["layer"], one["units"], one["moved"], one["came alive"]) == ("1", 6, 5, 1)
    assert (two["died"], two["moved"]) == (1, 0)
    changed = [abs(change.correlation) for change in found.most_changed(3, "1")]
    assert changed
    assert found.most_changed(1)[0].layer == "1"
    assert found.sheet(2).height > 300


def test_what_cannot_be_compared_is_one_line(made, photos, tmp_path):
    fewer = tmp_path / "photos"
    for file in photos.glob("*/0*.png"):
        (fewer / file.parent.name).mkdir(parents=True, exist_ok=True)
        (fewer / file.parent.name / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UsageError, match="are of other photos: make both of the same"):
        compare(made, atlas_of(None, fewer, tmp_path / "a"))
    first, second = (atlas_of(None, photos, tmp_path / layer, layers=[layer]) for layer in "14")
    with pytest.raises(UsageError, match="no layer in common: 1, and 4"):
        compare(first, second)
