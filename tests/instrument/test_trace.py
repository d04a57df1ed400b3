"""Traces: what ran and what it takes in memory, kept as long as they are true."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from convscope.errors import UsageError
from convscope.instrument.trace import trace
from convscope.models.classifier import Classifier
from tests.instrument.nets import DeadCode, Loop, Reused, RootSum, Student, conv

IMAGE = torch.rand(1, 3, 16, 16)
MAP = 16 * 16 * 4  # bytes of one channel


def events(net, image=IMAGE, **options):
    return [event.address.key for event in trace(net, image, **options).events]


def test_layers_in_the_order_in_which_they_ran():
    assert events(Student()) == ["conv1", "/relu", "/max_pool2d", "conv2", "/relu#2", "/max_pool2d#2", "/flatten", "fc"]
    assert events(Reused()) == ["stem", "relu", "conv", "relu#2", "conv#2", "relu#3", "/mean", "fc"]
    blocks = [f"blocks.{i}{part}" for i in (0, 1) for part in (".conv", "/sub", "/relu", "")]
    assert events(Loop()) == ["stem", *blocks, "convs.0", "/relu", "convs.1", "/relu#2", "/mean", "fc"]
    assert "spare" not in events(DeadCode())


def test_operations_and_values():
    net = nn.Sequential(conv(3, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 256, 5))
    taken = trace(net, IMAGE)
    assert [op.name for op in taken.ops][:3] == ["convolution", "relu", "view"]
    assert taken.input.shape == (1, 3, 16, 16)
    assert [taken.event(key).value.shape for key in "0123"] == [(1, 8, 16, 16)] * 2 + [(1, 2048), (1, 5)]
    assert taken.event("3").value == taken.output
    assert taken.ops[1].inputs == taken.ops[0].outputs
    assert taken.ops[0].args[1] is net[0].weight
    assert taken.made_by[taken.ops[1].outputs[0].index] == 1
    assert [event.parameters for event in taken.events] == [8 * 28, 0, 0, 2049 * 5]
    assert taken.leading_to(taken.event("1").value) == {0, 1, 2}


def test_only_the_first_image_is_run_and_it_stays_as_it_is():
    image = torch.randn(4, 3, 16, 16)
    before = image.clone()
    net = nn.Sequential(nn.ReLU(inplace=True), conv(3, 8)).train()
    assert trace(net, image).output.shape == (1, 8, 16, 16)
    assert torch.equal(image, before)
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_a_pass_that_fails_leaves_nothing():
    net = Student().train()
    with pytest.raises(RuntimeError):
        trace(net, IMAGE[:, :2])
    assert net.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.overrides._get_current_function_mode_stack() == []
    assert len(trace(net, IMAGE).events) == 8


def test_through_a_classifier():
    """Its own operations are in the trace, its layers are not, and pixels take the dtype of the weights."""
    net = Student().double()
    classifier = Classifier(net, mean=[0.5], std=[0.25])
    taken = trace(net, IMAGE, through=classifier)
    assert [op.name for op in taken.ops][:3] == ["_to_copy", "sub", "div"]
    assert events(net, through=classifier) == events(net, IMAGE.double())
    assert taken.event("conv1").value.bytes == 4 * 16 * 16 * 8


# --- writing in place


class Writes(nn.Module):
    def __init__(self, write):
        super().__init__()
        self.write = write

    def forward(self, x):
        return self.write(x * 1) * 1


def rectified_base(x):
    view = x.view(1, 3, 256)
    x.relu_()
    return view


def rectified_part(x):
    x[:, :2].relu_()
    return x


def into_a_constant(x):
    y = torch.zeros(1, 3, 16, 16)
    y[:, :, 1:] = x[:, :, :-1]
    return y


@pytest.mark.parametrize(
    ("write", "aliasing"),
    [
        (lambda x: x.relu_(), False),
        (lambda x: x.add_(1).relu_(), False),
        (rectified_base, True),
        (rectified_part, True),
        (into_a_constant, True),
    ],
)
def test_writing_into_shared_memory_is_noticed(write, aliasing):
    taken = trace(Writes(write), IMAGE)
    assert any(op.aliasing for op in taken.ops) is aliasing
    assert 0 in taken.leading_to(taken.output), "the output's dependence on the input was lost"
    written = next(i for i, op in enumerate(taken.ops) if op.function._schema.is_mutable)
    last = taken.ops[-1].inputs[0]
    assert taken.made_by[last.index] >= written, "the value from before it was written to"


# --- memory


class Counting(TorchDispatchMode):
    """The most bytes that a pass takes at one time, asked of the allocations themselves; weights are not counted."""

    def __init__(self, net, image):
        super().__init__()
        self.seen = {StorageWeakRef(weight.untyped_storage()): 0 for weight in net.state_dict().values()}
        self.seen[StorageWeakRef(image.untyped_storage())] = image.numel() * image.element_size()
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        for leaf in tree_iter(output):
            if isinstance(leaf, torch.Tensor):
                self.seen.setdefault(StorageWeakRef(leaf.untyped_storage()), leaf.numel() * leaf.element_size())
        self.peak = max(self.peak, sum(size for ref, size in self.seen.items() if not ref.expired()))
        return output


def counted(net, image=IMAGE):
    with torch.no_grad(), Counting(net, image) as count:
        net(image)
    return count.peak


def chain(in_place):
    relu = nn.ReLU(inplace=in_place)
    return nn.Sequential(conv(3, 8), relu, conv(8, 16), relu, nn.Dropout(), conv(16, 4), nn.Flatten()).eval()


@pytest.mark.parametrize("in_place", [True, False])
def test_memory_of_a_chain_by_hand(in_place):
    taken = trace(chain(in_place), IMAGE)
    # In place: the image, the 8 maps and the 16 that are made of them. Else 16 and 16 at the second ReLU.
    assert taken.peak_bytes == (3 + 8 + 16) * MAP if in_place else (3 + 16 + 16) * MAP
    assert taken.held_bytes == (8 + 16 + 4) * MAP if in_place else (2 * 8 + 2 * 16 + 4) * MAP
    assert taken.peak_bytes == counted(chain(in_place))


def test_a_view_keeps_what_it_is_a_view_of():
    class Slices(nn.Module):
        def forward(self, x):
            x = (x.repeat(1, 8, 1, 1) * 2)[:, :1]
            return x.repeat(1, 12, 1, 1) * 2

    taken = trace(Slices(), IMAGE)
    assert taken.peak_bytes == (3 + 24 + 24) * MAP  # while the first product is made, of the repeated image
    assert taken.peak_bytes == counted(Slices())
    net = nn.Sequential(Slices(), nn.Identity())
    assert trace(net, IMAGE).held_bytes == (24 + 24 + 12 + 12) * MAP


@pytest.mark.parametrize("build", [Student, RootSum, Loop, Reused, DeadCode])
def test_memory_of_other_networks_is_near_the_real_one(build):
    """Python holds some values longer than they are needed; never twice as much."""
    net = build().eval()
    assert trace(net, IMAGE).peak_bytes <= counted(net) <= 2 * trace(net, IMAGE).peak_bytes


def test_no_value_is_kept():
    net, alive = Student(), []
    net.conv2.register_forward_hook(lambda _, __, output: alive.append(weakref.ref(output)))
    trace(net, IMAGE)
    assert alive[0]() is None


# --- kept while it is true


def test_taken_once():
    net = Student()
    count = []
    net.fc.register_forward_hook(lambda *_: count.append(1))
    taken = trace(net, IMAGE)
    assert trace(net, torch.rand(7, 3, 16, 16)) is taken
    net.train()
    assert trace(net, IMAGE) is taken
    assert len(count) == 1


def other_module(net):
    net.conv2 = conv(4, 5, 1)


def other_type(net):
    net.double()


def other_weight(net):
    net.fc.weight = nn.Parameter(torch.zeros(6, 80))


def other_data(net):
    net.fc.weight.data, net.fc.bias.data = torch.zeros(9, 80), torch.zeros(9)


def another_buffer(net):
    net.register_buffer("seen", torch.zeros(1))


def a_step(net):
    with torch.no_grad():
        net.conv1.weight.mul_(0.9)


@pytest.mark.parametrize("change", [other_module, other_type, other_weight, other_data, another_buffer, a_step])
def test_taken_anew_after_a_change(change):
    net = Student()
    before = trace(net, IMAGE)
    change(net)
    image = IMAGE.to(net.fc.weight.dtype)
    after = trace(net, image)
    assert after is not before
    assert any(net.conv2.weight is arg for op in after.ops for arg in op.args)
    assert after.output.shape == (1, len(net.fc.bias))
    assert after.output.bytes == len(net.fc.bias) * image.element_size()


def test_lazy_layers_are_called_first():
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(UsageError, match="Sequential has lazy layers"):
        trace(net, IMAGE)
    net(IMAGE)
    assert trace(net, IMAGE).output.shape == (1, 2)


def test_a_change_of_type_behind_a_classifier():
    """The pixels stay what they are, so nothing of the call tells."""
    classifier = Classifier(Student())
    before = trace(classifier.network, IMAGE, through=classifier).event("conv1").value.bytes
    classifier.double()
    assert trace(classifier.network, IMAGE, through=classifier).event("conv1").value.bytes == 2 * before


def test_a_new_module_at_an_old_address_is_not_taken_for_the_old():
    net = nn.Sequential(conv(3, 4), nn.ReLU())
    for kind in (nn.ReLU, nn.Tanh, nn.ReLU, nn.Sigmoid) * 5:
        del net[1]
        net.append(kind())
        assert trace(net, IMAGE).event("1").kind == kind.__name__


def test_other_sizes_and_types_of_image():
    net = nn.Sequential(conv(3, 4), nn.ReLU())
    sizes = [(16, 16), (12, 20), (16, 16)]
    taken = [trace(net, torch.rand(1, 3, *size)) for size in sizes]
    assert [t.output.shape[2:] for t in taken] == sizes
    assert taken[0] is taken[2]
    assert trace(net.double(), IMAGE.double()).output.bytes == 2 * taken[0].output.bytes


class Holding(nn.Module):
    """A part knows the whole, as when a network hooks its own layer."""

    def __init__(self):
        super().__init__()
        self.conv = conv(3, 4)
        self.conv.register_forward_hook(self.note)

    def note(self, *_):
        self.noted = True

    def forward(self, x):
        return F.relu(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize("build", [Student, Holding])
def test_a_trace_does_not_keep_its_model(build):
    net = build()
    classifier = Classifier(net)
    trace(net, IMAGE)
    trace(net, IMAGE, through=classifier)
    model, weight = weakref.ref(net), weakref.ref(net.get_parameter("conv.weight" if build is Holding else "fc.weight"))
    del net, classifier
    gc.collect()
    assert model() is None
    assert weight() is None
