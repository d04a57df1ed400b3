"""The strongest photo of a unit is the one that a plain loop over the photos finds."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convscope.errors import ConvscopeError, UsageError
from convscope.instrument.address import Address
from convscope.training.strongest import batches_of, neurons, strongest_photos
from tests.nets import FORMS, Skip, classifier_of, photos, seeded, vgg_like

UNITS = {"1": (0, 3), "4": (2,), "10": (5, 0, 1), "15": (1, 6)}


def in_batches(images, size):
    def batches():
        for start in range(0, len(images), size):
            part = images[start : start + size]
            yield [f"photo {start + i}" for i in range(len(part))], part

    return batches


def by_hand(classifier, module, unit, images):
    """Value, photo, row and col: a whole forward pass for each image, a plain hook, and a loop over the places."""
    best = None
    for number, image in enumerate(images):
        seen = []
        handle = module.register_forward_hook(lambda _, __, output, seen=seen: seen.append(output.detach().clone()))
        classifier(image[None])
        handle.remove()
        maps = seen[0][0, unit]
        for place, value in enumerate(maps.flatten().tolist()):
            if best is None or value > best[0]:
                best = value, number, divmod(place, maps.shape[-1]) if maps.ndim else None
    return best


def found_by(classifier, units, images, size=7):
    """Unit -> value, photo, and where on it."""
    found = {}
    best = strongest_photos(classifier, units, batches_of(in_batches(images, size), classifier))
    for layer, own in best.items():
        for one in own:
            ((value, place),) = neurons(classifier, one.canvas[None], Address(layer), [one.unit])
            assert one.name == f"photo {one.index}"
            assert torch.equal(one.canvas, images[one.index])
            assert abs(value - one.value) < 1e-12
            found[layer, one.unit] = value, one.index, place
    return found


@pytest.mark.parametrize("size", [1, 7, 40])
def test_as_by_hand_in_batches_of_any_size(size):
    classifier, images = classifier_of(vgg_like(), seed=2), photos(23, 3, 22, 27)
    found = found_by(classifier, UNITS, images, size)
    assert len({index for _, index, _ in found.values()}) > 3, "or the test says little"
    for (layer, unit), (value, index, place) in found.items():
        right = by_hand(classifier, classifier.network[int(layer)], unit, images)
        assert (index, place) == right[1:]
        assert abs(value - right[0]) < 1e-12


def test_as_by_hand_where_the_activations_are_functions():
    images = photos(9, 3, 24, 30)
    right = {}
    modules = classifier_of(Skip("modules"), seed=2)
    for number in (1, 3, 4):
        for unit in range(3):
            module = getattr(modules.network, f"relu{number}")
            right[number, unit] = by_hand(modules, module, unit, images)
    for form, called in {"functional": "relu", "method in place": "relu", "clamp": "clamp"}.items():
        assert form in FORMS
        layers = {1: f"/{called}", 3: f"/{called}#3", 4: f"/{called}#4"}
        classifier = classifier_of(Skip(form), seed=2)
        best = strongest_photos(classifier, dict.fromkeys(layers.values(), (0, 1, 2)), batches_of(images, classifier))
        for number, layer in layers.items():
            for one in best[layer]:
                assert one.index == right[number, one.unit][1]
                assert abs(one.value - right[number, one.unit][0]) < 1e-12


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_the_first_of_equal_photos_and_the_first_of_equal_places(levels, size):
    net = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = classifier_of(net, mean=0, std=1, channels=1)
    images = torch.stack([torch.full((1, 3, 4), level / 3) for level in levels])
    value, index, place = found_by(classifier, {"0": (0,)}, images, size)["0", 0]
    assert index == levels.index(max(levels))
    assert place == (0, 0)
    assert value == pytest.approx(max(levels) / 3)


def test_memory_does_not_grow_with_the_photos():
    classifier, alive, most = classifier_of(vgg_like()), [], [0]

    def batches():
        for number in range(30):
            pixels = photos(4, 3, 22, 27, seed=number)
            alive.append(weakref.ref(pixels))
            most[0] = max(most[0], sum(batch() is not None for batch in alive))
            yield [f"{number}-{i}" for i in range(4)], pixels
            del pixels

    best = strongest_photos(classifier, UNITS, batches_of(batches, classifier))
    assert most[0] <= 2, "the batch that is looked at, and the one that is being made"
    kept = [one.canvas for own in best.values() for one in own]
    assert all(canvas.untyped_storage().nbytes() == canvas.numel() * 8 for canvas in kept), "not a view of a batch"


def test_nothing_after_the_last_layer_runs():
    classifier, images = classifier_of(vgg_like()), photos(20, 3, 22, 27)
    ran = []
    for number in (12, 13, 18):
        classifier.network[number].register_forward_hook(lambda *_, number=number: ran.append(number))
    strongest_photos(classifier, {"4": (0,), "12": (0,)}, batches_of(in_batches(images, 5), classifier))
    assert ran == [12] * 4


def test_a_network_that_diverged_is_told():
    classifier = classifier_of(vgg_like())
    classifier.network[3].weight.data[1] = torch.nan
    with pytest.raises(ConvscopeError, match=r"layer 4 gives NaN .* diverged"):
        strongest_photos(classifier, {"4": (1,)}, batches_of(photos(2, 3, 22, 27), classifier))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(None, "photos= is missing, .* not kept", id="none"),
        pytest.param(["a.png"], "photos is a tensor .* not list", id="a list"),
        pytest.param(photos(2, 1), r'"b 3 h w" for this model, got \(2, 1, 24, 30\)', id="grey"),
        pytest.param(photos(1)[0], r"got \(3, 24, 30\)", id="one image"),
        pytest.param((255 * photos()).byte(), "divide by 255", id="bytes"),
        pytest.param(photos() * 4 - 2, "in .0, 1., got -2 to 2: pass them before normalisation", id="normalised"),
        pytest.param(photos() * torch.nan, "got nan", id="NaN"),
        pytest.param(lambda: [(["a", "b"], photos())], "2 names for 1 images", id="too many names"),
        pytest.param(lambda: [], "no photos", id="nothing"),
        pytest.param(lambda: [(["a"], [1])], "got list", id="no tensor"),
    ],
)
def test_what_cannot_be_photos_is_refused(given, message):
    classifier = classifier_of(seeded(Skip()))
    with pytest.raises(UsageError, match=message):
        strongest_photos(classifier, {"conv1": (0,)}, batches_of(given, classifier))
