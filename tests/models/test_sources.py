"""Where models come from: real loading from small local files; and one line, soon, on weights that cannot be had."""

import hashlib
import json
import os
import socket
import ssl
import sys
import threading
import time
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from convscope.errors import ModelError, UsageError
from convscope.images.frame import Framing
from convscope.instrument.layers import layer_table
from convscope.models import fetch
from convscope.models.classes import imagenet
from convscope.models.registry import load_classifier
from tests.nets import photos

SQUEEZENET = models.SqueezeNet1_1_Weights.IMAGENET1K_V1
FILE = "{repo_id}/resolve/{revision}/{filename}"  # of the hub
TINY = "test_resnet.r160_in1k"  # 0.5 million parameters


def refusal(spec, kind=ModelError, **options):
    with pytest.raises(kind) as caught:
        load_classifier(spec, **options)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def holds(classifier, state):
    own = classifier.network.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def seeded(make):
    torch.manual_seed(7)
    return make().state_dict()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Empty caches, and nobody who answers where weights are fetched from: this test asks the network for nothing."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    serve(monkeypatch, nobody)
    return tmp_path


def serve(monkeypatch, address):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{FILE}")
    for entry in (SQUEEZENET, models.GoogLeNet_Weights.IMAGENET1K_V1):
        monkeypatch.setattr(entry.value, "url", f"{address}/{entry.url.rpartition('/')[2]}")


@pytest.fixture
def server(monkeypatch):
    """Start a web server with a handler; weights are fetched from it."""
    started = []

    def start(handler):
        started.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=started[-1].serve_forever, daemon=True).start()
        serve(monkeypatch, f"http://127.0.0.1:{started[-1].server_port}")

    yield start
    for one in started:
        one.shutdown()
        one.server_close()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Missing(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_):
        pass


# torchvision


def put(home, entry, state):
    file = home / "torch" / "hub" / "checkpoints" / entry.url.rpartition("/")[2]
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, file)
    return file


@pytest.mark.parametrize("weights", ["", "@IMAGENET1K_V1", "@DEFAULT"])
def test_torchvision_loads_the_file_in_the_hubs_folder(home, weights):
    state = seeded(models.squeezenet1_1)
    put(home, SQUEEZENET, state)
    classifier = load_classifier(f"torchvision:squeezenet1_1{weights}")
    assert holds(classifier, state)
    assert classifier.classes is imagenet()
    assert classifier.framing == Framing((224, 224), 256, "bilinear")
    assert (classifier.mean, classifier.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert classifier(torch.rand(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.parametrize("name", ["efficientnet_b1@IMAGENET1K_V1", "efficientnet_b1@IMAGENET1K_V2", "efficientnet_b1"])
def test_torchvision_framing_is_that_of_the_weights(name):
    """Also where they are not loaded: for a table of layers the size of the canvas matters."""
    entry = models.get_model_weights("efficientnet_b1")[name.partition("@")[2] or "DEFAULT"]
    preset = entry.transforms()
    framing = load_classifier(f"torchvision:{name}", structure_only=True).framing
    assert framing == Framing((preset.crop_size[0],) * 2, preset.resize_size[0], preset.interpolation.value)


def test_torchvision_fetches_and_keeps_the_file(home, server, capsys, monkeypatch):
    state = seeded(models.squeezenet1_1)
    file = put(home, SQUEEZENET, state)
    (home / "web").mkdir()
    sum256 = hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    file.rename(home / "web" / f"squeezenet1_1-{sum256}.pth")
    server(partial(Quiet, directory=home / "web"))
    monkeypatch.setattr(SQUEEZENET.value, "url", SQUEEZENET.url.replace("b8a52dc0", sum256))
    for _ in range(2):
        assert holds(load_classifier("torchvision:squeezenet1_1"), state)
    assert (file.parent / f"squeezenet1_1-{sum256}.pth").exists()
    captured = capsys.readouterr()
    assert captured.out == ""  # torch.hub says there that it downloads
    assert captured.err.count("Downloading") == 1


def test_torchvision_file_that_was_changed_on_the_way(home, server):
    file = put(home, SQUEEZENET, seeded(models.squeezenet1_1))
    server(partial(Quiet, directory=file.parent))
    other = home / "torch" / "hub" / "elsewhere"
    file.parent.rename(other)
    server(partial(Quiet, directory=other))
    assert "invalid hash value" in refusal("torchvision:squeezenet1_1")
    assert not list((home / "torch" / "hub" / "checkpoints").glob("*.pth"))


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_torchvision_file_with_code_is_refused_and_not_run(home):
    put(home, SQUEEZENET, seeded(models.squeezenet1_1) | {"x": Malicious(home / "it ran")})
    assert "posix.mkdir" in refusal("torchvision:squeezenet1_1")
    assert not (home / "it ran").exists()


def test_torchvision_file_of_another_network(home):
    put(home, SQUEEZENET, nn.Linear(2, 2).state_dict())
    message = refusal("torchvision:squeezenet1_1")
    assert message.startswith(
        "the trained weights of torchvision:squeezenet1_1 could not be loaded (Error(s) in loading"
    )


def test_torchvision_file_that_is_damaged(home):
    file = put(home, SQUEEZENET, seeded(models.squeezenet1_1))
    file.write_bytes(file.read_bytes()[:5000])
    assert f"{file}: not a checkpoint, or a damaged one" in refusal("torchvision:squeezenet1_1")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_that_torchvision_changes_with_their_weights(name):
    """What comes with trained weights and what is rebuilt without them, to load a checkpoint, is the same network."""
    network = load_classifier(f"torchvision:{name}@random").network
    assert network.aux_logits == (name == "inception_v3")


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("options", [{}, {"transform_input": False}])
def test_their_own_normalisation_is_done_by_the_classifier(name, options):
    classifier = load_classifier(f"torchvision:{name}@random", options=options)
    weights = models.get_model_weights(name).DEFAULT.transforms()
    model = models.get_model(name, weights=None, init_weights=False, transform_input=not options).eval()
    model.load_state_dict(classifier.network.state_dict(), strict=False)
    pixels = torch.rand(1, 3, 96, 96)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (weights.mean, weights.std))
    with torch.no_grad():
        near = torch.allclose(classifier(pixels), model((pixels - mean) / std), atol=1e-4)
    assert near
    table = layer_table(classifier.network, pixels, through=classifier)
    assert any(row.field is not None and row.field.status == "exact" for row in table)


def test_googlenet_with_weights_has_the_keys_of_the_random_one(home):
    state = seeded(partial(models.googlenet, init_weights=False))
    put(home, models.GoogLeNet_Weights.IMAGENET1K_V1, state)
    trained, random = load_classifier("torchvision:googlenet"), load_classifier("torchvision:googlenet@random")
    assert trained.network.state_dict().keys() == random.network.state_dict().keys()
    assert torch.equal(trained.network.conv1.conv.weight, state["conv1.conv.weight"])


def test_torchvision_random():
    torch.manual_seed(3)
    state = models.squeezenet1_1(num_classes=4).state_dict()
    torch.manual_seed(3)
    classifier = load_classifier("torchvision:squeezenet1_1@random", options={"num_classes": 4})
    assert holds(classifier, state)
    assert classifier.classes is None
    assert classifier(torch.rand(1, 3, 64, 64)).shape == (1, 4)
    assert load_classifier("torchvision:squeezenet1_1@random").classes is imagenet()


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("torchvision:resnet19", {}, "unknown torchvision model 'resnet19'; nearest: resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", {}, "unknown torchvision model"),
        ("torchvision:squeezenet1_1@V7", {}, "unknown weights of torchvision:squeezenet1_1 'V7'"),
        (
            "torchvision:squeezenet1_1",
            {"num_classes": 4},
            "has trained weights for 1000 classes, not for num_classes=4",
        ),
        ("torchvision:squeezenet1_1@random", {"colour": 4}, "squeezenet1_1: it takes no option 'colour'"),
        ("torchvision:squeezenet1_1@random", {"weights": "DEFAULT"}, "unknown option 'weights'"),
        ("torchvision:resnext50_32x4d@random", {"groups": 2}, "groups=2: The parameter 'groups' expected value 32"),
    ],
)
def test_torchvision_refusals(spec, options, words):
    assert words in refusal(spec, UsageError, options=options)


# timm and the hub


def in_cache(home, repo, commit="0" * 40, **files):
    """A repository as huggingface_hub keeps it."""
    folder = home / "hub" / f"models--{repo.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    for name, content in files.items():
        path = snapshot / {"config": "config.json", "weights": "model.safetensors", "bin": "pytorch_model.bin"}[name]
        if name == "config":
            path.write_text(json.dumps(content))
        elif name == "weights":
            save_file(content, path)
        else:
            torch.save(content, path)
    return snapshot


@pytest.mark.parametrize("spec", [f"timm:{TINY}", "timm:test_resnet"])
@pytest.mark.parametrize("kind", ["weights", "bin"])
def test_timm_loads_what_is_in_the_cache(home, spec, kind):
    state = seeded(partial(timm.create_model, "test_resnet"))
    in_cache(home, f"timm/{TINY}", **{kind: state})
    start = time.monotonic()
    classifier = load_classifier(spec)
    assert time.monotonic() - start < 20  # huggingface_hub would ask a server that does not answer for a minute
    assert holds(classifier, state)
    assert classifier.classes == imagenet()
    assert classifier.framing == Framing((160, 160), 168, "bilinear")
    assert classifier(torch.rand(1, 3, 64, 64)).shape == (1, 1000)
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_timm_bin_with_code_is_refused_and_not_run(home):
    state = seeded(partial(timm.create_model, "test_resnet"))
    in_cache(home, f"timm/{TINY}", bin=state | {"x": Malicious(home / "it ran")})
    refusal(f"timm:{TINY}")
    assert not (home / "it ran").exists()


def test_timm_file_that_is_damaged(home):
    snapshot = in_cache(home, f"timm/{TINY}", weights=seeded(partial(timm.create_model, "test_resnet")))
    (snapshot / "model.safetensors").write_bytes(b"\x08")
    assert "could not be loaded" in refusal(f"timm:{TINY}")


def test_timm_file_of_another_network(home):
    in_cache(home, f"timm/{TINY}", weights=nn.Linear(2, 2).state_dict())
    assert "could not be loaded (Error(s) in loading state_dict" in refusal(f"timm:{TINY}")


def test_timm_random():
    torch.manual_seed(3)
    state = timm.create_model("test_resnet", num_classes=4).state_dict()
    torch.manual_seed(3)
    classifier = load_classifier("timm:test_resnet@random", options={"num_classes": 4})
    assert holds(classifier, state)
    assert classifier.classes is None


def test_timm_on_grey_images():
    classifier = load_classifier("timm:test_resnet@random", options={"in_chans": 1})
    assert (classifier.channels, len(classifier.mean), len(classifier.std)) == (1, 1, 1)
    assert classifier(photos(1, 1, 64, 64, dtype=torch.float32)).shape == (1, 1000)


def test_timm_names_the_classes_of_larger_imagenets():
    classifier = load_classifier("timm:convnext_nano.in12k", structure_only=True)
    assert len(classifier.classes) == 11821
    assert classifier.classes.synsets[0].startswith("n0")


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("timm:resnet188", {}, "unknown timm model 'resnet188'; nearest: resnet18"),
        ("timm:test_resnet.in1k", {}, "unknown timm weights 'test_resnet.in1k'; nearest: test_resnet.r160_in1k"),
        ("timm:test_resnet@V1", {}, "names weights with a dot"),
        ("timm:test_resnet", {"num_classes": 4}, "has trained weights for 1000 classes, not for num_classes=4"),
        ("timm:test_resnet@random", {"colour": 4}, "it takes no option 'colour'"),
        ("timm:test_resnet@random", {"pretrained": True}, "unknown option 'pretrained'"),
        ("timm:test_resnet@random", {"output_stride": 7}, "test_resnet cannot be had with output_stride=7"),
        ("timm:test_resnet@random", {"num_classes": "ten"}, "cannot be had with num_classes='ten'"),
        *((f"hf-hub:{name}", {}, "write hf-hub:ORG/NAME") for name in ("resnet18", "a/b/c", "a b/c")),
    ],
)
def test_timm_refusals(spec, options, words):
    assert words in refusal(spec, UsageError, options=options)


def test_timm_without_trained_weights():
    assert refusal("timm:botnet50ts_256").startswith("timm:botnet50ts_256 comes without trained weights: pass your own")


HUB = {
    "architecture": "test_resnet",
    "num_classes": 3,
    "num_features": 256,
    "pretrained_cfg": {
        "num_classes": 3,
        "input_size": [3, 96, 80],
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "crop_mode": "squash",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "first_conv": "conv1",
        "classifier": "fc",
        "label_names": ["n1", "n2", "n3"],
        "label_descriptions": {"n1": "cat, a pet", "n3": "crane"},
    },
}


@pytest.mark.parametrize("revision", ["", "@main", "@" + "0" * 40])
def test_hub(home, revision):
    state = seeded(partial(timm.create_model, "test_resnet", num_classes=3))
    in_cache(home, "me/my_net.v1", config=HUB, weights=state)
    classifier = load_classifier(f"hf-hub:me/my_net.v1{revision}")
    assert holds(classifier, state)
    assert classifier.framing == Framing((96, 80), 88, "bilinear", squash=True)
    assert (classifier.mean, classifier.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert classifier.classes.names == ("cat, a pet", "n2", "crane")
    assert classifier.classes.find("n3") == 2
    assert classifier(torch.rand(2, 3, 96, 80)).shape == (2, 3)


def test_hub_random(home):
    in_cache(home, "me/net", config=HUB)
    assert load_classifier("hf-hub:me/net@random").classes.names == ("cat, a pet", "n2", "crane")
    assert "could not be loaded" in refusal("hf-hub:me/net")  # there is a config, but no weights


@pytest.mark.parametrize("config", [{"model_type": "vit"}, {"architecture": "my_own_net"}, [1], {}])
def test_hub_repositories_that_are_not_timms(home, config):
    in_cache(home, "me/net", config=config)
    assert refusal("hf-hub:me/net").startswith("hf-hub:me/net is not a timm model")


# Weights that cannot be fetched


ALL = ["torchvision:squeezenet1_1", f"timm:{TINY}", "timm:resnet18", "hf-hub:timm/resnet18.a1_in1k"]


@pytest.mark.parametrize("spec", ALL)
def test_nobody_answers(spec, home, capfd):
    load_classifier("timm:test_resnet@random")  # so that the time is not that of importing
    start = time.monotonic()
    message = refusal(spec)
    assert time.monotonic() - start < 10
    assert message.startswith(f"the trained weights of {spec} could not be loaded (127.0.0.1:")
    assert "Connection refused" in message
    assert "Connect to the internet, or" in message
    if spec.startswith("torchvision"):
        assert f"put {SQUEEZENET.url.rpartition('/')[2]} into {home}/torch/hub/checkpoints" in message
    else:
        assert "`hf download timm/" in message
    if not spec.startswith("hf-hub"):
        assert f"pass your own with --weights FILE, or write {spec}@random" in message
    assert capfd.readouterr() == ("", "")  # one line, and no log of retries


@pytest.mark.parametrize("spec", ALL)
def test_somebody_answers_without_the_file(spec, server):
    server(Missing)
    assert "404" in refusal(spec)


@pytest.mark.parametrize("spec", ALL)
def test_somebody_listens_but_says_nothing(spec, monkeypatch):
    monkeypatch.setattr(fetch, "PATIENCE", 0.3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        serve(monkeypatch, f"http://127.0.0.1:{mute.getsockname()[1]}")
        start = time.monotonic()
        assert "does not answer: timed out" in refusal(spec)
        assert time.monotonic() - start < 10


def test_weights_of_your_own_need_no_server(home):
    state = seeded(models.squeezenet1_1)
    torch.save(state, home / "w.pt")
    assert holds(load_classifier("torchvision:squeezenet1_1", weights=home / "w.pt"), state)
    state = seeded(partial(timm.create_model, "test_resnet"))
    save_file(state, home / "w.safetensors")
    assert holds(load_classifier(f"timm:{TINY}", weights=home / "w.safetensors"), state)


def test_offline_by_the_users_wish(home, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(fetch, "urlopen", lambda *_, **__: pytest.fail("a server was asked"))
    assert "could not be loaded" in refusal(f"timm:{TINY}")
    state = seeded(partial(timm.create_model, "test_resnet"))
    in_cache(home, f"timm/{TINY}", weights=state)
    assert holds(load_classifier(f"timm:{TINY}"), state)
    assert huggingface_hub.constants.HF_HUB_OFFLINE is True


@pytest.mark.parametrize(
    "error", [URLError(ssl.SSLCertVerificationError("certificate verify failed")), ValueError("odd")]
)
def test_a_server_that_answers_oddly_is_not_silent(error, monkeypatch):
    def fails(*_, **__):
        raise error

    monkeypatch.setattr(fetch, "urlopen", fails)
    assert fetch.silence("https://huggingface.co") == ""


# Code of one's own

CODE = """
from dataclasses import dataclass
from typing import get_type_hints
from torch import nn
import blocks

@dataclass
class Settings:
    width: "int" = 4

class Net(nn.Module):
    def __init__(self, classes=3, width=4):
        super().__init__()
        self.body = blocks.body(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def late(**options):
    import later
    assert get_type_hints(Settings) == {"width": int}
    return later.wrap(Net(**options))

def wrapped():
    import torch
    return torch.compile(Net())

def needs(width):
    return Net(width=width)

def buggy(classes=3):
    return Net(depth=classes)

def broken():
    raise RuntimeError("the factory's own trouble")

def text():
    return "net"

ready = Net(5)
number = 3
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    folder = tmp_path / "my nets"
    folder.mkdir()
    (folder / "net.py").write_text(CODE)
    (folder / "blocks.py").write_text("from torch import nn\ndef body(w): return nn.Conv2d(3, w, 3)\n")
    (folder / "later.py").write_text("from torch import nn\ndef wrap(net): return nn.Sequential(net)\n")
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture(params=["file", "module"])
def prefix(request, nets, monkeypatch):
    """How code is named: by its file, or from the folder it is in as a module."""
    monkeypatch.chdir(nets)
    return f"{nets / 'net.py'}:" if request.param == "file" else "net:"


def test_a_class(prefix):
    path = list(sys.path)
    classifier = load_classifier(prefix + "Net", options={"classes": 6}, mean=[0.5], size=32, classes=list("abcdef"))
    assert sys.path == path
    assert classifier(torch.rand(2, 3, 32, 32)).shape == (2, 6)
    assert (classifier.framing, classifier.mean) == (Framing((32, 32), 32), (0.5,) * 3)
    assert not classifier.network.training
    assert classifier.name == prefix + "Net"


def test_a_function_that_imports_its_neighbours_late(prefix):
    assert load_classifier(prefix + "late", options={"width": 5}).network[0].head.in_features == 5


def test_a_ready_module(prefix):
    assert load_classifier(prefix + "ready").network.head.out_features == 5
    assert "a ready module: it takes no options (classes)" in refusal(
        prefix + "ready", UsageError, options={"classes": 2}
    )


def test_a_compiled_module_is_unwrapped(prefix):
    assert type(load_classifier(prefix + "wrapped").network).__name__ == "Net"


def test_random_asks_for_nothing_else(prefix):
    assert load_classifier(prefix + "Net@random").network.head.out_features == 3


def test_weights_into_ones_own_module(prefix, tmp_path):
    given = load_classifier(prefix + "Net").network.state_dict()
    torch.save({"model": {f"module.{key}": value for key, value in given.items()}}, tmp_path / "w.pt")
    assert holds(load_classifier(prefix + "Net", weights=tmp_path / "w.pt"), given)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("Nte", {}, "unknown name in"),
        ("Nte", {}, "nearest: Net"),
        ("Net@V1", {}, "code has no weights by name"),
        ("Net", {"depth": 2}, "unknown option 'depth'; nearest: width"),
        ("late", {"depth": 2}, "it takes no option 'depth'"),
        ("needs", {}, "needs the option width"),
        ("text", {}, "gave str, not a torch.nn.Module"),
        ("number", {}, "gave int, not a torch.nn.Module"),
        ("blocks", {}, "gave module, not a torch.nn.Module"),
    ],
)
def test_code_refusals(prefix, name, options, words):
    assert words in refusal(prefix + name, UsageError, options=options)


@pytest.mark.parametrize(("name", "error"), [("buggy", TypeError), ("broken", RuntimeError)])
def test_trouble_in_code_of_ones_own_is_not_reworded(prefix, name, error):
    path = list(sys.path)
    for options in ({}, {"classes": 3} if name == "buggy" else {}):
        with pytest.raises(error) as caught:
            load_classifier(prefix + name, options=options)
        assert caught.traceback[-1].path.parent.name == "my nets" or "Net" in str(caught.value)
    assert sys.path == path


def test_two_files_of_one_name(nets, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "net.py").write_text("from torch import nn\nNet = lambda: nn.Conv2d(3, 9, 1)\n")
    first = load_classifier(f"{nets / 'net.py'}:Net").network
    second = load_classifier(f"{other / 'net.py'}:Net").network
    assert (type(first).__name__, second.out_channels) == ("Net", 9)
    assert "net" not in sys.modules  # no module of the user's own is hidden
    assert vars(sys.modules[type(first).__module__])["Net"] is type(first)


def test_a_file_is_read_anew(nets):
    load_classifier(f"{nets / 'net.py'}:Net")
    (nets / "net.py").write_text("from torch import nn\ndef Net(): return nn.Conv2d(3, 11, 1)\n")
    os.utime(nets / "net.py", (1, 1))
    assert load_classifier(f"{nets / 'net.py'}:Net").network.out_channels == 11


def test_files_that_do_not_import(nets):
    assert "no such file" in refusal(f"{nets / 'nte.py'}:Net", UsageError)
    (nets / "bad.py").write_text("import torch\nclass Net(:\n")
    assert f"{nets / 'bad.py'}: line 2 is not Python" in refusal(f"{nets / 'bad.py'}:Net", UsageError)
    (nets / "uses_bad.py").write_text("\n\n\nimport bad\n")
    assert f"{nets / 'bad.py'}: line 2 is not Python" in refusal(f"{nets / 'uses_bad.py'}:Net", UsageError)
    (nets / "lacks.py").write_text("import no_such_package_here\n")
    with pytest.raises(ModuleNotFoundError):
        load_classifier(f"{nets / 'lacks.py'}:Net")
    assert not any(name.startswith(("bad_", "lacks_")) for name in sys.modules)


def test_modules_that_are_not_there(nets, monkeypatch):
    monkeypatch.chdir(nets)
    for spec in ("nte:Net", "net.sub:Net", "no_such.package:Net"):
        assert "there is no Python module" in refusal(spec, UsageError)
    (nets / "lacks.py").write_text("import no_such_package_here\n")
    with pytest.raises(ModuleNotFoundError, match="no_such_package_here"):
        load_classifier("lacks:Net")


def test_an_installed_package():
    assert isinstance(load_classifier("torch.nn:Flatten").network, nn.Flatten)
    network = load_classifier("torchvision.models:squeezenet1_0", options={"num_classes": 3}).network
    assert network.classifier[1].out_channels == 3
