"""Backward rules: every way to write a ReLU follows the table exactly, in float64; what cannot is refused."""

import inspect
import warnings
from contextlib import nullcontext, suppress

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from convscope.errors import RuleError, UsageError
from convscope.instrument.backward import RULES, relu_rule
from convscope.instrument.record import record
from tests.instrument.nets import Reused, Student, conv
from tests.nets import seeded

DRAWN = torch.Generator().manual_seed(0)
X = torch.randn(2, 4, 5, 6, generator=DRAWN, dtype=torch.float64)
G = torch.randn(2, 4, 5, 6, generator=DRAWN, dtype=torch.float64)
ZEROS = torch.zeros_like(X)

FORMS = {
    "nn.ReLU": nn.ReLU(),
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "method": Tensor.relu,
    "clamp": lambda x: x.clamp(min=0),
    "clamp, positional": lambda x: x.clamp(0.0),
    "clamp at a tensor": lambda x: x.clamp(min=torch.tensor(0.0)),
    "torch.clamp": lambda x: torch.clamp(input=x, min=0),
    "clip": lambda x: x.clip(0),
    "clamp_min": lambda x: x.clamp_min(0),
    "torch.clamp_min": lambda x: torch.clamp_min(x, 0),
    "nn.Threshold": nn.Threshold(0, 0),
    "F.threshold": lambda x: F.threshold(x, 0, 0),
    "torch.threshold": lambda x: torch.threshold(x, 0, 0),
    "maximum": lambda x: torch.maximum(x, ZEROS),
    "maximum, zeros first": lambda x: torch.maximum(torch.zeros_like(x), x),
    "maximum with one zero": lambda x: torch.maximum(x, torch.zeros(1)),
    "max of two": lambda x: torch.max(x, ZEROS),
    "max, by name": lambda x: torch.max(x, other=ZEROS),
    "max, method": lambda x: x.max(ZEROS),
}
IN_PLACE = {
    "nn.ReLU": nn.ReLU(inplace=True),
    "F.relu": lambda x: F.relu(x, inplace=True),
    "F.relu_": F.relu_,
    "torch.relu_": torch.relu_,
    "method": Tensor.relu_,
    "clamp_": lambda x: x.clamp_(min=0),
    "torch.clamp_": lambda x: torch.clamp_(x, 0),
    "clip_": lambda x: x.clip_(0),
    "clamp_min_": lambda x: x.clamp_min_(0),
    "torch.clamp_min_": lambda x: torch.clamp_min_(x, 0),
    "nn.Threshold": nn.Threshold(0, 0, inplace=True),
    "F.threshold_": lambda x: F.threshold_(x, 0, 0),
}
BOUNDED = {
    "nn.ReLU6": nn.ReLU6(),
    "nn.ReLU6 in place": nn.ReLU6(inplace=True),
    "F.relu6": F.relu6,
    "F.hardtanh": lambda x: F.hardtanh(x, 0, 6),
    "F.hardtanh_": lambda x: F.hardtanh_(x, 0, 6),
    "nn.Hardtanh": nn.Hardtanh(0.0, 6.0),
    "clamp": lambda x: x.clamp(0, 6),
    "clamp_": lambda x: x.clamp_(0, 6),
}


def table(rule, x, g, top=float("inf")):
    """What the rule passes down of ``g``."""
    inside = (x > 0) & (x < top)
    return {"gradient": g * inside, "deconvnet": g * (g > 0), "guided": g * (inside & (g > 0))}[rule]


def apply(form, rule, x=X, g=G):
    """The output, what comes down at ``x`` of the signal ``g``, and the notes."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    with relu_rule(rule) as applied:
        y = form(x * 1)
        notes = applied.verify(y)
    return y.detach(), torch.autograd.grad(y, x, g)[0], notes


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", FORMS)
def test_every_form(name, rule):
    y, down, notes = apply(FORMS[name], rule)
    assert torch.equal(y, X * (X > 0))
    assert torch.equal(down, table(rule, X, G))
    assert notes == ()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_forms_stay_in_place(name, rule):
    """Who reads the tensor by its old name reads what was rectified, and sends a signal through the rectifier too."""

    def form(x):
        y = IN_PLACE[name](x)
        assert torch.equal(x.detach(), X.relu())
        assert y is x
        return y + x

    y, down, _ = apply(form, rule)
    assert torch.equal(y, X.relu() * 2)
    assert torch.equal(down, table(rule, X, G * 2))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", BOUNDED)
def test_forms_with_an_upper_bound(name, rule):
    x = X * 6
    y, down, _ = apply(BOUNDED[name], rule, x)
    assert bool((x > 6).any())
    assert torch.equal(y, x.clamp(0, 6))
    assert torch.equal(down, table(rule, x, G, 6))


@pytest.mark.parametrize("name", FORMS)
def test_at_zero_and_without_a_signal(name):
    x = torch.tensor([[-1.0, 0.0, 1.0, 2.0]], dtype=torch.float64)[..., None, None]
    g = torch.tensor([[1.0, 1.0, 0.0, -1.0]], dtype=torch.float64)[..., None, None]
    form = (lambda x: torch.maximum(x, torch.zeros_like(x))) if "max" in name else FORMS[name]
    assert apply(form, "deconvnet", x, g)[1].flatten().tolist() == [1, 1, 0, 0]
    assert apply(form, "guided", x, 1 + g)[1].flatten().tolist() == [0, 0, 1, 0]


WRITABLE = {"bounded " + name: form for name, form in BOUNDED.items()}
WRITABLE |= {name: form for name, form in FORMS.items() if name not in ("nn.ReLU", "F.relu", "torch.relu", "method")}


@pytest.mark.parametrize("name", WRITABLE)
def test_a_sum_in_place_afterwards(name):
    """PyTorch lets the output of these forms be written to, so the rules do."""
    form = WRITABLE[name]
    assert torch.equal(apply(lambda x: form(x).add_(1), "guided")[1], table("guided", X, G))


def test_maximum_grows_to_the_shape_and_type_of_its_zeros():
    x, g = X[:1].float(), G
    y, down, _ = apply(lambda x: torch.maximum(x, ZEROS), "guided", x, g)
    assert y.dtype == torch.float64
    assert torch.allclose(down, table("guided", X[:1].float(), g.relu()).float().sum(0, keepdim=True), atol=1e-6)


# --- layouts, views, types


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("form", [F.relu, Tensor.relu_, F.relu6, lambda x: x.clamp_(0, 6)])
def test_layouts(rule, form):
    for layout in (
        lambda t: t.to(memory_format=torch.channels_last),
        lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    ):
        x, g = layout(X), layout(G)
        assert not x.is_contiguous()
        assert torch.equal(apply(form, rule, x, g)[1], table(rule, X, G, 6))
        assert torch.equal(apply(form, rule, x, G)[1], table(rule, X, G, 6))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_types(rule, dtype):
    x, g = X.to(dtype), G.to(dtype)
    for form in (F.relu, F.relu6, Tensor.relu_):
        y, down, _ = apply(form, rule, x, g)
        assert (y.dtype, down.dtype) == (dtype, dtype)
        assert torch.equal(down, table(rule, x, g, 6))


@pytest.mark.parametrize("rule", RULES)
def test_in_place_on_a_view(rule):
    def form(x):
        x[:, :2].relu_()
        return x

    y, down, _ = apply(form, rule)
    assert torch.equal(y, torch.cat([X[:, :2].relu(), X[:, 2:]], 1))
    assert torch.equal(down, torch.cat([table(rule, X[:, :2], G[:, :2]), G[:, 2:]], 1))


@pytest.mark.parametrize("rule", RULES)
def test_chunks(rule):
    _, down, _ = apply(lambda x: torch.cat([F.relu(part) for part in x.chunk(2, 1)], 1), rule)
    assert torch.equal(down, table(rule, X, G))


@pytest.mark.parametrize("rule", RULES)
def test_in_place_on_a_chunk_is_refused_by_pytorch_itself(rule):
    with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
        apply(lambda x: torch.cat([F.relu_(part) for part in x.chunk(2, 1)], 1), rule)


@pytest.mark.parametrize("rule", RULES)
def test_a_reused_module(rule):
    """By hand, down the three calls of one ReLU and the two of one convolution."""
    net = seeded(Reused()).requires_grad_(False)
    image = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a = net.stem(image)
    b = net.conv(a.relu())
    c = net.conv(b.relu())
    g = (net.fc.weight[3] / 64).view(1, 4, 1, 1).expand(1, 4, 8, 8)
    g = F.conv_transpose2d(table(rule, c, g), net.conv.weight, padding=1)
    g = F.conv_transpose2d(table(rule, b, g), net.conv.weight, padding=1)
    g = F.conv_transpose2d(table(rule, a, g), net.stem.weight, padding=1)
    pixels = image.clone().requires_grad_()
    with relu_rule(rule) as applied:
        score = net(pixels)[0, 3]
        applied.verify(score)
    found = torch.autograd.grad(score, pixels)[0]
    assert found.any()
    assert torch.allclose(found, g, rtol=0, atol=1e-15)


def test_a_graph_used_twice():
    x = X.clone().requires_grad_()
    with relu_rule("guided"):
        y = F.relu(x) + F.relu6(x)
    for g in (G, -G):
        down = torch.autograd.grad(y, x, g, retain_graph=True)[0]
        assert torch.equal(down, table("guided", X, g) + table("guided", X, g, 6))


def test_two_rules_one_after_the_other():
    for rule in (*RULES, *RULES):
        assert torch.equal(apply(F.relu, rule)[1], table(rule, X, G))


# --- what is no rectifier


CIRCLE = torch.tensor([[0.0, 1, 1, 1, 1, 0], [1] * 6, [1] * 6, [1] * 6, [0, 1, 1, 1, 1, 0]], dtype=torch.float64)
PASSED = {
    "clamp(-1, 1)": lambda x: x.clamp(-1, 1),
    "clamp(max=1)": lambda x: x.clamp(max=1),
    "clamp(min=0.5)": lambda x: x.clamp(min=0.5),
    "clamp at maps": lambda x: x.clamp(min=X.flip(0)),
    "hardtanh": F.hardtanh,
    "maximum of maps": lambda x: torch.maximum(x, x.flip(0)),
    "maximum with a constant": lambda x: torch.maximum(x, torch.full_like(x, 0.1)),
    "max over channels": lambda x: x - x.max(1, keepdim=True).values,
    "max, positional": lambda x: x - torch.max(x, 1, True)[0],
    "max over all": lambda x: x - x.max(),
    "sigmoid gate": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "hard sigmoid gate": lambda x: x * F.hardsigmoid(x.mean((2, 3), keepdim=True)),
    "swish by hand": lambda x: x * torch.sigmoid(x),
    "a round frame": lambda x: x * CIRCLE,
    "a round frame filled": lambda x: x.masked_fill(CIRCLE == 0, 0.0),
    "one or the other by place": lambda x: torch.where(CIRCLE > 0, x, 2 * x),
    "channels switched off": lambda x: x * torch.tensor([1.0, 0, 1, 0]).view(1, 4, 1, 1),
    "dropout left on": lambda x: F.dropout(x, 0.5, training=True),
    "sum, product": lambda x: (x + 1) * x,
}


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", PASSED)
def test_what_is_no_rectifier_keeps_its_derivative(name, rule):
    torch.manual_seed(0)
    y, down, notes = apply(PASSED[name], rule)
    torch.manual_seed(0)
    x = X.clone().requires_grad_()
    plain = PASSED[name](x * 1)
    assert torch.equal(y, plain)
    assert torch.equal(down, torch.autograd.grad(plain, x, G)[0])
    assert notes == ()


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        return g * (ctx.saved_tensors[0] > 0)


NOTED = {
    "SiLU": nn.SiLU(),
    "GELU": nn.GELU(),
    "ELU": nn.ELU(),
    "CELU": nn.CELU(),
    "Hardswish": nn.Hardswish(),
    "Mish": nn.Mish(),
    "Softplus": nn.Softplus(),
    "LeakyReLU": nn.LeakyReLU(0.1),
    "PReLU": nn.PReLU(dtype=torch.float64),
    "Tanh": nn.Tanh(),
    "abs": torch.abs,
    "the autograd function Own": Own.apply,
    "the autograd function CrossMapLRN2d": nn.CrossMapLRN2d(3),
}


@pytest.mark.parametrize("name", NOTED)
def test_smooth_activations_are_noted(name):
    def form(x):
        return F.relu(NOTED[name](NOTED[name](x)))

    _, down, notes = apply(form, "guided")
    assert notes == (f"{name} kept its own derivative (2 times)",)
    x = X.clone().requires_grad_()
    inner = NOTED[name](NOTED[name](x))
    assert torch.equal(down, torch.autograd.grad(inner, x, table("guided", inner.detach(), G))[0])
    assert apply(form, "gradient")[2] == ()


def assigned(x):
    x = x.clone()
    x[x < 0] = 0
    return x


REFUSED = {
    "multiplication by a comparison": lambda x: x * (x > 0),
    "multiplication by a comparison ": lambda x: (x > 0).to(x.dtype) * x,
    "torch.where": lambda x: torch.where(x > 0, x, 0),
    "torch.where ": lambda x: x.where(x > 0, ZEROS),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0),
    "assignment where a comparison holds": assigned,
    "leakyrelu at 0": lambda x: F.leaky_relu(x, 0),
    "fmax at 0": lambda x: torch.fmax(x, ZEROS),
    "minimum at 0": lambda x: -torch.minimum(-x, ZEROS),
    "fmin at 0": lambda x: -torch.fmin(-x, ZEROS),
    "clamp at 0 ": lambda x: x - x.clamp(max=0),
    "clampmax at 0": lambda x: -(-x).clamp_max(0),
    "elu at 0": lambda x: F.elu(x, 0.0),
    "prelukernel at 0": lambda x: F.prelu(x, torch.zeros(4, dtype=x.dtype)),
    "ReLU": torch.ops.aten.relu.default,
    "clamp at 0": lambda x: torch.ops.aten.clamp(x, 0),
    "maximum at 0": lambda x: torch.ops.aten.maximum(x, ZEROS),
    "threshold": lambda x: F.threshold(x, 0.1, 20),
}


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_form_that_the_rule_cannot_reach_is_refused(name, rule):
    with pytest.raises(RuleError, match=f"the {rule} rule did not reach every rectifier: {name.strip()} \\(1\\)"):
        apply(REFUSED[name], rule)
    assert apply(REFUSED[name], "gradient")[2] == ()


def test_one_that_is_missed_among_others_is_found():
    with pytest.raises(RuleError, match=r"torch\.where \(2\)"):
        apply(lambda x: F.relu(torch.where(x > 0, F.relu(x), 0)) + torch.where(x > 1, x, 1), "guided")


def conv_relu():
    return nn.Sequential(conv(4, 4), nn.ReLU(), conv(4, 4), nn.ReLU()).double().requires_grad_(False)


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, X)], ids=["scripted", "traced"])
def test_scripted_code_is_refused(make, rule):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = make(conv_relu())
        for _ in range(3):  # the first runs are interpreted, later ones optimised
            with pytest.raises(RuleError, match="scripted, traced or compiled"):
                apply(lambda x: F.relu(net(x)), rule)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.filterwarnings("ignore")
def test_compiled_code_is_right_or_refused(backend, warm):
    torch._dynamo.reset()
    net = conv_relu()
    compiled = torch.compile(net, backend=backend)
    if warm:
        compiled(X.clone().requires_grad_()).sum().backward()
    for rule in ("deconvnet", "guided"):
        with suppress(RuleError):
            assert torch.allclose(apply(compiled, rule)[1], apply(net, rule)[1], rtol=1e-12)


@pytest.mark.parametrize("rule", ["deconvnet", "guided"])
@pytest.mark.parametrize("form", [F.relu, F.relu6, lambda x: x.clamp(min=0)])
def test_a_checkpointed_segment_is_right_or_refused(form, rule):
    """It is run again in the backward pass, where PyTorch switches every mode off."""
    first, second = (conv(4, 4).double().requires_grad_(False) for _ in range(2))

    def segment(x):
        return form(second(form(first(x))))

    wanted = apply(segment, rule)[1]
    x = X.clone().requires_grad_()
    kept_alike = form is F.relu and rule == "guided"  # what torch keeps of a plain ReLU is all that the rule needs
    refusal = pytest.raises(RuleError, match="switch gradient checkpointing off")
    with nullcontext() if kept_alike else refusal, relu_rule(rule) as applied:
        y = checkpoint(segment, x, use_reentrant=False)
        applied.verify(y)
        assert torch.equal(torch.autograd.grad(y, x, G)[0], wanted)


def test_a_checkpointed_segment_of_the_old_kind_is_refused():
    net = conv_relu()
    with pytest.raises(RuleError, match="CheckpointFunction"):
        apply(lambda x: checkpoint(net, x, use_reentrant=True), "guided")


# --- local response normalisation


NORMS = {
    "module": nn.LocalResponseNorm(3, alpha=0.5),
    "function": lambda x: F.local_response_norm(x, 3, alpha=0.5),
    "by name": lambda x: F.local_response_norm(input=x, size=3, alpha=0.5),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("rule", RULES)
def test_contrast_normalisation(name, rule):
    for mode in ("pass", "backward"):
        x = X.clone().requires_grad_()
        with relu_rule(rule, contrast_norm=mode) as applied:
            y = NORMS[name](x)
            applied.verify(y)
        plain = x / (1 + 0.5 * F.avg_pool3d(F.pad(x.square()[:, None], (0, 0, 0, 0, 1, 1)), (3, 1, 1), 1)[:, 0]) ** 0.75
        assert torch.allclose(y, plain, rtol=1e-14)
        wanted = G if mode == "pass" else torch.autograd.grad(plain, x, G)[0]
        assert torch.allclose(torch.autograd.grad(y, x, G)[0], wanted, rtol=1e-12)


# --- leaves no trace, refuses what cannot be meant


def test_the_model_is_not_changed():
    net = seeded(nn.Sequential(conv(4, 4), nn.ReLU(inplace=True), nn.ReLU6()))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    apply(net, "guided")
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())
    assert (net[1].inplace, net[2].inplace) == (True, False)
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_nothing_stays_after_an_error():
    with pytest.raises(ZeroDivisionError), relu_rule("guided"):
        F.relu(X) / (1 // 0)
    assert torch.overrides._get_current_function_mode_stack() == []
    x = X.clone().requires_grad_()
    assert torch.equal(torch.autograd.grad(F.relu(x), x, G)[0], table("gradient", X, G))


def test_tensors_without_gradient_are_left_to_pytorch():
    with relu_rule("guided"):
        y = torch.clamp(X, 0, out=torch.empty_like(X))
        assert torch.equal(torch.maximum(X, ZEROS), y)
        assert torch.equal(F.relu(X), y)
    with torch.no_grad(), relu_rule("guided"):
        assert not F.relu(X.clone().requires_grad_()).requires_grad


def test_rules_do_not_nest_and_come_before_record():
    with relu_rule("guided"), pytest.raises(UsageError, match="one at a time"):
        relu_rule("gradient").__enter__()
    net = seeded(Student())
    with record(net, ["/relu"]), pytest.raises(UsageError, match="enter relu_rule before record"):
        relu_rule("guided").__enter__()
    with record(net, ["conv1"]), relu_rule("guided"):  # layers that are modules do not mind
        pass
    assert torch.overrides._get_current_function_mode_stack() == []


def test_unknown_settings():
    unchecked = inspect.unwrap(relu_rule.__init__)  # of types
    with pytest.raises(UsageError, match="backward rule 'zeiler' is not one of gradient, deconvnet, guided"):
        unchecked(relu_rule("guided"), "zeiler")
    with pytest.raises(UsageError, match="contrast_norm 'skip' is not 'backward' or 'pass'"):
        unchecked(relu_rule("guided"), "guided", contrast_norm="skip")
