"""Redirected ReLUs: a way out for samples whose signal is blocked, and the true gradient for all others."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.instrument.redirect import redirected

FORMS = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "function": F.relu,
    "method": lambda x: x.relu_(),
    "relu6": nn.ReLU6(),
    "clamp": lambda x: x.clamp(min=0),
}


def gradient(form, x, weights, redirect):
    leaf = x.clone().requires_grad_()
    with redirected() if redirect else torch.enable_grad():
        found = form(leaf * 1)
        (found * weights).sum().backward()
    return found.detach(), leaf.grad


@pytest.mark.parametrize("name", FORMS)
def test_the_blocked_sample_alone_finds_a_way_up(name):
    x = torch.tensor([[-1.0, -2.0, -3.0], [1.0, -2.0, 3.0], [-1.0, -1.0, -1.0]])
    weights = torch.tensor([[2.0, -1.0, 0.5], [2.0, 4.0, -0.5], [-1.0, -2.0, -3.0]])
    plain, before = gradient(FORMS[name], x, weights, False)
    found, after = gradient(FORMS[name], x, weights, True)
    assert torch.equal(found, plain)
    assert torch.equal(after[1], before[1]), "its own signal passes: the true gradient"
    assert before[0].tolist() == [0, 0, 0]
    assert after[0].tolist() == [2, 0, 0.5], "only what would raise it"
    assert after[2].tolist() == [0, 0, 0], "nothing would"


def test_what_is_at_the_top_of_a_relu6_cannot_go_up():
    _, found = gradient(nn.ReLU6(), torch.tensor([[7.0, 8.0], [7.0, -1.0]]), torch.ones(2, 2), True)
    assert found.tolist() == [[0, 0], [0, 1]]


def test_several_dead_ones_after_each_other_all_let_through():
    leaf = torch.full((1, 3), -1.0, requires_grad=True)
    with redirected():
        x = leaf
        for _ in range(4):
            x = F.relu(x) - 1
        x.sum().backward()
    assert leaf.grad.tolist() == [[1, 1, 1]]


def test_nothing_is_left_behind_after_an_error():
    with pytest.raises(ZeroDivisionError), redirected():
        raise ZeroDivisionError
    leaf = torch.full((1, 2), -1.0, requires_grad=True)
    F.relu(leaf).sum().backward()
    assert leaf.grad.tolist() == [[0, 0]]
