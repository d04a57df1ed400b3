"""The classifier: whatever form and dtype a network returns become logits, and the user's module stays as it was."""

import math
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import ModelError, UsageError
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier, probabilities
from tests.nets import MEAN, STD, photos, seeded

IMAGES = photos(3, dtype=torch.float32)
Outputs = namedtuple("Outputs", "logits aux")


class Gives(nn.Module):
    """A network whose output is ``form`` of the logits "b k"."""

    def __init__(self, form=lambda logits: logits, outputs=5, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        self.fc = nn.Linear(4, outputs)
        self.form = form

    def logits(self, images):
        return self.fc(self.conv(images).relu().mean((2, 3)))

    def forward(self, images):
        return self.form(self.logits(images))


def network(form=lambda logits: logits, dtype=torch.float32, **options):
    return seeded(Gives(form, **options), dtype=dtype)


def refusal(function, *arguments, kind=UsageError, **options):
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Pixels in


def test_normalisation_is_inside():
    net = network()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.allclose(Classifier(net, mean=MEAN, std=STD)(IMAGES), net((IMAGES - mean) / std), atol=1e-6)
    assert torch.equal(Classifier(net)(IMAGES), net(IMAGES))
    assert torch.allclose(Classifier(net, mean=[0.5], std=[0.25])(IMAGES), net((IMAGES - 0.5) / 0.25), atol=1e-6)


@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("pixels", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_any_dtype_of_weights_and_pixels(weights, pixels):
    net = network(dtype=weights)
    classifier = Classifier(net, mean=MEAN, std=STD)
    images = IMAGES.to(pixels, copy=True).requires_grad_()
    logits = classifier(images)
    assert logits.dtype == classifier.dtype == weights
    logits.sum().backward()
    assert images.grad.dtype == pixels
    assert images.grad.any()
    # As a user would do it: normalised in the wider of the two, then brought to the weights.
    wide = images.detach().to(torch.promote_types(weights, pixels))
    mean, std = (torch.tensor(values, dtype=wide.dtype).view(3, 1, 1) for values in (MEAN, STD))
    assert torch.equal(logits, net(((wide - mean) / std).to(weights)))


def test_a_gradient_reaches_the_pixels():
    net = network(dtype=torch.float64)
    images = IMAGES.double().requires_grad_()
    Classifier(net, mean=MEAN, std=STD)(images)[:, 2].sum().backward()
    normal = (
        (images.detach() - torch.tensor(MEAN).view(3, 1, 1).double()) / torch.tensor(STD).view(3, 1, 1)
    ).requires_grad_()
    net(normal)[:, 2].sum().backward()
    assert torch.allclose(images.grad, normal.grad / torch.tensor(STD).view(3, 1, 1).double(), rtol=1e-5)


def test_one_channel():
    net = network(channels=1)
    classifier = Classifier(net, mean=[0.1], std=[0.3])
    assert (classifier.channels, classifier.mean, classifier.std) == (1, (0.1,), (0.3,))
    grey = photos(2, channels=1, dtype=torch.float32)
    assert torch.allclose(classifier(grey), net((grey - 0.1) / 0.3), atol=1e-6)
    assert refusal(classifier, IMAGES) == "the model takes 1 channels, the images are (3, 3, 24, 30)"


@pytest.mark.parametrize(
    ("net", "options", "channels"),
    [
        (nn.Conv2d(1, 2, 3), {}, 1),
        (nn.Conv2d(3, 2, 3), {"mean": [0.5]}, 3),
        (nn.Conv2d(4, 2, 3), {}, 4),
        (nn.Conv2d(64, 2, 3), {"mean": MEAN}, 3),  # a head that was registered first
        (nn.Conv2d(1, 2, 3), {"channels": 3, "mean": MEAN}, 3),
        (nn.Sequential(nn.LazyConv2d(2, 3)), {}, 3),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), {"mean": MEAN}, 3),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), {"mean": [0.1], "channels": 1}, 1),
        (nn.Flatten(), {}, 3),
    ],
)
def test_channels(net, options, channels):
    assert Classifier(net, **options).channels == channels


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mean": (0.5, 0.5)}, "mean has 2 values, the model takes 3 channels"),
        ({"std": (0.5, 0.5, 0.5, 0.5)}, "std has 4 values"),
        ({"mean": MEAN, "channels": 1}, "mean has 3 values, the model takes 1"),
        ({"std": (0.2, 0.0, 0.2)}, "std positive"),
        ({"std": [-1.0]}, "std positive"),
        ({"std": [math.nan]}, "std positive"),
        ({"mean": [math.inf]}, "mean must be finite"),
    ],
)
def test_normalisations_that_are_none(options, words):
    assert words in refusal(Classifier, network(), **options)


# Outputs of every form

FORMS = {
    "logits": lambda z: z,
    "maps of a pixel": lambda z: z[:, :, None, None],
    "a sequence of one": lambda z: z[:, :, None],
    "tuple": lambda z: (z, z * 0),
    "list": lambda z: [z],
    "namedtuple": lambda z: Outputs(z, z * 0),
    "dict": lambda z: {"loss": None, "logits": z},
    "nested": lambda z: {"logits": (z,)},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("count", [1, 3])
def test_forms_of_output(form, count):
    net = network(FORMS[form])
    assert torch.equal(Classifier(net)(IMAGES[:count]), net.logits(IMAGES[:count]))


@pytest.mark.parametrize("form", [lambda z: z, lambda z: z[:, 0], lambda z: z[:, :, None, None]])
@pytest.mark.parametrize("count", [1, 3])
def test_one_output_is_two_classes(form, count):
    net = network(form, outputs=1)
    classifier = Classifier(net, Classes(("cat", "dog")))
    logits, z = classifier(IMAGES[:count]), net.logits(IMAGES[:count])
    assert torch.equal(logits, torch.cat([-z / 2, z / 2], 1))
    expected = torch.cat([1 - z.sigmoid(), z.sigmoid()], 1)
    assert torch.allclose(probabilities(logits), expected, atol=1e-6)


REFUSED = {
    "maps": (lambda z: z[:, :, None, None].expand(-1, -1, 2, 2), r"gave (3, 5, 2, 2) for 3 images"),
    "another batch": (lambda z: z[:1], r"gave (1, 5) for 3 images"),
    "another batch of pixels": (lambda z: z[:1, :, None, None].repeat(1, 3, 1, 1), r"gave (1, 15, 1, 1) for 3 images"),
    "number": (lambda z: z.sum(), r"gave () for 3 images"),
    "no tensor": (lambda z: "cat", "returned str"),
    "nothing": (lambda z: None, "returned NoneType"),
    "empty tuple": (lambda z: (), "returned tuple"),
    "other dict": (lambda z: {"out": z, "aux": z}, "returned dict of out, aux"),
    "indices": (lambda z: z.argmax(1), "returned torch.int64, not logits"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_outputs_that_are_no_logits(form):
    give, words = REFUSED[form]
    message = refusal(Classifier(network(give), name="net"), IMAGES, kind=ModelError)
    assert message.startswith("net ")
    assert words in message


ENDS = {
    "nn.Sigmoid": nn.Sigmoid(),
    "torch.sigmoid": torch.sigmoid,
    "method": torch.Tensor.sigmoid,
    "squeezed": lambda z: torch.sigmoid(z).squeeze(1),
    "squeezed before": lambda z: torch.sigmoid(z.squeeze(1)),
    "in a row": lambda z: torch.sigmoid(z).view(-1),
    "after a gate": lambda z: torch.sigmoid(z * torch.sigmoid(z)[:, :1]),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("count", [1, 3])
def test_a_sigmoid_at_the_end_is_undone(end, count):
    """Also where it has saturated: it is not inverted, its input is taken."""
    net = network(ENDS[end], outputs=1)
    with torch.no_grad():
        net.fc.bias.fill_(40.0)
    classifier = Classifier(net, Classes(("cat", "dog")))
    z = net.logits(IMAGES[:count])
    z = z * torch.sigmoid(z) if end == "after a gate" else z
    images = IMAGES[:count].clone().requires_grad_()
    logits = classifier(images)
    assert torch.equal(logits, torch.cat([-z / 2, z / 2], 1))
    assert bool(torch.autograd.grad(logits[:, 1].sum(), images)[0].any())


def test_a_network_that_says_dog_with_little_confidence():
    net = network(torch.sigmoid, outputs=1)
    with torch.no_grad():
        net.fc.bias.fill_(-4.0)
    said = net(IMAGES)
    assert bool((said < 0.1).all())
    found = probabilities(Classifier(net, Classes(("cat", "dog")))(IMAGES))
    assert torch.allclose(found[:, 1:], said, atol=1e-6)


@pytest.mark.parametrize(
    "end", [nn.Softmax(1), nn.LogSoftmax(-1), nn.Sigmoid(), lambda z: torch.softmax(input=z, dim=1)]
)
def test_several_probabilities_become_logits_again(end):
    net = network(end)
    assert torch.equal(Classifier(net)(IMAGES), net.logits(IMAGES))


def test_what_is_squashed_on_the_way_stays():
    net = network(lambda z: torch.sigmoid(z) * 2)
    assert torch.equal(Classifier(net)(IMAGES), net.logits(IMAGES).sigmoid() * 2)
    over_the_batch = network(lambda z: z.softmax(0))
    assert torch.equal(Classifier(over_the_batch)(IMAGES), over_the_batch.logits(IMAGES).softmax(0))


@pytest.mark.parametrize("outputs", [1, 5])
def test_a_head_that_squeezes_a_batch_of_one_away(outputs):
    net = network(torch.squeeze, outputs=outputs)
    for count in (1, 3):
        found = Classifier(net)(IMAGES[:count])
        assert torch.equal(found[:, -1], net.logits(IMAGES[:count])[:, -1] / (2 if outputs == 1 else 1))


def test_of_several_outputs_the_one_with_a_number_for_each_class():
    net = network(lambda z: (torch.cat([z, z], 1), z))
    assert Classifier(net)(IMAGES).shape == (3, 10), "the first, where nothing says more"
    assert torch.equal(Classifier(net, Classes(tuple("abcde")))(IMAGES), net.logits(IMAGES))


@pytest.mark.parametrize("mean", [0.5, [0.5], np.full(3, 0.5), torch.full((1, 3, 1, 1), 0.5), torch.tensor(0.5)])
def test_a_mean_in_any_form(mean):
    assert Classifier(network(), mean=mean).mean == (0.5,) * 3


@pytest.mark.parametrize("mean", [np.array(["a", "b", "c"]), np.array([0.5, {}, 0.5])])
def test_what_is_no_mean(mean):
    assert refusal(Classifier, network(), mean=mean).startswith("mean is a number, or one for each channel")


def test_class_names_are_counted():
    classifier = Classifier(network(), Classes(("cat", "dog")), name="net")
    assert refusal(classifier, IMAGES) == "net has 5 outputs but 2 class names were given"
    binary = Classifier(network(outputs=1), Classes(("dog",)), name="net")
    assert refusal(binary, IMAGES) == "net has 1 output, which tells 2 classes apart, but 1 class names were given"


def test_classes_without_names_are_numbered():
    classifier = Classifier(network())
    assert classifier.classes is None
    classifier(IMAGES)
    assert classifier.classes.names == tuple(f"class {i}" for i in range(5))


# Probabilities


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("end", ["nothing", "softmax", "log_softmax"])
def test_networks_that_end_in_softmax(end, dtype):
    ends = {"nothing": lambda z: z, "softmax": lambda z: z.softmax(1), "log_softmax": lambda z: z.log_softmax(1)}
    net = network(ends[end], dtype=dtype, outputs=50)
    found = probabilities(Classifier(net)(IMAGES))
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    half = dtype in (torch.bfloat16, torch.float16)
    expected = net.logits(IMAGES.to(dtype)).to(found.dtype).softmax(1)
    assert torch.allclose(found, expected, atol=1e-2 if half else 1e-6)
    assert not found.requires_grad


def test_an_image_has_its_probabilities_in_any_company():
    # The first row could be probabilities, the second cannot.
    rows = torch.tensor([[0.25, 0.75], [3.0, -1.0]])
    assert torch.equal(probabilities(rows), torch.cat([probabilities(rows[:1]), probabilities(rows[1:])]))


def test_large_logits():
    assert probabilities(torch.tensor([[1e4, 0.0]])).tolist() == [[1.0, 0.0]]
    assert probabilities(torch.tensor([[60000.0, 0.0]], dtype=torch.float16)).tolist() == [[1.0, 0.0]]
    assert probabilities(torch.tensor([[-math.inf, 0.0]])).tolist() == [[0.0, 1.0]]


# The user's module


def test_the_module_is_not_changed():
    net = Gives()
    net.conv.weight.requires_grad_(False)
    net.fc.eval()
    before = dict(net.__dict__)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    parameters, modes = dict(net.named_parameters()), [module.training for module in net.modules()]
    classifier = Classifier(net, mean=MEAN, std=STD)
    classifier(IMAGES)
    assert classifier.network is net
    assert net.__dict__ == before
    assert {key: id(value) for key, value in net.named_parameters()} == {k: id(v) for k, v in parameters.items()}
    assert [module.training for module in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == [False, True, True, True]
    assert all(p.grad is None for p in net.parameters())
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert not list(classifier.buffers(recurse=False))
    assert not list(classifier.parameters(recurse=False))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_a_network_without_weights_takes_the_pixels_dtype(dtype):
    classifier = Classifier(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), std=[0.5])
    assert classifier.dtype is None
    assert classifier.device == torch.device("cpu")
    logits = classifier(IMAGES.to(dtype))
    assert logits.dtype == dtype
    assert torch.allclose(logits, IMAGES.to(dtype).mean((2, 3)) * 2, rtol=1e-2)


def test_device_and_name():
    net = network().to("meta")
    assert Classifier(net).device == torch.device("meta")
    assert Classifier(net).name == "Gives"
    assert Classifier(net, name="mine").name == "mine"
