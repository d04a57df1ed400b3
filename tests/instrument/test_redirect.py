"""Redirected ReLUs: a way out for samples whose signal is blocked, and the true gradient for all others."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.instrument.redirect import redirected
from tests.nets import photos, seeded

FORMS = {
    "module": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "function": F.relu,
    "function in place": lambda x: F.relu(x, inplace=True),
    "torch": torch.relu,
    "method": lambda x: x.relu(),
    "method in place": lambda x: x.relu_(),
    "relu6": nn.ReLU6(),
    "relu6 in place": nn.ReLU6(inplace=True),
    "clamp": lambda x: x.clamp(min=0),
    "clamp to six": lambda x: torch.clamp(x, 0, 6),
    "clamp in place": lambda x: x.clamp_(0, 6),
    "hardtanh": nn.Hardtanh(0, 6),
    "maximum": lambda x: torch.maximum(x, x.new_zeros(())),
    "threshold": nn.Threshold(0, 0),
}
CAPPED = [name for name in FORMS if "six" in name or "relu6" in name or name in ("hardtanh", "clamp in place")]


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


@pytest.mark.parametrize("name", FORMS)
def test_all_that_is_open_has_the_true_gradient(name):
    x = photos(5, height=4, width=3) * 14 - 7
    x[:, 0, 0, 0] = 1.5  # open in each
    weights = photos(5, height=4, width=3, seed=2) - 0.5
    plain, before = gradient(FORMS[name], x, weights, False)
    found, after = gradient(FORMS[name], x, weights, True)
    assert torch.equal(found, plain)
    assert torch.equal(after, before)
    assert bool(before.flatten(1).any(1).all())


@pytest.mark.parametrize("name", FORMS)
def test_a_sample_is_open_only_if_its_signal_passes(name):
    """An open value that the score does not depend on lets nothing down."""
    x, weights = torch.tensor([[3.0, -1.0], [3.0, -1.0]]), torch.tensor([[0.0, 2.0], [1.0, 2.0]])
    _, found = gradient(FORMS[name], x, weights, True)
    assert found.tolist() == [[0, 2], [1, 0]]


@pytest.mark.parametrize("name", CAPPED)
def test_what_is_at_its_top_cannot_go_up(name):
    x = torch.tensor([[7.0, 8.0], [7.0, -1.0], [7.0, 2.0]])
    _, found = gradient(FORMS[name], x, torch.ones(3, 2), True)
    assert found.tolist() == [[0, 0], [0, 1], [0, 1]]


@pytest.mark.parametrize("shape", [(), (2,), (2, 3), (2, 3, 4), (2, 3, 4, 5), (2, 1, 2, 3, 4)])
def test_whatever_the_number_of_dimensions_each_sample_is_its_own(shape):
    x = torch.full(shape, -1.0)
    if shape:
        x[1] = 2.0
    weights = torch.full(shape, 3.0)
    _, found = gradient(F.relu, x, weights, True)
    assert torch.equal(found, weights)
    assert torch.equal(gradient(F.relu, x, weights, False)[1], torch.where(x > 0, weights, 0))


@pytest.mark.parametrize("form", [nn.LeakyReLU(0.0), nn.Hardtanh(-1, 1), lambda x: x.clamp(max=-3.0)])
def test_what_is_no_relu_is_left_alone(form):
    x = torch.tensor([[-2.0, -1.5], [2.0, -0.5]])
    assert torch.equal(gradient(form, x, torch.ones(2, 2), True)[1], gradient(form, x, torch.ones(2, 2), False)[1])


@pytest.mark.parametrize("part", [slice(0, 2), 0])
def test_in_place_on_a_part_of_a_tensor_the_rest_keeps_its_signal(part):
    def change(x):
        F.relu(x[:, part], inplace=True)
        return x

    x, weights = torch.tensor([[-1.0, -2, -3], [1, -2, 3]]), torch.tensor([1.0, 2, 3])
    plain, before = gradient(change, x, weights, False)
    found, after = gradient(change, x, weights, True)
    assert torch.equal(found, plain)
    assert before.tolist() == ([[0, 0, 3], [1, 0, 3]] if isinstance(part, slice) else [[0, 2, 3], [1, 2, 3]])
    assert after.tolist() == [[1, 2, 3], before[1].tolist()]


@pytest.mark.parametrize("depth", [4, 40])
def test_several_dead_ones_after_each_other_all_let_through(depth):
    leaf = torch.full((1, 3), -1.0, requires_grad=True)
    with redirected():
        x = leaf
        for _ in range(depth):
            x = F.relu(x) - 1
        x.sum().backward()
    assert leaf.grad.tolist() == [[1, 1, 1]]


WEIGHTS = [np.random.default_rng(k).normal(size=(5, 5)) for k in range(6)]


def by_hand(sample, bias, redirect):
    """The score's gradient by one sample of ``chain``, layer by layer."""
    befores, x = [], sample
    for weight in WEIGHTS:
        befores.append(weight @ x + bias)
        x = np.maximum(befores[-1], 0)
    signal = np.ones(5)
    for weight, before in zip(reversed(WEIGHTS), reversed(befores), strict=True):
        passed = np.where(before > 0, signal, 0)
        if redirect and not passed.any():
            passed = np.maximum(signal, 0)
        signal = weight.T @ passed
    return signal


def chain(x, biases):
    for weight in WEIGHTS:
        x = F.relu(x @ torch.from_numpy(weight).T + biases)
    return x.sum(1)


@pytest.mark.parametrize("shut", [(0, 2), (), (0, 1, 2, 3)])
def test_a_chain_of_layers_is_what_it_is_by_hand(shut):
    x = torch.from_numpy(np.random.default_rng(9).normal(size=(4, 5)))
    biases = torch.tensor([[-100.0 if i in shut else 3.0] for i in range(4)], dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    with redirected():
        scores = chain(leaf, biases)
    (found,) = torch.autograd.grad(scores.sum(), leaf)
    for i, sample in enumerate(x.numpy()):
        plain = by_hand(sample, biases[i].numpy(), redirect=False)
        assert plain.any() == (i not in shut)
        assert np.allclose(found[i].numpy(), by_hand(sample, biases[i].numpy(), redirect=True), atol=1e-10)
        if i not in shut:
            assert np.allclose(found[i].numpy(), plain, atol=1e-10)
        leaf = x[i : i + 1].clone().requires_grad_()
        with redirected():
            alone = chain(leaf, biases[i : i + 1])
        assert torch.allclose(torch.autograd.grad(alone.sum(), leaf)[0][0], found[i], atol=1e-12)


def network():
    return seeded(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3), nn.ReLU6()), seed=3)


def test_in_a_batch_the_blocked_picture_alone_is_redirected_and_going_that_way_raises_it():
    net, images = network(), photos(2, height=9, width=9)
    images[0] *= 0.2
    with torch.no_grad():
        most = net[:3](images).amax((2, 3))
        unit = int((most[1] - most[0]).argmax())
        net[2].bias[unit] -= most[:, unit].mean()  # between the two: out of reach for the first
    leaf = images.requires_grad_()
    first, second = net(leaf)[:, unit].amax((1, 2)).tolist()
    assert first == 0 < second < 6, "one is blocked, the other open"
    (plain,) = torch.autograd.grad(net(leaf)[:, unit].sum(), leaf)
    with redirected():
        score = net(leaf)[:, unit].sum()
    (found,) = torch.autograd.grad(score, leaf)
    assert torch.equal(found[1], plain[1])
    assert not plain[0].any()
    with torch.no_grad():
        before, after = (net[:3](x)[0, unit].mean() for x in (leaf, leaf + 1e-3 * found))
    assert after > before


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind_after_success_or_an_error(fails, training):
    net = network().train(training)
    net[2].weight.requires_grad_(False)
    kept = {name: value.clone() for name, value in net.state_dict().items()}
    wanted = [one.requires_grad for one in net.parameters()]
    leaf = photos(1, height=9, width=9).requires_grad_()
    before = torch.overrides._len_torch_function_stack()
    random = torch.random.get_rng_state()
    try:
        with redirected():
            score = net(leaf).sum()
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    torch.autograd.grad(score, leaf)
    assert torch.overrides._len_torch_function_stack() == before
    assert torch.equal(torch.random.get_rng_state(), random)
    for module in net.modules():
        assert module.training == training
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
        assert not module._backward_pre_hooks
    assert [net[1].inplace, net[3].inplace] == [True, False]
    assert [one.requires_grad for one in net.parameters()] == wanted
    assert all(one.grad is None for one in net.parameters())
    assert all(torch.equal(value, kept[name]) for name, value in net.state_dict().items())
    dead = torch.full((1, 2), -1.0, requires_grad=True)
    F.relu(dead).sum().backward()
    assert dead.grad.tolist() == [[0, 0]], "a ReLU outside is plain again"


def test_without_gradients_it_is_the_plain_network():
    net, images = network(), photos(2, height=9, width=9)
    wanted = net(images)
    with redirected(), torch.no_grad():
        found = net(images)
    assert torch.equal(found, wanted)
    assert not found.requires_grad
