"""Ablation-CAM against setting one map after the other to zero, and grad-cam's."""

import copy

import numpy as np
import pytest
import torch
from pytorch_grad_cam import AblationCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn

from convscope.instrument.target import Target
from convscope.methods.ablation import Ablation
from tests.nets import Skip, classifier_of, photos
from tests.oracles import enlarge, near

CLASSES = (2, 0)


def zeroed(classifier, images, layer, unit):
    """The logits without one map of a layer, and the layer's maps."""
    net, kept = copy.deepcopy(classifier), []

    def hook(_, __, output):
        kept.append(output)
        return torch.stack([torch.zeros_like(m) if i == unit else m for i, m in enumerate(output.unbind(1))], 1)

    net.network.get_submodule(layer).register_forward_hook(hook)
    return net(images).detach().numpy(), kept[0].detach().numpy()


@pytest.mark.parametrize("layer", ["conv1", "relu2", "conv4"])
def test_explicit_zeroing(layer):
    classifier, images = classifier_of(Skip("modules")), photos(2)
    clean, maps = zeroed(classifier, images, layer, None)
    total = np.zeros((2, *maps.shape[2:]))
    for unit in range(maps.shape[1]):
        without, _ = zeroed(classifier, images, layer, unit)
        for row, index in enumerate(CLASSES):
            total[row] += (clean[row, index] - without[row, index]) / clean[row, index] * maps[row, unit]
    wanted = [enlarge(np.maximum(m, 0), *images.shape[2:]) for m in total]
    near(Ablation(layer=layer).run(classifier, images, Target(index=CLASSES)).raw, np.stack(wanted))


def test_equal_to_grad_cam():
    classifier, images = classifier_of(Skip("modules")), photos(2)
    model = copy.deepcopy(classifier)
    with AblationCAM(model=model, target_layers=[model.network.conv4]) as cam:
        wanted = torch.from_numpy(cam(images.clone(), [ClassifierOutputTarget(i) for i in CLASSES]))
    raw = Ablation(layer="conv4").run(classifier, images, Target(index=CLASSES)).raw
    low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
    near((raw - low) / (high - low), wanted, 1e-5)


class KnowsItsBatch(nn.Module):
    """A network whose second half only takes the batch that the first half was given."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.fc = nn.Conv2d(3, 5, 3), nn.Conv2d(5, 4, 3), nn.Linear(4, 3)

    def forward(self, x):
        count = len(x)
        x = self.conv2(torch.relu(self.conv1(x)))
        return self.fc(x.view(count, 4, -1).mean(2))


def test_a_network_that_knows_its_batch_size():
    classifier, images = classifier_of(KnowsItsBatch()), photos()
    clean, maps = zeroed(classifier, images, "conv1", None)
    losses = [(clean - zeroed(classifier, images, "conv1", unit)[0])[0, 1] / clean[0, 1] for unit in range(5)]
    wanted = enlarge(np.maximum((np.array(losses)[:, None, None] * maps[0]).sum(0), 0), *images.shape[2:])
    near(Ablation(layer="conv1").run(classifier, images, Target(index=(1,))).raw[0], wanted)


def test_a_negative_score_is_said():
    classifier, images = classifier_of(Skip("modules")), photos()
    scores = classifier(images)[0]
    for index in range(len(scores)):
        notes = Ablation(layer="conv4").run(classifier, images, Target(index=(index,))).notes
        assert any("where the score is negative" in note for note in notes) == bool(scores[index] < 0)
    assert bool((scores < 0).any()) != bool((scores < 0).all())
