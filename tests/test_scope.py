"""Scope's promises: what it takes, what it gives back, that it leaves the module alone; the issue's examples run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

import convscope as cs
from convscope.errors import ConvscopeError, UsageError
from convscope.images.frame import Framing
from convscope.models.classes import Classes, imagenet
from convscope.models.classifier import Classifier
from convscope.models.run import write_run
from convscope.scope import Entry
from tests.nets import MEAN, STD, seeded


class Reds(nn.Module):
    """Class 1 is red, class 0 is not: the answer and its place are known. What it is given is kept."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[1, 0], self.conv.weight[1, 1:] = 1.0, -1.0
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.given = None

    def forward(self, images):
        self.given = images.detach()
        return 50 * self.pool(self.conv(images).relu()).flatten(1)


@pytest.fixture
def reds():
    return Reds()


@pytest.fixture(scope="module")
def lite0():
    return cs.load("convscope:efficientnet_lite0", device="cpu")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of photos as people have them."""
    folder = tmp_path_factory.mktemp("my photos")
    Image.fromarray(data.chelsea()).save(folder / "cat.png")
    Image.fromarray(data.coffee()).save(folder / "coffee.jpg", quality=95)
    Image.fromarray(data.coffee()).rotate(90, expand=True).save(folder / "Käffchen 10.webp", quality=95)
    return folder


def marked(height, width, row, col, side=12):
    """A grey photo with a red square whose centre is at row, col."""
    array = np.full((height, width, 3), 90, np.uint8)
    array[row - side : row + side, col - side : col + side] = (255, 0, 0)
    return Image.fromarray(array)


def refusal(function, *arguments, kind=UsageError, **options):
    with pytest.raises(kind) as caught:
        function(*arguments, **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Tensors are taken as they are


@pytest.mark.parametrize("shape", [(2, 3, 24, 40), (3, 24, 40), (1, 3, 5, 300)])
@pytest.mark.parametrize("size", [None, 16])
def test_a_tensor_reaches_the_network_as_it_is(reds, shape, size):
    images = torch.rand(shape)
    before = images.clone()
    net = cs.Scope(reds, size=size)
    net.predict(images)
    assert torch.equal(reds.given, images.reshape(-1, *shape[-3:]))
    assert torch.equal(images, before)
    found, views = net.images(images)
    assert found.data_ptr() == images.data_ptr()
    assert views == ()


@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["gradient", "grad-cam", "deconvnet", "integrated-gradients"])
def test_raw_has_the_tensors_canvas_and_dtype(reds, method, dtype, weights):
    e = cs.Scope(reds.to(weights), size=8, progress=False).explain(torch.rand(2, 3, 24, 40).to(dtype), method, target=1)
    assert e.raw.dtype == dtype
    assert e.raw.shape in ((2, 24, 40), (2, 3, 24, 40))
    assert e.raw.isfinite().all()
    assert e.overlay(1).size == (40, 24)


def test_activations_are_b_c_h_w(lite0):
    e = lite0.activations(torch.rand(2, 3, 96, 128), "blocks.1.1")
    assert e.raw.shape == (2, 24, 24, 32)
    kept = []
    hook = lite0.classifier.network.get_submodule("blocks.1.1").register_forward_hook(
        lambda _, __, out: kept.append(out)
    )
    e = lite0.activations(data.chelsea(), "blocks.1.1")
    hook.remove()
    assert torch.equal(e.raw, kept[0])
    assert e.raw.shape == (1, 24, 56, 56)


def test_a_list_of_tensors_is_a_batch(reds):
    parts = [torch.rand(3, 8, 9), torch.rand(2, 3, 8, 9)]
    cs.Scope(reds).predict(parts)
    assert torch.equal(reds.given, torch.cat([parts[0][None], parts[1]]))


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.rand(2, 24, 40), r'a tensor of images is "b 3 h w" for this model, got (1, 2, 24, 40)'),
        (torch.rand(24, 40), r"got (24, 40)"),
        (torch.rand(1, 1, 24, 40), r"got (1, 1, 24, 40)"),
        (torch.rand(24, 40, 3), r"got (1, 24, 40, 3)"),
        (torch.rand(0, 3, 24, 40), r"got (0, 3, 24, 40)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "torch.uint8; divide by 255"),
        (torch.full((1, 3, 4, 4), 200.0), "got 200 to 200"),
        (torch.randn(1, 3, 64, 64), "pass them before normalisation"),
        ([torch.rand(3, 4, 4), torch.rand(3, 5, 5)], "photos of different sizes (tensor 0 4x4, tensor 1 5x5)"),
    ],
)
def test_tensors_that_are_no_images(reds, images, words):
    assert words in refusal(cs.Scope(reds).predict, images)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_with_nan(reds, value):
    images = torch.rand(1, 3, 4, 4)
    images[0, 1, 2, 3] = value
    assert refusal(cs.Scope(reds).predict, images, kind=ConvscopeError) == "the images hold NaN or infinity"


def test_what_rounding_leaves_is_let_through(reds):
    cs.Scope(reds).predict(torch.tensor([-1e-4, 1 + 1e-4, 0.5]).view(1, 3, 1, 1))


# Size


@pytest.mark.parametrize(("size", "canvas"), [(32, (32, 32)), ((32, 48), (32, 48))])
def test_size_is_a_side_or_two(reds, size, canvas):
    net = cs.Scope(reds, size=size)
    net.predict(data.chelsea())
    assert reds.given.shape == (1, 3, *canvas)
    assert net.blank().shape == (1, 3, *canvas)
    assert f"{canvas[0]}x{canvas[1]}" in repr(net)


def test_without_a_size_photos_are_as_large_as_they_are(reds):
    net = cs.Scope(reds)
    net.predict(data.chelsea())
    assert torch.equal(reds.given[0], torch.from_numpy(data.chelsea()).permute(2, 0, 1) / 255)
    assert "any size" in repr(net)
    assert "different sizes" in refusal(net.predict, [data.chelsea(), data.coffee()])


@pytest.mark.parametrize(
    ("options", "framing"),
    [
        ({"size": 32}, Framing((32, 32), 32, "bicubic")),
        ({"size": 224, "crop": 0.875, "interpolation": "bilinear"}, Framing((224, 224), 256, "bilinear")),
        ({"size": (32, 64), "crop": 0.5}, Framing((32, 64), 64)),
        ({"size": 32, "crop": None}, Framing((32, 32))),
        ({"interpolation": "nearest"}, Framing(interpolation="nearest")),
    ],
)
def test_framing(reds, options, framing):
    assert cs.Scope(reds, **options).classifier.framing == framing


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 0}, "size"),
        ({"size": 32, "crop": 0}, "crop is the share"),
        ({"size": 32, "crop": 1.5}, "crop is the share"),
        ({"interpolation": "cubic"}, "interpolation 'cubic'"),
        ({"mean": [0.5, 0.5]}, "mean has 2 values"),
        ({"std": [0.0]}, "std positive"),
        ({"classes": []}, "classes are the names"),
        ({"classes": "none.txt"}, "none.txt: cannot be read"),
    ],
)
def test_options_that_cannot_be_meant(reds, options, words):
    assert words in refusal(cs.Scope, reds, **options)


# Photos of every kind


def test_every_kind_of_photo_is_the_same_photo(reds, photos):
    net = cs.Scope(reds, size=48)
    array = data.chelsea()
    image = Image.fromarray(array)
    sources = [photos / "cat.png", str(photos / "cat.png"), image, array, array / 255, (array / 255).astype(np.float32)]
    sources += [image.convert("RGBA"), np.dstack([array, np.full(array.shape[:2], 255, np.uint8)])]
    for source in sources:
        net.predict(source)
        if source is sources[0]:
            expected = reds.given
        assert torch.equal(reds.given, expected)
    assert expected.shape == (1, 3, 48, 48)
    assert net.predict(sources).probabilities.shape == (8, 2)


def test_grey_photos_and_transparent_ones(reds):
    net, grey = cs.Scope(reds, size=(20, 30)), data.coffee()[..., 1]
    net.predict(Image.fromarray(grey))
    assert torch.equal(reds.given[:, 0], reds.given[:, 1])
    expected = reds.given
    net.predict(grey)
    assert torch.equal(reds.given, expected)
    clear = Image.new("RGBA", (30, 20), (255, 0, 0, 0))
    for colour, value in (("white", 1.0), ("black", 0.0)):
        cs.Scope(reds, size=(20, 30), background=colour).predict(clear)
        assert reds.given.unique().tolist() == [value]


def test_a_model_of_grey_photos(photos):
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1))
    net = cs.Scope(module, mean=[0.5], std=[0.5], size=28, classes=["a", "b"])
    assert net.images(photos / "cat.png")[0].shape == (1, 1, 28, 28)
    assert net.explain(photos / "cat.png", "grad-cam").overlay().size == (451, 300)
    assert net.predict(torch.rand(1, 1, 30, 30)).probabilities.shape == (1, 2)
    assert "photo has 1 or 3 channels" in refusal(cs.Scope(nn.Conv2d(4, 2, 3)).predict, data.chelsea())


def test_folders_globs_and_lists(reds, photos, monkeypatch):
    net = cs.Scope(reds, size=16)
    names = ("cat.png", "coffee.jpg", "Käffchen 10.webp")
    monkeypatch.chdir(photos)
    everything = [photos, str(photos), photos / "*", "*.[jpw]*", ["cat.png", "coffee.jpg", photos / "Käffchen 10.webp"]]
    for source in everything:
        prediction = net.predict(source)
        assert prediction.names == names
        assert prediction.probabilities.shape == (3, 2)
    assert net.predict(["*.jpg", data.chelsea(), "cat.png"]).names == ("coffee.jpg", "photo 2", "cat.png")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("none.jpg", "none.jpg: no such file"),
        ("*.jpeg2", "no photos match"),
        ([], "no photos were given"),
        (np.zeros((2, 4, 4, 3), np.uint8), "pass one image of the batch"),
        (np.zeros((3, 40, 40), np.uint8), "move the channels last"),
        (np.full((4, 4, 3), 2.0), "floats lie in [0, 1]"),
        (np.full((4, 4, 3), np.nan), "NaN"),
        (np.zeros((4, 4, 3), np.int64), "int64"),
    ],
)
def test_photos_that_are_none(reds, source, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in refusal(cs.Scope(reds, size=8).predict, source)


# Predictions


def test_top(lite0, photos):
    top = lite0.predict(photos / "coffee.jpg").top(3)
    assert [type(entry) for entry in top] == [Entry] * 3
    assert (top[0].index, top[0].name) == (967, "espresso")
    assert top[0].probability > 0.9
    assert [entry.probability for entry in top] == sorted((entry.probability for entry in top), reverse=True)
    assert len(lite0.predict(data.coffee()).top()) == 5
    assert sum(entry.probability for entry in lite0.predict(data.coffee()).top(2000)) == pytest.approx(1, abs=1e-5)


def test_several_photos(lite0, photos):
    prediction = lite0.predict(photos)
    assert len(prediction) == 3
    lists = prediction.top(2)
    assert [len(entries) for entries in lists] == [2, 2, 2]
    assert {entry.index for entry in lists[0]} <= {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert lists[1] == prediction[1].top(2)
    assert prediction[1].names == ("coffee.jpg",)
    assert [one.names[0] for one in prediction] == list(prediction.names)
    assert prediction[1:].names == prediction.names[1:]
    alone = lite0.predict(photos / "coffee.jpg").probabilities
    assert torch.allclose(alone, prediction[1].probabilities, atol=1e-5)
    lines = repr(prediction).splitlines()
    assert lines[1].startswith("coffee.jpg: espresso 0.9")
    assert len(lines) == 3


def test_more_photos_than_are_run_at_once(reds):
    images = torch.rand(37, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = cs.Scope(reds).predict(images).probabilities
    assert torch.allclose(found, reds(images).softmax(1), atol=1e-6)


def test_softmax_at_the_end_and_one_output():
    images = torch.rand(3, 3, 8, 8)
    body = seeded(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), dtype=torch.float32
    )
    expected = body(images).softmax(1)
    for end in (nn.Identity(), nn.Softmax(1), nn.LogSoftmax(1)):
        found = cs.Scope(nn.Sequential(body, end)).predict(images).probabilities
        assert torch.allclose(found, expected, atol=1e-6)
    binary = nn.Sequential(*body[:-1], nn.Linear(4, 1), nn.Flatten(0))
    found = cs.Scope(binary, classes=["no", "yes"]).predict(images).top(2)[1]
    assert {entry.name: entry.probability for entry in found}["yes"] == pytest.approx(
        binary(images)[1].sigmoid().item()
    )


def test_nan_is_not_a_prediction(reds):
    with torch.no_grad():
        reds.conv.weight[0] = float("nan")
    assert "Reds gave NaN" in refusal(cs.Scope(reds).predict, torch.rand(1, 3, 4, 4), kind=ConvscopeError)


def test_top_of_nothing(reds):
    assert "at least 1" in refusal(cs.Scope(reds).predict(torch.rand(1, 3, 4, 4)).top, 0)


# Explanations on the photo


@pytest.mark.parametrize(("height", "width"), [(200, 520), (520, 200), (300, 300), (60, 50)])
@pytest.mark.parametrize("options", [{"size": 64}, {"size": (64, 96), "crop": 0.8}, {"size": 64, "crop": None}, {}])
def test_overlays_lie_on_the_photo_as_it_was_given(reds, height, width, options):
    row, col = height // 2 + height // 20, width // 2 - width // 20
    photo = marked(height, width, row, col, side=min(height, width) // 8)
    e = cs.Scope(reds, progress=False, **options).explain(photo, "grad-cam", target=1)
    assert e.photo().size == e.overlay().size == (width, height)
    on_photo = e.views[0].placement.to_photo(e.raw)[0]
    assert on_photo.shape == (height, width)
    middle = [float((on_photo.sum(1 - d) * torch.arange(on_photo.shape[d])).sum() / on_photo.sum()) for d in (0, 1)]
    assert middle == pytest.approx([row, col], abs=0.02 * max(height, width) + 1)
    change = np.abs(np.asarray(e.overlay(), float) - np.asarray(e.photo(), float)).sum(2)
    assert change[row, col] > 60


def test_a_photo_keeps_its_pixels_beside_the_map(reds, photos):
    e = cs.Scope(reds, size=32).explain(photos / "coffee.jpg", "gradient", target=1)
    assert e.photo().tobytes() == Image.open(photos / "coffee.jpg").convert("RGB").tobytes()
    assert e.raw.shape == (1, 3, 32, 32)


# The module is left alone


def test_the_module_is_used_and_left_as_it_was():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5))
    net.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(4, 3))
    net[0].weight.requires_grad_(False)
    net.train()
    net[1].eval()
    state = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    flags = [p.requires_grad for p in net.parameters()]
    random = torch.random.get_rng_state()
    scope = cs.Scope(net, size=16, mean=MEAN, std=STD)
    first = scope.predict(data.chelsea()).probabilities
    assert torch.equal(first, scope.predict(data.chelsea()).probabilities)  # dropout is off
    for method in ("grad-cam", "guided"):
        scope.explain(data.chelsea(), method)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [module.training for module in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert scope.classifier.network is net


def test_a_compiled_module_is_looked_into(reds):
    net = cs.Scope(torch.compile(reds))
    assert net.classifier.network is reds
    assert net.find_layers("conv") == ["conv"]


def test_a_module_without_classes(reds):
    net = cs.Scope(reds)
    assert net.classes is None
    assert net.predict(torch.rand(1, 3, 4, 4)).top(1)[0].name in ("class 0", "class 1")
    assert net.explain(torch.rand(1, 3, 4, 4), "grad-cam", target="class 1").labels == ("class 1",)
    assert "unknown" in refusal(net.explain, torch.rand(1, 3, 4, 4), target="cat")


@pytest.mark.parametrize("given", [["grey", "red"], ("grey", "red"), Classes(("grey", "red")), "file"])
def test_classes_as_given(reds, given, tmp_path):
    if given == "file":
        given = tmp_path / "names.json"
        given.write_text(json.dumps({"grey": 0, "red": 1}))
    net = cs.Scope(reds, given)
    assert net.predict(marked(40, 40, 20, 20)).top(1)[0].name == "red"
    assert net.explain(marked(40, 40, 20, 20), target="Red").labels == ("red",)
    assert "2 classes" in repr(net)


def test_class_names_are_counted(reds):
    assert "2 outputs but 3 class names" in refusal(cs.Scope(reds, list("abc")).predict, torch.rand(1, 3, 4, 4))


def test_a_classifier_is_taken_as_it_is(reds):
    classifier = Classifier(reds, Classes(("a", "b")), framing=Framing((8, 8), 8))
    assert cs.Scope(classifier).classifier is classifier
    assert "a Classifier has its" in refusal(cs.Scope, classifier, size=16)


# load


def test_load(tmp_path):
    torch.manual_seed(0)
    net = cs.load("convscope:mnist_convnet@random", num_classes=2, size=(32, 40), classes=["a", "b"], device="cpu")
    assert repr(net) == "<Scope convscope:mnist_convnet@random: 1 channels, 32x40, 2 classes>"
    images = torch.rand(1, 1, 32, 40)
    expected = net.predict(images).probabilities
    torch.save(net.classifier.network.state_dict(), tmp_path / "w.pt")
    options = {"num_classes": 2, "size": (32, 40)}
    again = cs.load("convscope:mnist_convnet", weights=tmp_path / "w.pt", options=options)
    assert torch.equal(again.predict(images).probabilities, expected)
    write_run(net.classifier, tmp_path / "run", "convscope:mnist_convnet", options)
    assert torch.equal(cs.load(f"run:{tmp_path / 'run'}").predict(images).probabilities, expected)
    assert next(cs.load("convscope:mnist_convnet@random", device="meta").classifier.parameters()).device.type == "meta"
    assert "unknown option 'widht'" in refusal(cs.load, "convscope:mnist_convnet@random", widht=3)


def test_load_a_photo_model_of_ones_own(tmp_path, photos):
    """As on the command line of the issue: net.py:Net --weights --classes --mean --std --size."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 2, 1))\n"
    )
    spec = f"{tmp_path / 'net.py'}:Net"
    torch.save({"state_dict": cs.load(spec).classifier.network.state_dict()}, tmp_path / "ckpt.pt")
    (tmp_path / "names.txt").write_text("cat\ncup\n")
    half = [0.5, 0.5, 0.5]
    net = cs.load(spec, weights=tmp_path / "ckpt.pt", classes=tmp_path / "names.txt", mean=half, std=half, size=96)
    assert {entry.name for entry in net.predict(photos / "cat.png").top(2)} == {"cat", "cup"}
    assert net.explain(photos / "cat.png", "grad-cam", target="cup").raw.shape == (1, 96, 96)


def test_structure_only():
    net = cs.load("convscope:zfnet", structure_only=True, fc=8)
    assert [row.address for row in net.layers()][:2] == ["features.conv1", "features.relu1"]


# The issue's example, as it is written there, on a network of the same layers with untrained weights


def test_the_issues_example(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.chelsea()).save("elephant.jpg")
    Image.fromarray(data.coffee()).save("pets.jpg")
    net = cs.load("convscope:vgg16_gap@random", num_classes=1000, classes="imagenet", size=128, device="cpu")
    top = net.predict("elephant.jpg").top(3)
    assert all(imagenet().names[entry.index] == entry.name and 0 < entry.probability < 1 for entry in top)
    e = net.explain("elephant.jpg", "grad-cam", target="African elephant")
    assert e.layer == "features"  # whose output is that of its last ReLU
    assert e.raw.shape == (1, 128, 128)
    e.overlay().save("cam.png")
    assert Image.open("cam.png").size == (451, 300)
    assert e._repr_png_()[:8] == b"\x89PNG\r\n\x1a\n"
    assert net.activations("elephant.jpg", "features.28").sheet().width > 500
    assert net.activations("elephant.jpg", "features.28").raw.shape == (1, 512, 8, 8)
    for target in ("features.28:113", "features.28:113@7,4"):
        assert net.explain("elephant.jpg", "deconvnet", target=target).raw.shape == (1, 3, 128, 128)
    e = net.explain("pets.jpg", "grad-cam", target="tabby", against="beagle")
    assert e.labels == ("tabby against beagle",)
    assert cs.methods.METHODS["grad-cam"].name == "grad-cam"
    assert Path("cam.png").exists()
