"""The gradient family against finite differences, closed forms and direct loops, in float64."""

import numpy as np
import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients, Saliency
from torch import nn

from convscope.errors import UsageError
from convscope.instrument.target import Target
from convscope.methods import METHODS
from convscope.models.classifier import Classifier
from tests.nets import Skip, Smooth, classifier_of, photos
from tests.oracles import near

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")


def raw(name, classifier, images, index, **settings):
    return METHODS[name](**settings).run(classifier, images, Target(index=index)).raw


def differences(classifier, image, index, step=1e-5):
    """Central differences of a logit, pixel by pixel."""
    found = torch.zeros_like(image)
    for place in np.ndindex(*image.shape):
        up, down = image.clone(), image.clone()
        up[place] += step
        down[place] -= step
        logits = classifier(torch.stack([up, down]))[:, index].detach()
        found[place] = (logits[0] - logits[1]) / (2 * step)
    return found


@pytest.mark.parametrize("make", [Smooth, lambda: Skip("functional in place")])
def test_the_gradient_by_finite_differences(make):
    classifier, image = classifier_of(make()), photos(height=9, width=11)
    wanted = differences(classifier, image[0], 2)
    near(raw("gradient", classifier, image, (2,))[0], wanted, 1e-6)
    near(raw("input-x-gradient", classifier, image, (2,))[0], image[0] * wanted, 1e-6)


def test_equal_to_captum():
    classifier, images = classifier_of(Skip()), photos(2)
    near(raw("gradient", classifier, images, (2, 0)), Saliency(classifier).attribute(images, [2, 0], abs=False))
    near(raw("input-x-gradient", classifier, images, (2, 0)), InputXGradient(classifier).attribute(images, [2, 0]))
    path = IntegratedGradients(classifier).attribute(images, target=[2, 0], n_steps=9, method="gausslegendre")
    near(raw("integrated-gradients", classifier, images, (2, 0), steps=9), path, 1e-6)  # its steps are float32


# --- integrated gradients


@pytest.mark.parametrize("baseline", ["black", "grey", "white", "mean", "blur"])
def test_completeness(baseline):
    classifier, images = classifier_of(Smooth()), photos(2, 3, 16, 19)
    found = METHODS["integrated-gradients"](baseline=baseline).run(classifier, images, Target(index=(2, 0)))
    starts = {
        "black": torch.zeros_like(images),
        "grey": torch.full_like(images, 0.5),
        "white": torch.ones_like(images),
        "mean": images.mean((2, 3), keepdim=True).expand_as(images),
    }
    if baseline == "blur":
        assert bool((found.raw != 0).all())
    else:
        floor = classifier(starts[baseline])[[0, 1], [2, 0]]
        near(found.raw.sum((1, 2, 3)), classifier(images)[[0, 1], [2, 0]] - floor, 1e-6)
    assert found.notes == ()


class Quadratic(nn.Module):
    """x'Qx + b'x for each class."""

    def __init__(self, size, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.q = nn.Parameter(torch.randn(2, size, size, generator=generator, dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(2, size, generator=generator, dtype=torch.float64))

    def forward(self, x):
        x = x.flatten(1)
        return torch.einsum("ni,cij,nj->nc", x, self.q, x) + x @ self.b.T


@pytest.mark.parametrize("steps", [1, 7])
def test_the_closed_form_of_a_quadratic(steps):
    classifier, image = Classifier(Quadratic(3 * 4 * 5)), photos(height=4, width=5)
    q, b = classifier.network.q[1].detach(), classifier.network.b[1].detach()
    x, start = image.flatten(), torch.full((60,), 0.5, dtype=torch.float64)
    wanted = (x - start) * ((q + q.T) @ (x + start) / 2 + b)  # one step suffices: the gradient is linear on the line
    near(raw("integrated-gradients", classifier, image, (1,), steps=steps, baseline="grey").flatten(), wanted)


def test_too_few_steps_are_said():
    classifier, image = classifier_of(Skip(), seed=4), photos()
    notes = METHODS["integrated-gradients"](steps=1).run(classifier, image, Target(index=(0,))).notes
    assert len(notes) == 1
    assert "misses completeness" in notes[0]


# --- noise


def noisy(classifier, image, index, samples, noise, seed):
    """Gradients of noisy copies, one after the other."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(samples):
        draw = torch.randn(image.shape, generator=generator)
        copy = (image + noise * (image.max() - image.min()) * draw)[None].requires_grad_()
        found.append(torch.autograd.grad(classifier(copy)[0, index], copy)[0][0].numpy())
    return np.stack(found)


@pytest.mark.parametrize(("samples", "noise", "seed"), [(2, 0.15, 0), (6, 0.4, 3)])
def test_smoothgrad_and_vargrad_over_the_same_noise(samples, noise, seed):
    classifier, images = classifier_of(Skip()), photos(2)
    settings = {"samples": samples, "noise": noise, "seed": seed}
    found = np.stack([noisy(classifier, image, i, **settings) for image, i in zip(images, (1, 3), strict=True)])
    near(raw("smoothgrad", classifier, images, (1, 3), **settings), found.mean(1))
    near(raw("vargrad", classifier, images, (1, 3), **settings), found.var(1, ddof=1))


def test_smoothgrad_of_a_linear_model_is_its_weights():
    classifier, image = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(60, 2)).double()), photos(height=4, width=5)
    near(raw("smoothgrad", classifier, image, (1,))[0].flatten(), classifier.network[1].weight[1])
    assert float(raw("vargrad", classifier, image, (1,)).abs().max()) < 1e-20


@pytest.mark.parametrize("settings", [{"samples": 1}, {"noise": 0.0}, {"noise": -1.0}])
@pytest.mark.parametrize("name", ["smoothgrad", "vargrad"])
def test_noise_that_cannot_be(name, settings):
    with pytest.raises(UsageError, match=name):
        raw(name, classifier_of(Smooth()), photos(), (0,), **settings)
