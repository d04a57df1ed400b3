"""record: what layers gave, unharmed by what follows, with gradients, and no more of the pass than needed."""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.errors import UsageError
from convscope.instrument.address import parse_address
from convscope.instrument.backward import relu_rule
from convscope.instrument.record import record
from tests.instrument.nets import DeadCode, Loop, Reused, Student, conv
from tests.nets import seeded

IMAGE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

OVERWRITES = {
    "module": nn.ReLU(inplace=True),
    "functional": lambda x: F.relu(x, inplace=True),
    "method": lambda x: x.relu_(),
    "torch": torch.relu_,
    "sum": lambda x: x.add_(1),
    "product": lambda x: x.mul_(0.5),
    "clamp": lambda x: x.clamp_(0, 1),
    "fill": lambda x: x.zero_(),
    "slice": lambda x: x[:, :2].relu_(),
}


class Overwritten(nn.Module):
    def __init__(self, write):
        super().__init__()
        self.conv, self.norm, self.write, self.fc = conv(3, 4), nn.BatchNorm2d(4), write, nn.Linear(4, 5)

    def forward(self, x):
        x = self.norm(self.conv(x))
        self.write(x)
        return self.fc(x.mean((2, 3)))


def left_alone(net):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("write", OVERWRITES)
def test_what_is_written_later_does_not_reach_the_kept_output(write, grad):
    net = seeded(Overwritten(OVERWRITES[write]))
    wanted = net.norm(net.conv(IMAGE))
    with record(net, ["conv", "norm"], grad=grad) as kept:
        output = net(IMAGE)
    assert torch.equal(kept["norm"], wanted)
    assert torch.equal(kept["conv"], net.conv(IMAGE))
    assert torch.equal(output, net(IMAGE)), "recording changed what the network computes"
    assert left_alone(net)


def test_a_sum_in_place():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.fc = conv(3, 4), conv(4, 4), nn.Linear(4, 5)

        def forward(self, x):
            x = self.a(x)
            y = self.b(x)
            y += x
            x += 1
            return self.fc(y.mean((2, 3)))

    net = seeded(Sum())
    a = net.a(IMAGE)
    b = net.b(a)
    with record(net, ["a", "b", "/add#1"]) as kept:
        net(IMAGE)
    assert torch.equal(kept["a"], a)
    assert torch.equal(kept["b"], b)
    assert torch.equal(kept["/add"], a + b)


class HandsOn(nn.Module):
    """``same`` gives its input itself, which is then overwritten under its old name."""

    def __init__(self):
        super().__init__()
        self.conv, self.same, self.fc = conv(3, 4), nn.Identity(), nn.Linear(4, 5)

    def forward(self, x):
        x = self.conv(x)
        y = self.same(x)
        x.relu_()
        return self.fc(y.mean((2, 3)))


def test_an_input_handed_on_and_overwritten_by_its_other_name():
    net = seeded(HandsOn())
    with record(net, ["same"]) as kept:
        output = net(IMAGE)
    assert torch.equal(kept["same"], net.conv(IMAGE))
    assert torch.equal(output, net(IMAGE))


def test_the_same_with_gradients_is_refused_and_not_wrong():
    net = seeded(HandsOn())
    with record(net, ["same"], grad=True) as kept:
        net(IMAGE)
    with pytest.raises(UsageError, match="layer same hands on its own input"):
        kept["same"]


# --- gradients


def test_gradients_arrive_at_the_kept_tensor():
    """Against the chain rule by hand: fc, mean, ReLU mask, transposed convolution."""
    net = seeded(Student())
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    with record(net, ["conv2", "/relu#1"], grad=True) as kept:
        score = net(IMAGE)[:, 2].sum()
    below, above = torch.autograd.grad(score, [kept["/relu"], kept["conv2"]])
    pooled, places = F.max_pool2d(kept["conv2"].relu(), 2, return_indices=True)
    down = net.fc.weight[2].view(1, 5, 4, 4).expand_as(pooled)
    down = F.max_unpool2d(down, places, 2, output_size=kept["conv2"].shape[-2:]) * (kept["conv2"] > 0)
    assert torch.allclose(above, down, rtol=0, atol=1e-14)
    pooled, places = F.max_pool2d(kept["/relu"], 2, return_indices=True)
    down = F.max_unpool2d(F.conv_transpose2d(down, net.conv2.weight, padding=1), places, 2)
    assert torch.allclose(below, down, rtol=0, atol=1e-14)


def test_the_kept_tensor_is_the_original():
    net = seeded(Student())
    with record(net, ["conv2"], grad=True) as kept:
        score = net(IMAGE)[:, 2].sum()
    assert kept["conv2"].grad_fn.name() == "ConvolutionBackward0"
    assert kept["conv2"].grad_fn in {node for node, _ in _edges(score.grad_fn)}


def _edges(node):
    for edge in node.next_functions:
        if edge[0] is not None:
            yield edge
            yield from _edges(edge[0])


def test_the_graph_begins_at_the_first_layer():
    net = seeded(Student()).requires_grad_(False)
    with record(net, ["conv1", "conv2"], grad=True) as kept:
        score = net(IMAGE).sum()
    assert kept["conv1"].is_leaf
    assert not kept["conv2"].is_leaf
    assert all(g.any() for g in torch.autograd.grad(score, [kept["conv1"], kept["conv2"]]))


def test_without_grad_nothing_kept_has_a_graph():
    net = seeded(Student())
    with record(net, ["conv1", "/relu#2"]) as kept:
        net(IMAGE)
    assert not any(kept[layer].requires_grad for layer in kept)


# --- names


def test_calls_of_a_reused_module_are_told_apart():
    net = seeded(Reused())
    one = net.stem(IMAGE).relu()
    two = net.conv(one)
    three = net.conv(two.relu())
    with record(net, ["conv", "conv#2", "relu", "relu#3"]) as kept:
        net(IMAGE)
    for layer, wanted in {"conv": two, "conv#2": three, "relu": one, "relu#3": three.relu()}.items():
        assert torch.equal(kept[layer], wanted), layer
    assert torch.equal(kept[parse_address("conv#2:3")], three)


def test_a_module_with_two_names_answers_to_both():
    net = seeded(Reused())
    with record(net, ["alias#2"]) as one, record(net, ["conv#2", "alias"]) as other:
        net(IMAGE)
    assert torch.equal(one["alias#2"], other["conv#2"])
    assert not torch.equal(other["alias"], other["conv#2"])
    with record(net, ["conv", "alias"], grad=True) as both:
        score = net(IMAGE).sum()
    assert all(g.any() for g in torch.autograd.grad(score, [both["conv"], both["alias"]]))


def test_function_calls():
    net = seeded(Loop())
    x = net.stem(IMAGE)
    for block in net.blocks:
        x = (block.conv(x) - 0.1).relu()
    first = net.convs[0](x).relu()
    with record(net, ["blocks.1/relu", "blocks.1/sub", "/relu", "/relu#2"]) as kept:
        net(IMAGE)
    assert torch.equal(kept["blocks.1/relu"], x)
    assert torch.equal(kept["blocks.1/sub"].relu(), x)
    assert torch.equal(kept["/relu"], first)
    assert torch.equal(kept["/relu#2"], net.convs[1](first).relu())


def test_function_calls_under_a_rule():
    net = seeded(Student())
    image = IMAGE.clone().requires_grad_()
    with relu_rule("guided") as rule, record(net, ["/relu", "/relu#2"], grad=True) as kept:
        score = net(image)[:, 0].sum()
        rule.verify(score)
    first, second, pixels = torch.autograd.grad(score, [kept["/relu"], kept["/relu#2"], image])
    x = net.conv1(IMAGE)
    pooled, places = F.max_pool2d(x.relu(), 2, return_indices=True)
    y = net.conv2(pooled)
    assert torch.equal(kept["/relu#2"], y.relu())
    down = second.relu() * (y > 0)
    down = F.max_unpool2d(F.conv_transpose2d(down, net.conv2.weight, padding=1), places, 2)
    assert torch.allclose(first, down, atol=1e-14)
    down = F.conv_transpose2d(first.relu() * (x > 0), net.conv1.weight, padding=1)
    assert torch.allclose(pixels, down, atol=1e-14)
    assert pixels.any()


# --- no more of the pass than needed


class Watched(nn.Module):
    """Notes which parts ran. ``style`` is what surrounds the call of ``a``."""

    def __init__(self, style):
        super().__init__()
        self.a, self.b, self.style, self.ran = conv(3, 4), conv(4, 4), style, []

    def forward(self, x):
        if self.style == "except":
            try:
                x = self.a(x)
            except Exception:
                self.ran.append("swallowed")
        elif self.style == "finally":
            try:
                x = F.relu(self.a(x))
            finally:
                self.ran.append("finally")
        else:
            x = self.a(x)
        self.ran.append("after a")
        return self.b(x)


@pytest.mark.parametrize(("style", "ran"), [("plain", []), ("except", []), ("finally", ["finally"])])
def test_the_pass_ends_at_the_last_layer(style, ran):
    net = seeded(Watched(style))
    with record(net, ["a"], stop=True) as kept:
        net(IMAGE)
        pytest.fail("code after the pass ran")
    assert net.ran == ran
    assert torch.equal(kept["a"], net.a(IMAGE))
    assert left_alone(net)


def test_it_ends_after_the_last_of_several_in_whatever_order():
    net = seeded(Watched("plain"))
    with record(net, ["b", "a"], stop=True) as kept:
        net(IMAGE)
    assert net.ran == ["after a"]
    assert set(kept) == {"a", "b"}


def test_it_ends_inside_a_function_call():
    net = seeded(Watched("finally"))
    with record(net, ["/relu"], stop=True) as kept:
        net(IMAGE)
    assert net.ran == ["finally"]
    assert torch.equal(kept["/relu"], net.a(IMAGE).relu())
    assert torch.overrides._get_current_function_mode_stack() == []
    with record(net, ["/relu"]) as kept:  # the cut pass left no count behind
        net(IMAGE)
    assert len(kept) == 1


def test_an_outer_stop_is_not_taken_for_an_inner_one():
    net = seeded(Watched("plain"))
    reached = []
    with record(net, ["a"], stop=True) as outer:
        with record(net, ["b"], stop=True) as inner:
            net(IMAGE)
        reached.append("after the inner one")
    assert not reached
    assert "a" in outer
    assert "b" not in inner
    with record(net, ["b"], stop=True) as outer:
        with record(net, ["a"], stop=True) as inner:
            net(IMAGE)
        reached.append("after the inner one")
    assert reached
    assert ("a" in inner, "b" in outer) == (True, False)


def test_of_several_passes_the_last_is_kept():
    net = seeded(Reused())
    with record(net, ["conv#2", "relu"]) as kept:
        for image in (IMAGE, 2 * IMAGE):
            net(image)
    with record(net, ["conv#2", "relu"]) as wanted:
        net(2 * IMAGE)
    assert all(torch.equal(kept[layer], wanted[layer]) for layer in wanted)


def test_records_nest():
    net = seeded(Student())
    with record(net, ["conv1", "/relu"], grad=True) as outer, record(net, ["conv1", "/relu#2"], grad=True) as inner:
        score = net(IMAGE).sum()
    tensors = [outer["conv1"], outer["/relu"], inner["conv1"], inner["/relu#2"]]
    grads = torch.autograd.grad(score, tensors)
    assert all(g.any() for g in grads)
    assert torch.equal(grads[0], grads[2])
    assert torch.equal(outer["conv1"].relu(), outer["/relu"])


# --- reduce, replace


def test_reduce_takes_its_figure_without_a_copy():
    net = seeded(Student())
    seen = []
    handle = net.conv2.register_forward_hook(lambda _, __, output: seen.append(output.data_ptr()))

    def reduce(output):
        seen.append(output.data_ptr())
        return output.amax((2, 3))

    with record(net, ["conv2"], reduce=reduce) as kept:
        net(IMAGE)
    handle.remove()
    assert seen[0] == seen[1]
    assert torch.equal(kept["conv2"], net.conv2(F.max_pool2d(net.conv1(IMAGE).relu(), 2)).amax((2, 3)))


def test_what_is_reduced_is_handed_on_itself():
    net = nn.Sequential(nn.Identity(), nn.Identity())
    pointers = []
    net[1].register_forward_pre_hook(lambda _, args: pointers.append(args[0].data_ptr()))
    with record(net, ["0"], reduce=torch.Tensor.sum):
        net(IMAGE)
    assert pointers == [IMAGE.data_ptr()]


@pytest.mark.parametrize("layer", ["conv2", "/relu#2"])
def test_replace_hands_on_another(layer):
    net = seeded(Student())
    ones = torch.ones(2, 5, 8, 8, dtype=torch.float64)
    with record(net, [layer], replace=lambda _: ones) as kept:
        output = net(IMAGE)
    assert torch.equal(kept[layer], ones)
    assert torch.allclose(output, net.fc(torch.ones(2, 80, dtype=torch.float64)))
    with record(net, [layer], replace=lambda x: x * 2, grad=True) as kept:
        score = net(IMAGE).sum()
    assert torch.autograd.grad(score, kept[layer])[0].any()


# --- errors


def test_a_layer_that_does_not_run():
    net = seeded(DeadCode())
    with record(net, ["spare", "conv", "squeeze#2"]) as kept:
        net(IMAGE)
    assert list(kept) == ["conv"]
    assert ("spare" in kept, "conv#1" in kept, parse_address("conv:3") in kept) == (False, True, True)
    with pytest.raises(UsageError, match=r"layer spare did not run in the forward pass$"):
        kept["spare"]
    with pytest.raises(UsageError, match="squeeze#2 did not run in the forward pass: it has fewer than 2 calls"):
        kept["squeeze#2"]
    with pytest.raises(KeyError):
        kept["fc"]


def test_errors_name_the_layer():
    net = seeded(Student())
    with pytest.raises(UsageError, match="unknown layer 'conv3'; nearest: conv"):
        record(net, ["conv3"])
    with pytest.raises(UsageError, match="at least one layer"):
        record(net, [])


class Two(nn.Module):
    def forward(self, x):
        return x, x


def test_a_layer_that_gives_two_tensors():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.two = Two()

        def forward(self, x):
            return self.two(x)[0]

    net = Net()
    with pytest.raises(UsageError, match="layer two gives tuple, not one tensor"), record(net, ["two"]):
        net(IMAGE)
    assert left_alone(net)


@pytest.mark.filterwarnings("ignore")
def test_scripted_code_is_refused():
    part = torch.jit.script(nn.Sequential(conv(3, 4), nn.ReLU()).double().eval())
    net = nn.Sequential(part, nn.ReLU())
    for layer in ("0", "0.0"):
        with pytest.raises(UsageError, match=f"{layer} is scripted code"):
            record(net, [layer])
    with record(net, ["1"]) as kept:
        net(IMAGE)
    assert torch.equal(kept["1"], part(IMAGE))


@pytest.mark.filterwarnings("ignore")
def test_inside_traced_and_compiled_code():
    part = nn.Sequential(conv(3, 4), nn.ReLU()).double().eval()
    compiled = torch.compile(part, backend="eager")
    for hidden, inner in (torch.jit.trace(part, IMAGE), "0.0"), (compiled, "0._orig_mod.0"):
        net = nn.Sequential(hidden, nn.ReLU())
        net(IMAGE)
        with record(net, ["0", inner]) as kept:
            net(IMAGE)
        assert torch.allclose(kept["0"], part(IMAGE))
        with pytest.raises(UsageError, match=f"{inner} did not run .* traced or compiled code"):
            kept[inner]


@pytest.mark.parametrize("layers", [["conv1"], ["conv1", "/relu"]])
def test_an_exception_leaves_nothing(layers):
    net = seeded(Student())
    with pytest.raises(ZeroDivisionError), record(net, layers):
        net(IMAGE) / (1 // 0)
    with pytest.raises(RuntimeError), record(net, layers):
        net(IMAGE[:, :2])
    assert left_alone(net)
    assert torch.overrides._get_current_function_mode_stack() == []


def test_passes_of_other_threads_are_not_ours():
    net = seeded(Student())
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    wanted, found = net(image), []
    with record(net, ["conv1", "/relu"], stop=True) as kept:
        thread = threading.Thread(target=lambda: found.append(net(image)))
        thread.start()
        thread.join()
        assert not kept, "another thread's pass was recorded"
        net(image * 0.5)
    assert len(found) == 1, "another thread's pass was cut short"
    assert torch.equal(found[0], wanted)
    assert torch.equal(kept["conv1"], net.conv1(image * 0.5))
