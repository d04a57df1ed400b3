"""Checkpoints: every shape they come in, nothing in them is run, and what does not fit is said in one line."""

import argparse
import io
import os
import pickle
import random
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn

from convscope.errors import ConvscopeError, ModelError, UsageError
from convscope.models.checkpoint import load_state, read_state


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.fc = nn.Linear(2, classes)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight


def same(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[key], other[key]) for key in state)


def refusal(function, *arguments, kind=ModelError):
    with pytest.raises(kind) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def state():
    return Net().state_dict()


# Reading


def test_safetensors(tmp_path, state):
    for name in ("w.safetensors", "W.SAFETENSORS"):
        save_file(state, tmp_path / name)
        assert same(read_state(tmp_path / name), state)


@pytest.mark.parametrize("zipped", [True, False])
def test_torch(tmp_path, state, zipped):
    torch.save(state, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert same(read_state(str(tmp_path / "w.pt")), state)


WRAPPED = {
    "lightning": lambda s: {"state_dict": s, "epoch": 3, "hyper_parameters": {"lr": 0.1}, "callbacks": {}},
    "trainer": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}, "loss": torch.tensor(1.0)},
    "torchvision": lambda s: {"model": s, "args": argparse.Namespace(lr=0.1, name="x"), "lr_scheduler": {}},
    "scores": lambda s: {"net": s, "best": np.float64(0.5), "epoch": np.int64(3), "done": np.bool_(True)},
    "twice": lambda s: {"model": {"state_dict": s}},
    "only averaged": lambda s: {"state_dict_ema": s, "epoch": 3},
    "both": lambda s: {"ema": {key: 0 * value for key, value in s.items()}, "model": s},
    "parameters": lambda s: OrderedDict(
        (key, nn.Parameter(value, value.is_floating_point())) for key, value in s.items()
    ),
    "counted": lambda s: dict(s) | {"epoch": 3},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_nested(tmp_path, state, kind):
    state = {key: value for key, value in state.items() if value.is_floating_point()}
    torch.save(WRAPPED[kind](state), tmp_path / "w.pt")
    assert same(read_state(tmp_path / "w.pt"), state)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "wrap", [lambda s, m: m, lambda s, m: {"state_dict": s, "extra": m}, lambda s, m: dict(s) | {"x": m}]
)
def test_code_is_refused_and_not_run(tmp_path, state, zipped, wrap):
    proof = tmp_path / "it ran"
    torch.save(wrap(state, Malicious(proof)), tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert "posix.mkdir" in refusal(read_state, tmp_path / "w.pt")
    assert not proof.exists()
    torch.load(tmp_path / "w.pt", weights_only=False)  # it would have been
    assert proof.exists()


def test_plain_pickle_is_refused_and_not_run(tmp_path):
    proof = tmp_path / "it ran"
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(Malicious(proof), protocol=2))
    refusal(read_state, tmp_path / "w.pkl")
    assert not proof.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    message = refusal(read_state, tmp_path / "w.pt")
    assert "torch.nn.modules.linear.Linear" in message
    assert "torch.save(model.state_dict()" in message


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*TorchScript archive:UserWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.rand(1, 2)), tmp_path / "w.pt")
    assert "TorchScript" in refusal(read_state, tmp_path / "w.pt")


@pytest.mark.parametrize("found", [{}, {"epoch": 3}, [1, 2], 3, {"model": {"state_dict": {}}}, {"model": {"lr": 1}}])
def test_no_tensors(tmp_path, found):
    torch.save(found, tmp_path / "w.pt")
    assert "no state dict found" in refusal(read_state, tmp_path / "w.pt")


def test_a_checkpoint_that_holds_itself(tmp_path):
    knot = {}
    knot["model"] = knot
    torch.save(knot, tmp_path / "w.pt")
    assert "no state dict found" in refusal(read_state, tmp_path / "w.pt")


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 100\n"
OTHER = {"empty": b"", "text": b"hello world", "page": b"<!DOCTYPE html>", "picture": b"\x89PNG\r\n\x1a\n", "lfs": LFS}


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("content", OTHER.values(), ids=OTHER)
@pytest.mark.filterwarnings("error")
def test_not_a_checkpoint(tmp_path, content, suffix):
    (tmp_path / f"w.{suffix}").write_bytes(content)
    assert f"w.{suffix}: not a checkpoint, or a damaged one" in refusal(read_state, tmp_path / f"w.{suffix}")


def test_not_a_file(tmp_path):
    assert "a folder" in refusal(read_state, tmp_path, kind=UsageError)
    assert "no such file" in refusal(read_state, tmp_path / "none.pt", kind=UsageError)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@pytest.mark.filterwarnings("error")
def test_damage(tmp_path, state, kind):
    """Cut anywhere, a file is refused; with bytes changed it is read or refused, and never anything else."""
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    draw = random.Random(0)
    for _ in range(60):
        path.write_bytes(whole[: draw.randrange(len(whole))])
        assert re.search("damaged|more than tensors", refusal(read_state, path))  # a name cut short is an unknown one
    refused = 0
    for _ in range(150):
        changed = bytearray(whole)
        for _ in range(3):
            changed[draw.randrange(len(whole))] = draw.randrange(256)
        path.write_bytes(changed)
        try:
            read_state(path)
        except ConvscopeError as error:
            assert "\n" not in str(error)  # noqa: PT017 - refused or not, both are right
            refused += 1
    assert refused > 10


# Loading


def load(net, state):
    load_state(net, state, "w.pt")
    return net.state_dict()


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model._orig_mod.module."]
)
def test_prefixes_of_wrappers(state, prefix):
    assert same(load(Net(), {prefix + key: value for key, value in state.items()}), state)


def test_real_wrappers(state):
    net = Net()
    net.load_state_dict(state)
    wrappers = [nn.DataParallel(net), torch.compile(net), torch.optim.swa_utils.AveragedModel(net)]
    for wrapper in wrappers:
        assert next(iter(wrapper.state_dict())) not in state
        assert same(load(Net(), wrapper.state_dict()), state)


def test_a_prefix_of_the_network_itself_stays():
    net = nn.ModuleDict({"model": Net(), "net": nn.Linear(2, 2)})
    assert same(load(nn.ModuleDict({"model": Net(), "net": nn.Linear(2, 2)}), net.state_dict()), net.state_dict())


def test_what_does_not_fit_is_listed(state):
    net = Net(classes=5)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    other = {"module." + key: value for key, value in state.items() if key != "conv.bias"} | {
        "loss.weight": torch.ones(1)
    }
    message = refusal(load_state, net, other, "ckpt.pt")
    assert message == (
        "weights ckpt.pt do not fit Net: 1 missing: conv.bias; 1 unexpected: loss.weight; "
        "2 of another shape: fc.weight (3, 2) for (5, 2), fc.bias (3,) for (5,)"
    )
    assert same(net.state_dict(), before)


def test_long_lists_are_cut():
    deep = nn.Sequential(*(nn.Linear(1, 1) for _ in range(20)))
    assert "40 missing: 0.weight, 0.bias, 1.weight" in (message := refusal(load_state, deep, {"x": torch.ones(1)}, "w"))
    assert "and 32 more; 1 unexpected: x" in message


def test_old_batchnorm_has_no_counter(state):
    del state["norm.num_batches_tracked"]
    state["norm.running_mean"] += 1
    loaded = load(Net(), state)
    assert torch.equal(loaded["norm.running_mean"], state["norm.running_mean"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_dtype_is_brought_to_the_networks(state, dtype):
    stored = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
    net = Net()
    loaded = load(net, stored)
    assert net.conv.weight.dtype == torch.float32
    assert torch.equal(loaded["conv.weight"], stored["conv.weight"].float())


def test_tied_tensors(tmp_path):
    net, other = Tied(), Tied()
    save_model(net, tmp_path / "w.safetensors")
    state = read_state(tmp_path / "w.safetensors")
    assert len(state) == 1
    load_state(other, state, "w")
    assert torch.equal(other.second.weight, net.first.weight)
    assert other.second.weight is other.first.weight
    assert "1 missing" in refusal(
        load_state,
        nn.ModuleDict({"a": Tied(), "b": nn.Linear(1, 1, bias=False)}),
        {"a." + k: v for k, v in state.items()},
        "w",
    )


def test_lazy_layers_take_the_shape_that_comes():
    net = nn.Sequential(nn.LazyConv2d(2, 3), nn.Flatten(), nn.LazyLinear(4))
    given = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 4)).state_dict()
    load_state(net, given, "w")
    assert same(net.state_dict(), given)


def test_modules_that_ask_for_the_version_of_a_state():
    from torchvision.models import mnasnet0_5

    net, other = mnasnet0_5(num_classes=2), mnasnet0_5(num_classes=2)
    plain = dict(net.state_dict())  # safetensors keeps no version
    assert same(load(other, plain), plain)


def test_parameters_stay_the_same_objects(state):
    net = Net()
    before = dict(net.named_parameters())
    load_state(net, state, "w")
    assert all(parameter is before[name] and parameter.requires_grad for name, parameter in net.named_parameters())


def test_reading_does_not_widen_what_torch_takes(tmp_path):
    """What is allowed beside tensors is allowed for the time of reading alone."""
    buffer = io.BytesIO()
    torch.save({"args": argparse.Namespace()}, buffer)
    refusal(read_state, tmp_path / "none.pt", kind=UsageError)
    torch.save({"w": torch.ones(1), "args": argparse.Namespace()}, tmp_path / "w.pt")
    read_state(tmp_path / "w.pt")
    buffer.seek(0)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(buffer, weights_only=True)
