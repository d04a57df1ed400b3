"""What every registered method promises, whatever it computes. A new method is tested here without a line more."""

import random
import subprocess
import sys
from contextlib import suppress
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convscope.errors import Cancelled, UsageError
from convscope.instrument.address import Address
from convscope.instrument.batches import AT_ONCE
from convscope.instrument.target import Target, resolve_target
from convscope.methods import METHODS, configure
from convscope.models.classifier import Classifier, probabilities
from convscope.progress import reporting
from convscope.scope import Scope
from tests import nets
from tests.nets import MEAN, QUICK, STD, Skip, classifier_of, seeded
from tests.oracles import differs, near

every = pytest.mark.parametrize("name", METHODS)
cheap = pytest.mark.parametrize("name", [name for name, cls in METHODS.items() if not cls.traits.costly])
CLASSES = (1, 3, 0)


def skip(form="modules"):
    """Guided backpropagation gives nothing for many a random network; with this seed something for each class."""
    return classifier_of(Skip(form), seed=13)


def photos(count=1, channels=3, height=17, width=22):
    return nets.photos(count, channels, height, width)


def having(*names):
    """The methods that have one of these settings."""
    return [name for name, cls in METHODS.items() if set(names) & set(cls.__dataclass_fields__)]


def of(*kinds):
    return [name for name, cls in METHODS.items() if cls.traits.kind in kinds]


TARGETED = [name for name, cls in METHODS.items() if cls.traits.targeted]
RANDOM = [name for name in having("seed") if isinstance(METHODS[name].__dataclass_fields__["seed"].default, int)]
LAYERED = [name for name in having("layer") if METHODS[name].traits.targeted]  # CAMs: their layer is before the target


def run(name, classifier, images, target=None, **settings):
    if target is None:
        target = Target(index=CLASSES[: len(images)])
    return configure(name, QUICK.get(name, {}) | settings).run(classifier, images, target)


def raw(name, classifier, images, target=None, **settings):
    return run(name, classifier, images, target, **settings).raw


# --- no trace is left


class Fuse(nn.Module):
    """Hands on what it is given, until a call that raises: then, or in its backward pass."""

    def __init__(self, at=None, error=None, backward=False):
        super().__init__()
        self.at, self.error, self.backward = at, error, backward
        self.count = [0]

    def forward(self, x):
        self.count[0] += 1
        if self.count[0] != self.at:
            return x
        if self.backward:
            return _Explode.apply(x, self.error)
        raise self.error


class _Explode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, error):
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        raise ctx.error


class Boom(Exception):
    pass


def disturbed(fuse=None):
    """A classifier in a state of its own: mixed modes, mixed frozen parameters, gradients and hooks that lie about."""
    net = seeded(Skip("modules in place"))
    net.middle = fuse or Fuse()
    net.train()
    net.norm2.eval()
    net.drop.eval()
    net.conv3.weight.requires_grad_(False)
    net.conv2.weight.grad = torch.ones_like(net.conv2.weight)
    net.conv4.register_forward_hook(lambda *_: None)
    return Classifier(net, mean=MEAN, std=STD)


def state(classifier, images):
    """All that a method could leave behind, as plain values."""
    modules = {path: [type(m), m.training, getattr(m, "inplace", None)] for path, m in classifier.named_modules()}
    hooks = {
        (path, kind): list(value)
        for path, module in classifier.named_modules()
        for kind, value in vars(module).items()
        if "hook" in kind and hasattr(value, "__len__")
    }
    everywhere = {
        k: len(v) for k, v in vars(nn.modules.module).items() if "global" in k and "hooks" in k and v is not None
    }
    parameters = {
        path: [p.requires_grad, bits(p), p.grad is not None and bits(p.grad), p._version]
        for path, p in classifier.named_parameters()
    }
    overridden = {path: sorted(vars(m)) for path, m in classifier.named_modules()}
    return {
        "modules": modules,
        "hooks": hooks,
        "global hooks": everywhere,
        "parameters": parameters,
        "buffers": {path: bits(b) for path, b in classifier.named_buffers()},
        "attributes": overridden,
        "torch's randomness": bits(torch.get_rng_state()),
        "numpy's randomness": str(np.random.get_state()),
        "images": [bits(images), images.requires_grad, images.grad, images._version],
        "modes": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()],
        "function modes": torch._C._len_torch_function_stack(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def bits(tensor):
    return tensor.detach().numpy().tobytes()


def the_same(before, after):
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert value == after[key], key


@every
def test_nothing_is_left_after_success(name):
    classifier, images = disturbed(), photos(2)
    before = state(classifier, images)
    run(name, classifier, images)
    the_same(before, state(classifier, images))


@cache
def calls(name):
    """How often the middle of the network runs."""
    fuse = Fuse()
    run(name, disturbed(fuse), photos(2))
    return fuse.count[0]


@every
@pytest.mark.parametrize("error", [Boom(), RuntimeError("boom"), KeyboardInterrupt()], ids=repr)
def test_nothing_is_left_after_an_exception_in_any_pass(name, error):
    total = calls(name)
    for at in sorted({1, 2, total // 2, total} & set(range(1, total + 1))):
        classifier, images = disturbed(Fuse(at, error)), photos(2)
        before = state(classifier, images)
        try:
            run(name, classifier, images)
        except type(error):
            pass
        else:  # it may be survived (by other means), when it could have meant that a way is not open
            assert isinstance(error, RuntimeError)
        the_same(before, state(classifier, images))


@cheap
def test_nothing_is_left_after_an_exception_in_a_backward_pass(name):
    for at in range(1, calls(name) + 1):
        classifier, images = disturbed(Fuse(at, Boom(), backward=True)), photos(2)
        before = state(classifier, images)
        with suppress(Boom):
            run(name, classifier, images)
        the_same(before, state(classifier, images))


@pytest.mark.parametrize("name", TARGETED)
def test_nothing_is_left_after_an_exception_in_the_target(name):
    def target(logits):
        raise Boom

    classifier, images = disturbed(), photos(2)
    before = state(classifier, images)
    with pytest.raises(Boom):
        run(name, classifier, images, Target(function=target))
    the_same(before, state(classifier, images))


@pytest.mark.parametrize("name", TARGETED)
def test_nothing_is_left_after_an_impossible_class(name):
    classifier, images = disturbed(), photos(2)
    before = state(classifier, images)
    with pytest.raises(UsageError, match="out of range"):
        run(name, classifier, images, Target(index=(0, 17)))
    the_same(before, state(classifier, images))


@every
def test_nothing_is_left_after_a_cancel(name):
    class Listener:
        begun = 0

        def begin(self, label, total):
            self.begun += 1

        def advance(self, done): ...

        def end(self):
            self.begun -= 1

    classifier, images, listener = disturbed(), photos(2), Listener()
    before = state(classifier, images)
    looks = iter([False, True])
    with reporting(listener, cancel=lambda: next(looks, True)):
        try:
            run(name, classifier, images)
        except Cancelled:
            pass
        else:
            assert not METHODS[name].traits.costly
    assert listener.begun == 0
    the_same(before, state(classifier, images))


def test_pythons_randomness_is_left_alone():
    # In a process without the checks of shapes, which draw from it themselves.
    code = """
import random
from convscope.methods import METHODS, configure
from convscope.instrument.target import Target
from tests.nets import QUICK, Skip, classifier_of, photos
classifier, images = classifier_of(Skip()), photos()
for name in METHODS:
    before = random.getstate()
    configure(name, QUICK.get(name, {})).run(classifier, images, Target(index=(1,)))
    assert random.getstate() == before, name
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- the same result, however it is asked for


@every
def test_a_batch_gives_what_its_images_give_alone(name):
    classifier, images = skip("functional in place"), photos(3)
    together = run(name, classifier, images)
    if together.traits.kind == "weights":
        return
    for i, index in enumerate(CLASSES):
        alone = run(name, classifier, images[i : i + 1], Target(index=(index,)))
        near(together.raw[i : i + 1], alone.raw)
        if alone.scores is not None:
            near(together.scores[i : i + 1], alone.scores)


@cheap
def test_a_batch_larger_than_a_pass(name):
    classifier, images = skip(), photos(18)
    target = Target(index=tuple(i % 4 for i in range(18)))
    together = run(name, classifier, images, target)
    if together.traits.kind == "weights":
        return
    for i in (0, 15, 16, 17):
        near(together.raw[i], raw(name, classifier, images[i : i + 1], target[i : i + 1])[0])


class Widest(nn.Module):
    """Hands on what it is given and remembers the largest batch of it."""

    def __init__(self):
        super().__init__()
        self.seen = [0]

    def forward(self, x):
        self.seen[0] = max(self.seen[0], len(x))
        return x


@pytest.mark.parametrize("name", having("budget"))
def test_a_budget_holds_for_any_number_of_images(name):
    widest = Widest()
    run(name, disturbed(widest), photos(3), chunk=1)
    assert widest.seen[0] <= 2, "two variants are what incremental inference is tried on"


@every
def test_many_images_are_not_in_one_pass(name):
    widest = Widest()
    run(name, disturbed(widest), photos(AT_ONCE + 1), Target(index=(1,) * (AT_ONCE + 1)))
    assert widest.seen[0] <= AT_ONCE


@pytest.mark.parametrize("name", having("chunk"))
def test_any_chunk_gives_the_same(name):
    classifier, images = skip(), photos(2)
    wanted = raw(name, classifier, images)
    for chunk in (1, 3, 1000):
        near(raw(name, classifier, images, chunk=chunk), wanted)


@pytest.mark.parametrize("name", having("budget"))
def test_any_budget_gives_the_same_or_is_refused(name):
    classifier, images = skip(), photos(2)
    wanted = raw(name, classifier, images)
    for budget in (0.5, 1.0, 2.0, 5.0):
        near(raw(name, classifier, images, budget=budget), wanted)
    for budget in (0.001, 0.0, -1.0):
        with pytest.raises(UsageError, match="budget"):
            raw(name, classifier, images, budget=budget)


@pytest.mark.parametrize("name", having("budget"))
def test_a_budget_bounds_the_batches(name):
    classifier, images, sizes = skip(), photos(), []
    classifier.network.conv1.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    least = 8 * 17 * 22 * (3 + 6)  # bytes of a variant's pixels and of the first layer's maps, which live together
    largest = {}
    for budget in (0.25, 0.5, 1.0, 1024.0):
        raw(name, classifier, images, budget=budget)
        largest[budget] = max(sizes)
        assert largest[budget] * least <= budget * 2**20
        sizes.clear()
    # Those that run whole networks are to use what they may.
    assert largest[1024.0] > largest[0.25] or largest[1024.0] <= 2


@every
def test_the_same_twice_whatever_the_global_seed(name):
    classifier, images = skip(), photos(2)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        found.append(raw(name, classifier, images))
    assert torch.equal(*found)


@pytest.mark.parametrize("name", RANDOM)
def test_the_same_seed_gives_the_same_and_another_another(name):
    classifier, images = skip(), photos(2)
    wanted = raw(name, classifier, images, seed=5)
    assert torch.equal(raw(name, classifier, images, seed=5), wanted)
    differs(raw(name, classifier, images, seed=6), wanted)


def test_the_methods_that_draw_numbers_have_a_seed():
    assert {"rise", "smoothgrad", "vargrad"} <= set(RANDOM)


class DropoutLeftOn(Skip):
    """``F.dropout`` without ``training=self.training``, a common mistake."""

    def forward(self, x):
        x = F.dropout(self.relu1(self.norm1(self.conv1(x))), 0.3, training=True)
        x = self.relu3(self.conv3(F.max_pool2d(x, 4)))
        return self.fc2(F.dropout(self.fc1(F.adaptive_avg_pool2d(self.conv4(x), 3).flatten(1)), 0.3))


@every
def test_a_network_that_draws_numbers_is_the_same_twice(name):
    images, found = photos(2), []
    for seed in (1, 2):
        torch.manual_seed(seed)
        found.append(raw(name, classifier_of(DropoutLeftOn()), images))
    assert torch.equal(*found)


@every
def test_evaluation_mode_is_forced(name):
    classifier, images = skip(), photos(2)
    wanted = raw(name, classifier, images)
    statistics = classifier.network.norm1.running_mean.clone()
    classifier.train()
    near(raw(name, classifier, images), wanted)
    assert torch.equal(classifier.network.norm1.running_mean, statistics)


@every
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inside_a_callers_no_grad(name, mode):
    classifier = skip("functional in place")
    wanted = raw(name, classifier, photos(2))
    with mode():
        found = raw(name, classifier, photos(2))  # made in here: inference tensors
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    near(found, wanted)


@every
def test_images_that_want_gradients(name):
    classifier, images = skip(), photos(2)
    wanted = raw(name, classifier, images)
    leaf = images.clone().requires_grad_()
    found = raw(name, classifier, leaf)
    assert not found.requires_grad
    assert leaf.grad is None
    near(found, wanted)


@every
@pytest.mark.parametrize("form", ["modules in place", "reused", "method in place"])
def test_the_way_a_relu_is_written_does_not_matter(name, form):
    images = photos(2)
    near(raw(name, skip(form), images), raw(name, skip(), images))


class Aliased(Skip):
    """Every convolution under a second name, and one of them used twice."""

    def __init__(self):
        super().__init__()
        self.also = nn.ModuleList([self.conv1, self.conv2, self.conv3, self.conv4])
        self.again = self.conv2

    def forward(self, x):
        x = self.relu1(self.conv2(F.max_pool2d(self.relu1(self.norm1(self.conv1(x))), 2)))
        x = self.relu4(self.conv4(self.relu3(self.conv3(self.again(x)))))
        return self.fc2(self.fc1(F.adaptive_avg_pool2d(x, 3).flatten(1)))


@every
def test_aliased_modules(name):
    classifier, images = classifier_of(Aliased()), photos(2)
    before = state(classifier, images)
    found = raw(name, classifier, images)
    the_same(before, state(classifier, images))
    if name in having("layer"):
        layers = ["conv3", "also.2"]
        near(*(raw(name, classifier, images, layer=layer) for layer in layers))
        if METHODS[name].traits.kind != "weights":
            differs(raw(name, classifier, images, layer="conv2#2"), raw(name, classifier, images, layer="conv2"))
            near(raw(name, classifier, images, layer="again#2"), raw(name, classifier, images, layer="conv2#2"))
    assert bool(found.isfinite().all())


# --- what the result is


@every
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("canvas", [(24, 24), (24, 33), (35, 24)])
def test_shape_and_sign_are_as_declared(name, channels, canvas):
    classifier = classifier_of(Skip(channels=channels), mean=MEAN[:channels], std=STD[:channels])
    images = photos(2, channels, *canvas)
    explanation = run(name, classifier, images)
    found, traits = explanation.raw, METHODS[name].traits
    assert bool(found.isfinite().all())
    if traits.kind == "map":
        assert found.shape == (2, *canvas)
    elif traits.kind == "pixels":
        assert found.shape == (2, channels, *canvas)
    elif traits.kind == "features":
        assert found.shape[0] == 2
        assert found.ndim == 4
    else:
        assert found.shape[1] == channels
        assert found.ndim == 4
    assert bool((found > 0).any())
    assert traits.sign != "positive" or bool((found >= 0).all())


SIGNED = [name for name, cls in METHODS.items() if cls.traits.sign == "signed" and cls.traits.kind != "features"]


@pytest.mark.parametrize("name", SIGNED)
def test_what_is_declared_signed_has_both_signs(name):
    found = raw(name, skip(), photos(3))
    assert bool((found < 0).any())
    assert bool((found > 0).any())


def likeness(found, wanted):
    return float(F.cosine_similarity(found.double().flatten(), wanted.double().flatten(), dim=0))


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_images(name, dtype):
    # The reference has the weights and pixels that the dtype can hold, so that the computation alone differs.
    images = photos(2).to(dtype)
    net = seeded(Skip(), 13).to(dtype)
    wanted = raw(name, Classifier(seeded(Skip(), 13).to(dtype).double(), mean=MEAN, std=STD), images.double())
    found = raw(name, Classifier(net, mean=MEAN, std=STD), images)
    assert found.dtype == dtype
    if dtype == torch.bfloat16:  # 8 bits of mantissa: switches flip where maxima are near one another
        assert likeness(found, wanted) > 0.9
    else:
        near(found, wanted, 1e-4 if dtype == torch.float32 else 1e-10)


@pytest.mark.parametrize("name", of("map", "pixels", "features"))
@pytest.mark.parametrize(("pixels", "weights"), [(torch.float64, torch.float32), (torch.float32, torch.float64)])
def test_images_of_another_dtype_than_the_weights(name, pixels, weights):
    classifier = Classifier(seeded(Skip(), 13).to(weights), mean=MEAN, std=STD)
    found = raw(name, classifier, photos(2).to(pixels))
    assert found.dtype == pixels
    near(found, raw(name, skip(), photos(2)), 1e-4)


DEVICES = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()


@every
@pytest.mark.parametrize("device", DEVICES or ["cpu"])
def test_every_device_gives_the_same_there(name, device):
    dtype, tolerance = (torch.float32, 1e-3) if device == "mps" else (torch.float64, 1e-8)
    found = raw(name, skip().to(device, dtype), photos(2).to(device, dtype))
    assert found.device.type == device
    near(found.cpu(), raw(name, skip(), photos(2)), tolerance)


@every
def test_nan_weights_are_noted(name):
    classifier, images = skip(), photos(2)
    for parameter in classifier.parameters():
        parameter.data.fill_(torch.nan)
    notes = run(name, classifier, images).notes
    assert any("not finite" in note for note in notes)


def indifferent():
    """A network whose logits are the same for every image, and whose maps are all zero."""
    classifier = skip()
    for path, parameter in classifier.network.named_parameters():
        if path != "fc2.bias":
            parameter.data.zero_()
    return classifier


@every
@pytest.mark.parametrize("count", [1, 2])
def test_a_result_of_nothing_is_noted(name, count):
    notes = run(name, indifferent(), photos(count)).notes
    assert any("zero everywhere" in note or "nothing was found" in note for note in notes), notes


@every
def test_what_an_explanation_says_of_itself(name):
    classifier, images = skip(), photos(3)
    explanation = run(name, classifier, images)
    assert explanation.method == name
    assert QUICK.get(name, {}).items() <= explanation.settings.items()
    assert torch.equal(explanation.images, images)
    if METHODS[name].traits.targeted:
        assert explanation.labels == tuple(f"class {index}" for index in CLASSES)
        near(explanation.scores, classifier(images)[range(3), CLASSES])
    if "layer" in METHODS[name].__dataclass_fields__:
        assert explanation.layer in dict(classifier.network.named_modules())


# --- targets


def by_scope(name, classifier, images, target, **more):
    return Scope(classifier, progress=False).explain(images, name, target, **QUICK.get(name, {}), **more)


@pytest.mark.parametrize("name", TARGETED)
def test_the_most_probable_class_by_default(name):
    classifier, images = skip(), photos(3)
    best = probabilities(classifier(images)).argmax(1).tolist()
    found = by_scope(name, classifier, images, None)
    near(found.raw, raw(name, classifier, images, Target(index=tuple(best))))
    assert found.target.index == tuple(best)


@pytest.mark.parametrize("name", TARGETED)
def test_one_class_for_all_or_one_an_image(name):
    classifier, images = skip(), photos(3)
    near(by_scope(name, classifier, images, 2).raw, raw(name, classifier, images, Target(index=(2, 2, 2))))
    near(by_scope(name, classifier, images, [1, 3, 0]).raw, raw(name, classifier, images))


@pytest.mark.parametrize("name", TARGETED)
def test_several_classes_of_one_image(name):
    classifier, images = skip(), photos()
    found = by_scope(name, classifier, images, [1, 3])
    near(found.raw, raw(name, classifier, images.repeat(2, 1, 1, 1), Target(index=(1, 3))))


@pytest.mark.parametrize("name", TARGETED)
def test_the_target_matters(name):
    classifier, images = skip(), photos()
    found = [raw(name, classifier, images, Target(index=(index,))) for index in range(4)]
    assert max(likeness(a, b) for a, b in pairwise(found)) < 0.9999


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(TARGETED)))
def test_the_target_does_not_matter(name):
    classifier, images = skip(), photos(2)
    assert torch.equal(raw(name, classifier, images, Target(index=(0, 0))), raw(name, classifier, images))


@pytest.mark.parametrize("name", TARGETED)
def test_a_callable_that_reads_a_logit_is_that_class(name):
    classifier, images = skip(), photos(2)
    found = by_scope(name, classifier, images, lambda logits: logits[:, 2])
    near(found.scores, classifier(images)[:, 2])
    if name != "rise":  # which takes a class's probability
        near(found.raw, raw(name, classifier, images, Target(index=(2, 2))))


@pytest.mark.parametrize("name", TARGETED)
def test_a_class_against_another(name):
    classifier, images = skip(), photos(2)
    found = by_scope(name, classifier, images, 2, against=0)
    near(found.raw, raw(name, classifier, images, Target(function=lambda logits: logits[:, 2] - logits[:, 0])))
    assert found.labels == ("class 2 against class 0",) * 2


UNITS = [("conv4", 3, None), ("conv4", 2, (1, 2)), ("fc1", 4, None)]


@pytest.mark.parametrize("name", TARGETED)
@pytest.mark.parametrize(("layer", "unit", "place"), UNITS)
def test_a_unit_and_a_neuron(name, layer, unit, place):
    classifier, images = skip(), photos(2)
    maps = raw("activations", classifier, images, layer=layer)[:, unit]
    wanted = maps.amax((1, 2)) if place is None else maps[:, *place]
    where = "" if place is None else f"@{place[0]},{place[1]}"
    settings = {"layer": "relu2"} if name in LAYERED else {}
    found = by_scope(name, classifier, images, f"{layer}:{unit}{where}", **settings)
    near(found.scores, wanted)
    assert found.labels == (f"{layer}:{unit}{where}",) * 2
    other = by_scope(name, classifier, images, f"{layer}:1{where}", **settings)
    assert likeness(found.raw, other.raw) < 0.9999


@pytest.mark.parametrize("name", TARGETED)
def test_a_layer_means_its_strongest_units(name):
    classifier, images = skip(), photos(2)
    settings = {"layer": "relu2"} if name in LAYERED else {}
    found = by_scope(name, classifier, images, "conv4", strongest=2, **settings)
    assert len(found) == 4
    target, rows = resolve_target(classifier, images, "conv4", strongest=2)
    assert rows == [0, 0, 1, 1]
    near(found.raw, raw(name, classifier, images[rows], target, **settings))


@pytest.mark.parametrize("name", LAYERED)
def test_a_layer_after_the_target_is_refused(name):
    classifier, images = skip(), photos()
    with pytest.raises(UsageError, match=r"conv4 (does not come before the target|did not run)"):
        run(name, classifier, images, Target(Address("conv3"), (2,)), layer="conv4")


@pytest.mark.parametrize("name", having("layer"))
def test_a_layer_that_is_not_there_is_refused_with_the_nearest(name):
    with pytest.raises(UsageError, match=r"unknown layer 'conv44?'?.*conv4"):
        run(name, skip(), photos(), layer="conv44")
