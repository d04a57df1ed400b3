"""Draws: numbers that are their picture's seed's, the step's and their place's, and nobody else's."""

import math

import numpy as np
import pytest
import torch

from convscope.optvis.draws import Draws, placed, seed_of

SEEDS = [0, 1, 2, 77, 2**63, 2**64 - 1]
KINDS = {
    "uniform": lambda draws: draws.uniform(-2, 5),
    "normal": lambda draws: draws.normal(),
    "field": lambda draws: draws.field((2, 3)).flatten(1).numpy(),
    "uniform field": lambda draws: draws.field((2, 3), uniform=True).flatten(1).numpy(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_the_same_in_any_batch_and_order(kind):
    draw = KINDS[kind]
    order = [3, 0, 5, 1, 4, 2]
    batch, shuffled = Draws(SEEDS, 4), Draws([SEEDS[i] for i in order], 4)
    alone = [Draws([seed], 4) for seed in SEEDS]
    for _ in range(3):  # the first draws and those after them
        found = draw(batch)
        assert len(found) == len(SEEDS)
        assert np.array_equal(draw(shuffled), found[order])
        assert np.array_equal(np.concatenate([draw(one) for one in alone]), found)


@pytest.mark.parametrize("kind", KINDS)
def test_each_call_draws_anew_whatever_was_drawn_before_it(kind):
    draw = KINDS[kind]
    once, other = Draws([3, 4], 1), Draws([3, 4], 1)
    first = draw(once)
    once.uniform(0, 1)
    second = draw(once)
    assert not np.isin(first, second).any()
    draw(other)
    other.uniform(-100, 900)  # other bounds of a draw in between change nothing for those after it
    assert np.array_equal(draw(other), second)


@pytest.mark.parametrize("kind", KINDS)
def test_no_seed_at_no_step_draws_what_another_does(kind):
    seeds = [seed_of(0, unit) for unit in range(12)]  # as a render's are
    found = np.concatenate([KINDS[kind](Draws(seeds, step)) for step in range(12)])
    assert len(np.unique(found)) == found.size


def test_uniform_draws_fill_their_bounds_evenly():
    values = Draws(range(8000), 1).uniform(-2, 5)
    assert values.min() >= -2
    assert values.max() < 5
    shares = np.histogram(values, 14, (-2, 5))[0] / 8000
    assert np.abs(shares - 1 / 14).max() < 5 * math.sqrt(1 / 14 / 8000)
    steps = np.concatenate([Draws([5], step).uniform(0, 1) for step in range(3000)])
    assert np.abs(np.histogram(steps, 10, (0, 1))[0] / 3000 - 0.1).max() < 5 * math.sqrt(0.1 / 3000)
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1]) < 5 / math.sqrt(3000), "a step tells nothing of the next"


def below(value):
    """The share of a normal distribution that is below a value."""
    return (1 + math.erf(value / math.sqrt(2))) / 2


def test_normal_draws_are_normal():
    values = Draws(range(8000), 2).normal()
    assert np.isfinite(values).all()
    for value in (-2, -1, -0.5, 0, 0.5, 1, 2):
        assert (values < value).mean() == pytest.approx(below(value), abs=5 * 0.5 / math.sqrt(8000))
    draws = Draws(range(8000), 2)
    draws.normal()
    assert abs(np.corrcoef(values, draws.normal())[0, 1]) < 5 / math.sqrt(8000), "one tells nothing of the next"


def test_fields_are_normal_or_uniform_numbers_in_float64():
    normal, uniform = Draws([1, 2], 3).field((3, 50, 50)), Draws([1, 2], 3).field((3, 50, 50), uniform=True)
    for field in (normal, uniform):
        assert field.shape == (2, 3, 50, 50)
        assert field.dtype == torch.float64
        assert field.device.type == "cpu"
        assert abs(np.corrcoef(field[0].flatten(), field[1].flatten())[0, 1]) < 5 / math.sqrt(7500)
    for value in (-2, -1, 0, 1, 2):
        share = float((normal < value).double().mean())
        assert share == pytest.approx(below(value), abs=5 * 0.5 / math.sqrt(15000))
    assert 0 <= uniform.min() < uniform.max() < 1
    shares = torch.histc(uniform, 10, 0, 1) / 15000
    assert (shares - 0.1).abs().max() < 5 * math.sqrt(0.1 / 15000)


def test_torchs_own_random_numbers_neither_change_draws_nor_are_changed():
    torch.manual_seed(0)
    np.random.seed(0)
    before, state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    found = {kind: draw(Draws(SEEDS, 4)) for kind, draw in KINDS.items()}
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], state)
    torch.manual_seed(123)
    assert all(np.array_equal(draw(Draws(SEEDS, 4)), found[kind]) for kind, draw in KINDS.items())


def test_a_picture_of_every_unit_and_copy_has_a_seed_of_its_own():
    words = [(seed, unit, copy) for seed in range(5) for unit in range(40) for copy in range(5)]
    found = {seed_of(*one) for one in words}
    assert len(found) == len(words)
    assert all(0 <= seed < 2**64 for seed in found)
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)
    assert len({seed_of(1), seed_of(1, 0), seed_of(1, 0, 0), seed_of(0, 1), seed_of(0, 1, 0)}) == 5
    assert seed_of(-1, 2) == seed_of(2**64 - 1, 2), "any whole number is a seed"


def test_numbers_are_placed_in_the_dtype_of_others():
    values = Draws([1], 0).field((4,))
    found = placed(values, torch.zeros(2, dtype=torch.float32))
    assert found.dtype == torch.float32
    assert torch.equal(found, values.float())
