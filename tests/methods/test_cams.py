"""Class activation maps against closed forms, slow derivations, grad-cam, torchcam and Captum."""

import copy

import numpy as np
import pytest
import pytorch_grad_cam as peer
import torch
import torchcam.methods
from captum.attr import GuidedGradCam, LayerAttribution, LayerGradCam
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import nn

from convscope.errors import UsageError
from convscope.instrument.target import Target
from convscope.methods import METHODS
from convscope.methods.eigen_cam import EigenCam
from convscope.models.classifier import Classifier
from tests.nets import Skip, classifier_of, photos
from tests.oracles import differs, enlarge, near, project_branches

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:captum")
PEERS = {
    "grad-cam": peer.GradCAM,
    "grad-cam++": peer.GradCAMPlusPlus,
    "hires-cam": peer.HiResCAM,
    "layer-cam": peer.LayerCAM,
}
CLASSES = (2, 0)
SEED = 5


def skip(form="modules", loud=1.0):
    """A network whose logits are ``loud`` times as large."""
    classifier = classifier_of(Skip(form), seed=SEED)
    classifier.network.fc2.weight.data *= loud
    return classifier


def ours(name, classifier, images, layer, **settings):
    return METHODS[name](layer=layer, **settings).run(classifier, images, Target(index=CLASSES)).raw


def by_grad_cam(make, classifier, images, layer):
    """grad-cam's map, which it stretches to [0, 1]."""
    model = copy.deepcopy(classifier)
    with make(model=model, target_layers=[model.network.get_submodule(layer)]) as cam:
        return torch.from_numpy(cam(images.clone(), [ClassifierOutputTarget(index) for index in CLASSES]))


def unit_range(maps):
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def maps_and_gradients(classifier, images, layer):
    """Of the layer's true output: hooks on a copy whose ReLUs are out of place."""
    net = Skip("modules", channels=3).double().eval()
    net.load_state_dict(classifier.network.state_dict())
    kept = []
    net.get_submodule(layer).register_forward_hook(lambda _, __, output: kept.append(output))
    logits = net(classifier.normalise(images))
    score = sum(logits[i, index] for i, index in enumerate(CLASSES))
    return kept[0].detach().numpy(), torch.autograd.grad(score, kept[0])[0].numpy()


def canvas(maps, images):
    return np.stack([enlarge(np.maximum(m, 0), *images.shape[2:]) for m in maps])


def plus_plus(maps, gradient):
    """Equation 19 of the paper as it stands, without anything added to its denominator."""
    weighted = np.zeros((len(maps), *maps.shape[2:]))
    for b, k in np.ndindex(*maps.shape[:2]):
        a, g = maps[b, k], gradient[b, k]
        alpha = np.divide(g**2, 2 * g**2 + a.sum() * g**3, out=np.zeros_like(g), where=g != 0)
        weighted[b] += (alpha * np.maximum(g, 0)).sum() * a
    return weighted


FORMULAS = {
    "grad-cam": lambda a, g: (g.mean((2, 3), keepdims=True) * a).sum(1),
    "hires-cam": lambda a, g: (g * a).sum(1),
    "layer-cam": lambda a, g: (np.maximum(g, 0) * a).sum(1),
    "grad-cam++": plus_plus,
}
LAYERS = ["conv1", "relu2", "conv3", "relu4"]  # conv1's maps are as large as the canvas, relu4's a quarter


# --- from the papers


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", FORMULAS)
def test_the_papers_formula(name, layer):
    classifier, images = skip(), photos(2)
    wanted = canvas(FORMULAS[name](*maps_and_gradients(classifier, images, layer)), images)
    near(ours(name, classifier, images, layer), wanted)


A = torch.tensor([[[0.1, 0.9], [0.4, 0.2]], [[0.3, 0.5], [0.8, 0.0]], [[0.6, 0.6], [0.2, 1.0]]], dtype=torch.float64)
W = torch.tensor([[[2.0, -1], [0, 1]], [[-3, 1], [1, 4]], [[1, 1], [-2, 0.5]]], dtype=torch.float64)
BY_HAND = {  # A's entries are the maps, W's their gradients
    "hires-cam": [[0.2 - 0.9 + 0.6, -0.9 + 0.5 + 0.6], [0 + 0.8 - 0.4, 0.2 + 0 + 0.5]],
    "layer-cam": [[0.2 + 0.6, 0.5 + 0.6], [0.8, 0.2 + 0.5]],
    "grad-cam": [[0.05 + 0.225 + 0.075, 0.45 + 0.375 + 0.075], [0.2 + 0.6 + 0.025, 0.1 + 0.125]],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    net = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.Flatten(), nn.Linear(12, 2, bias=False)).double()
    net[0].weight.data = torch.eye(3, dtype=torch.float64).view(3, 3, 1, 1)
    net[2].weight.data = torch.stack([W.flatten(), torch.zeros(12, dtype=torch.float64)])
    found = METHODS[name](layer="0").run(Classifier(net), A[None], Target(index=(0,)))
    near(found.raw[0], torch.tensor(BY_HAND[name], dtype=torch.float64).clamp(min=0))


def test_hires_cam_adds_up_to_the_logit_where_a_linear_layer_follows():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 6 * 7, 3))
    classifier, images = classifier_of(net), photos(1, 3, 8, 9)
    weights = net[3].weight.data
    weights[1] = weights[1].abs()  # so that rectifying takes nothing off
    found = METHODS["hires-cam"](layer="1").run(classifier, images[:, :, :8, :9], Target(index=(1,)))
    small = net[:2](classifier.normalise(images))[0] * weights[1].view(4, 6, 7)
    near(small.sum() + net[3].bias[1], found.scores[0])
    near(found.raw[0], enlarge(small.sum(0).detach().numpy(), 8, 9))


@pytest.mark.parametrize("layer", ["conv1", "conv4"])
def test_guided_grad_cam_is_the_product(layer):
    classifier, images = skip(), photos(2)
    cam = canvas(FORMULAS["grad-cam"](*maps_and_gradients(classifier, images, layer)), images)
    guided = [
        project_branches(classifier, image, "guided", index) for image, index in zip(images, CLASSES, strict=True)
    ]
    near(ours("guided-grad-cam", classifier, images, layer), np.stack(guided) * cam[:, None])


# --- the peers


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", PEERS)
def test_equal_to_grad_cam(name, layer):
    # Logits loud enough for what grad-cam adds to a denominator of grad-cam++ to be nothing.
    classifier, images = skip(loud=1e6), photos(2)
    wanted = by_grad_cam(PEERS[name], classifier, images, layer)
    near(unit_range(ours(name, classifier, images, layer)), wanted, 1e-5)


def test_grad_cam_plus_plus_keeps_small_gradients_where_grad_cam_drowns_them():
    classifier, images = skip(loud=1e-3), photos(2)
    wanted = torch.from_numpy(canvas(plus_plus(*maps_and_gradients(classifier, images, "relu4")), images))
    differs(by_grad_cam(peer.GradCAMPlusPlus, classifier, images, "relu4"), unit_range(wanted))
    near(ours("grad-cam++", classifier, images, "relu4"), wanted)


@pytest.mark.parametrize("layer", LAYERS)
def test_grad_cam_equal_to_captum(layer):
    classifier, images = skip(), photos(2)
    cam = LayerGradCam(classifier, classifier.network.get_submodule(layer))
    maps = cam.attribute(images.clone(), target=list(CLASSES), relu_attributions=True)
    large = LayerAttribution.interpolate(maps, images.shape[2:], "bilinear")[:, 0]
    near(ours("grad-cam", classifier, images, layer), large)


def test_guided_grad_cam_equal_to_captum():
    classifier, images = skip(), photos(2)
    cam = GuidedGradCam(classifier, classifier.network.conv4)
    wanted = cam.attribute(images.clone(), target=list(CLASSES), interpolate_mode="bilinear")
    near(ours("guided-grad-cam", classifier, images, "conv4"), wanted)


def by_torchcam(classifier, image, layer):
    model = copy.deepcopy(classifier)
    with torchcam.methods.GradCAM(model, model.network.get_submodule(layer)) as cam:
        return cam(CLASSES[0], model(image.clone().requires_grad_()), normalized=False)[0][0].detach()


def test_grad_cam_equal_to_torchcam():
    classifier, images = skip(), photos(2)
    small = by_torchcam(classifier, images[:1], "conv1")  # the size of the canvas
    near(ours("grad-cam", classifier, images, "conv1")[0], small)


@pytest.mark.parametrize("form", ["modules in place", "functional in place", "method in place"])
@pytest.mark.parametrize("name", PEERS)
def test_a_relu_in_place_after_the_layer_does_not_reach_its_map(name, form):
    classifier, images = skip(form, loud=1e6), photos(2)
    true = torch.from_numpy(canvas(FORMULAS[name](*maps_and_gradients(classifier, images, "conv4")), images))
    near(ours(name, classifier, images, "conv4"), true)
    if name in ("grad-cam", "grad-cam++"):  # the others multiply with a gradient that is 0 where the ReLU cut off
        differs(by_grad_cam(PEERS[name], classifier, images, "conv4"), unit_range(true))


def test_torchcam_falls_into_the_trap_in_place():
    classifier, images = skip("modules in place"), photos(2)
    true = FORMULAS["grad-cam"](*maps_and_gradients(classifier, images, "conv4"))
    differs(by_torchcam(classifier, images[:1], "conv4"), np.maximum(true[0], 0))


# --- without gradients


def test_score_cam_in_plain_steps():
    classifier, images = skip(), photos(2)
    maps, _ = maps_and_gradients(classifier, images, "conv4")
    total = np.zeros((2, *maps.shape[2:]))
    for b, index in enumerate(CLASSES):
        scores = []
        for small in maps[b]:
            mask = enlarge(small, *images.shape[2:])
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            scores.append(float(classifier((images[b] * torch.from_numpy(mask))[None])[0, index].detach()))
        weights = np.exp(scores) / np.exp(scores).sum()
        total[b] = (weights[:, None, None] * maps[b]).sum(0)
    near(ours("score-cam", classifier, images, "conv4"), canvas(total, images))


def test_score_cam_equal_to_grad_cam_at_the_canvas_size():
    classifier, images = skip(), photos(2)
    wanted = by_grad_cam(peer.ScoreCAM, classifier, images, "conv1")
    near(unit_range(ours("score-cam", classifier, images, "conv1")), wanted, 1e-5)


def test_a_constant_map_scores_what_a_black_image_does():
    classifier, images = skip(), photos(2)
    classifier.network.conv4.weight.data[1] = 0
    maps, _ = maps_and_gradients(classifier, images, "conv4")
    assert np.ptp(maps[:, 1]) == 0
    assert bool(ours("score-cam", classifier, images, "conv4").isfinite().all())


@pytest.mark.parametrize("center", [False, True])
def test_eigen_cam_by_the_eigenvector_of_the_covariance(center):
    classifier, images = skip(), photos(2)
    maps, _ = maps_and_gradients(classifier, images, "relu2")
    projections = []
    for one in maps:
        points = one.reshape(len(one), -1).T
        points = points - points.mean(0) if center else points
        vector = np.linalg.eigh(points.T @ points)[1][:, -1]
        projections.append((points @ (vector * np.sign(vector.sum()))).reshape(one.shape[1:]))
    near(ours("eigen-cam", classifier, images, "relu2", center=center), canvas(projections, images))


def test_eigen_cam_equal_to_grad_cam_up_to_sign():
    classifier, images = skip(), photos(2)
    maps, _ = maps_and_gradients(classifier, images, "relu2")
    found = EigenCam(center=True).project(torch.from_numpy(maps))
    for mine, wanted in zip(found, get_2d_projection(maps), strict=True):
        sign = np.sign((mine.numpy() * wanted).sum())
        near(mine, sign * wanted, 1e-5)


def test_the_default_layer_is_the_last_map_after_its_activation():
    classifier, images = skip(), photos(2)
    for name in PEERS:
        found = METHODS[name]().run(classifier, images, Target(index=CLASSES))
        near(found.raw, ours(name, classifier, images, "relu4"))
        assert found.layer == "relu4"


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning:torch")
def test_scripted_code_is_no_layer_but_may_stand_beside_one():
    classifier, images = skip(), photos(2)
    wanted = ours("grad-cam", classifier, images, "conv3"), ours("ablation", classifier, images, "conv3")
    classifier.network.relu1 = torch.jit.script(nn.ReLU())
    near(ours("grad-cam", classifier, images, "conv3"), wanted[0])
    near(ours("ablation", classifier, images, "conv3"), wanted[1])
    with pytest.raises(UsageError, match="relu1 is scripted code"):
        ours("grad-cam", classifier, images, "relu1")
