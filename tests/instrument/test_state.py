"""undisturbed: evaluation mode, frozen, seeded; and everything as it was afterwards."""

import threading
import time
from contextlib import nullcontext, suppress

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import UsageError
from convscope.instrument.state import undisturbed


def mixed():
    """Some parts in training mode, some not; some weights frozen, some not, one shared; a ``.grad`` here and there."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    net[4].weight = net[3].weight
    net.train()
    net[1].eval()
    net[0].weight.requires_grad_(False)
    net[3].bias.requires_grad_(False)
    net(torch.rand(2, 3, 5, 5)).sum().backward()
    return net


def state(net):
    """All but Python's own randomness, of which the checks of types draw; see test_contracts for that."""
    return {
        "modes": [m.training for m in net.modules()],
        "wants": [p.requires_grad for p in net.parameters()],
        "grads": [p.grad.tolist() if p.is_leaf and p.grad is not None else None for p in net.parameters()],
        "weights": {name: tensor.tolist() for name, tensor in net.state_dict().items()},
        "torch": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
    }


@pytest.mark.parametrize("outer", [nullcontext, torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("grad", [False, True])
def test_inside(outer, grad):
    net = mixed()
    with outer(), undisturbed(net, grad=grad):
        assert not any(m.training for m in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
        assert torch.is_grad_enabled() is grad
        assert not torch.is_inference_mode_enabled()
        pixels = torch.rand(1, 3, 5, 5, requires_grad=True)
        assert net(pixels).requires_grad is grad


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
@pytest.mark.parametrize("outer", [nullcontext, torch.no_grad, torch.inference_mode])
def test_afterwards_all_is_as_before(outer, error):
    net = mixed()
    with outer():
        before = state(net)
        with suppress(error or ()), undisturbed(net, grad=False):
            net(torch.rand(2, 3, 5, 5))
            torch.randn(100)
            if error is not None:
                raise error
        assert state(net) == before


def test_nested():
    net = mixed()
    before = state(net)
    with undisturbed(net):
        drawn = torch.rand(3)
        with undisturbed(net, grad=False), suppress(ZeroDivisionError), undisturbed(net):
            torch.rand(7)
            raise ZeroDivisionError
        assert not any(m.training for m in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
        again = torch.rand(3)
    assert state(net) == before
    with undisturbed(net):
        assert torch.equal(torch.rand(6), torch.cat([drawn, again])), "an inner use moved the outer's random numbers"


def test_numbers_drawn_inside_depend_on_the_seed_alone():
    net = mixed()

    def draw(seed):
        torch.rand(int(torch.randint(5, ())))
        with undisturbed(net, seed=seed):
            return torch.rand(4).tolist()

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)


def test_only_the_generators_that_are_restored_are_seeded(monkeypatch):
    """torch.manual_seed would seed every GPU, also those that the network is not on."""
    seeded = []
    monkeypatch.setattr(torch, "manual_seed", lambda seed: seeded.append("all"))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: seeded.append("cuda"))
    with undisturbed(mixed()):
        pass
    assert not seeded


def test_modules_own_train_is_not_called():
    class Merging(nn.Module):
        def train(self, mode=True):
            raise AssertionError("train() may do more than set a flag")

    with undisturbed(Merging()):
        pass


def test_a_weight_that_is_itself_computed():
    """Not a leaf of autograd, so that it cannot be frozen: it is left alone."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1))
    net[1]._parameters["weight"] = (net[1].weight * 2).as_subclass(nn.Parameter)
    assert not net[1].weight.is_leaf
    before = state(net)
    with undisturbed(net):
        assert [p.requires_grad for p in net.parameters()] == [False, False, True, False]
    assert state(net) == before


def test_one_thread_at_a_time():
    net, inside, most = mixed(), [], []

    def work():
        for _ in range(20):
            with undisturbed(net), undisturbed(net, grad=False):
                inside.append(1)
                most.append(len(inside))
                time.sleep(1e-4)
                inside.pop()

    before = state(net)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80
    assert max(most) == 1
    assert state(net) == before


def test_weights_that_take_no_gradient():
    with torch.inference_mode():
        net = nn.Conv2d(3, 4, 3)
    with pytest.raises(UsageError, match=r"Conv2d was made in torch\.inference_mode"), undisturbed(net):
        pass
