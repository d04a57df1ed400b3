"""The methods that a study compares, and one map a photo of each."""

import pytest
import torch
from torch import nn

from convscope.errors import Cancelled, UsageError
from convscope.instrument.target import Target
from convscope.methods import METHODS, configure
from convscope.models.classifier import Classifier
from convscope.progress import reporting
from convscope.studies.compared import all_maps, as_signed_maps, attributions, maps, methods_meant
from tests.nets import Skip, classifier_of, photos, seeded


def names(found):
    return [method.name for method in found]


def test_all_is_every_method_that_maps_a_photo_less_the_costly_which_are_named_in_a_note():
    found, notes = methods_meant(["all"])
    mapping = [name for name, method in METHODS.items() if method.traits.kind in ("map", "pixels")]
    cheap = [name for name in mapping if not METHODS[name].traits.costly]
    assert names(found) == cheap
    assert {"rise", "score-cam"}.isdisjoint(cheap)
    assert notes == ["left out for what they cost: ablation, occlusion, rise, score-cam; who names them has them"]


def test_costly_methods_come_when_they_are_named_and_each_method_once():
    found, notes = methods_meant(["rise", "gradient", "all", "gradient"])
    assert names(found)[:2] == ["rise", "gradient"]
    assert len(set(names(found))) == len(found)
    assert "rise" not in notes[0]
    assert methods_meant(["grad-cam"])[1] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["grad-cm"], "unknown method 'grad-cm'; nearest: grad-cam"),
        (["filters"], "filters does not make a map of a photo: compare others, such as"),
        ([], "no method is named"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_a_line(words, said):
    with pytest.raises(UsageError) as refused:
        methods_meant(words)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_methods_that_average_take_fewer_where_so_many_are_made():
    found, _ = methods_meant(["integrated-gradients", "smoothgrad", "gradient"], 7)
    assert (found[0].steps, found[1].samples) == (7, 7)
    many, _ = methods_meant(["integrated-gradients", "smoothgrad"], 10_000)
    assert (many[0], many[1]) == (configure("integrated-gradients"), configure("smoothgrad"))


def test_pixels_become_the_sum_of_magnitudes_or_with_their_sign_the_sum():
    """The gradient of a linear network is its weights."""
    net = seeded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 2)))
    classifier, images, target = Classifier(net), photos(2, height=4, width=5), Target(index=(1, 0))
    weights = net[1].weight.detach()[[1, 0]].reshape(2, 3, 4, 5)
    gradient = configure("gradient")
    torch.testing.assert_close(maps(gradient, classifier, images, target), weights.abs().sum(1))
    raw = attributions(gradient, classifier, images, target)
    torch.testing.assert_close(as_signed_maps(gradient, raw), weights.sum(1))


def test_maps_stay_as_they_are_and_positive_ones_have_no_sign():
    classifier, images, target = classifier_of(Skip()), photos(), Target(index=(1,))
    cam, hidden = configure("grad-cam"), configure("occlusion", {"size": 9, "stride": 9})
    for method in (cam, hidden):
        raw = method.run(classifier, images, target).raw
        assert torch.equal(maps(method, classifier, images, target), raw)
    assert (raw < 0).any()
    assert torch.equal(as_signed_maps(hidden, raw), raw)
    assert as_signed_maps(cam, raw) is None


def test_a_method_that_knows_no_target_makes_the_same_of_all():
    classifier, images, method = classifier_of(Skip()), photos(2), configure("eigen-cam")
    one, other = (maps(method, classifier, images, Target(index=index)) for index in ((0, 0), (3, 2)))
    assert torch.equal(one, other)


def test_what_cannot_look_at_a_network_is_left_out_and_said_to_be():
    classifier = Classifier(seeded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 30, 3))))
    found, left_out = all_maps(methods_meant(["grad-cam", "gradient"])[0], classifier, photos(), Target(index=(0,)))
    assert list(found) == ["gradient"]
    assert len(left_out) == 1
    assert left_out[0].startswith("left out: grad-cam: ")
    with pytest.raises(UsageError, match="@last_conv"):
        all_maps([configure("grad-cam")], classifier, photos(), Target(index=(0,)))


def test_it_can_be_cancelled():
    with reporting(cancel=lambda: True), pytest.raises(Cancelled):
        all_maps([configure("gradient")], classifier_of(Skip()), photos(), Target(index=(0,)))
