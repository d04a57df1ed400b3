"""Where training starts, and what of it learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from convscope.errors import ModelError, UsageError
from convscope.models.classes import Classes, imagenet, numbered
from convscope.models.run import write_run
from convscope.training.freeze import freeze_others, learning, set_dropout
from convscope.training.start import Start, start

THREE = Classes(("cat", "cup", "rocket"))
NET = """
from torch import nn
def Net(num_classes=10, width=4):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, num_classes))
def Fixed():
    return Net(7)
"""


def blank(begun: Start) -> torch.Tensor:
    classifier = begun.classifier
    return torch.full((1, classifier.channels, *(classifier.framing.size or (0, 0))), 0.5)


def test_a_trained_base_keeps_its_weights_and_gets_a_new_head() -> None:
    begun = start("convscope:efficientnet_lite0", THREE)
    whole = start("convscope:efficientnet_lite0", imagenet())
    new = {name for name, _ in begun.classifier.network.named_parameters()} - begun.loaded
    assert new == {"classifier.weight", "classifier.bias"}
    assert begun.classifier.network.classifier.weight.shape == (3, 1280)
    trained = whole.classifier.network.state_dict()
    for name, value in begun.classifier.network.state_dict().items():
        assert name in new or torch.equal(value, trained[name])
    assert begun.remarks == ()
    assert not {name for name, _ in whole.classifier.network.named_parameters()} - whole.loaded  # the very same classes


def test_a_new_head_begins_small_whatever_the_number_of_classes() -> None:
    """timm's own start is as large as 1 / sqrt(classes): for two classes it undoes what the base knows."""
    for classes in (2, 100):
        weight = start("convscope:efficientnet_lite0", numbered(classes)).classifier.network.classifier.weight
        assert float(weight.detach().abs().max()) <= 1 / 1280**0.5


def test_a_head_of_the_right_size_for_other_classes_starts_anew() -> None:
    begun = start("convscope:efficientnet_lite0", numbered(1000))
    assert "classifier.weight" not in begun.loaded


def test_without_trained_weights_all_starts_at_random_by_the_seed() -> None:
    torch.manual_seed(99)
    before = torch.get_rng_state()
    one, same, other = (start("convscope:mnist_convnet", numbered(10), seed=seed) for seed in (1, 1, 2))
    assert one.loaded == frozenset()
    weights = [begun.classifier.network.features.conv1.weight for begun in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "classes", "head", "outputs"),
    [
        ("convscope:catdog_convnet", 2, "auto", 1),
        ("convscope:catdog_convnet", 2, "softmax", 2),
        ("convscope:catdog_convnet", 3, "auto", 3),
        ("convscope:vgg16_gap", 2, "auto", 2),
        ("convscope:vgg16_gap", 2, "binary", 1),
    ],
)
def test_heads(spec: str, classes: int, head: str, outputs: int) -> None:
    begun = start(spec, numbered(classes), head=head)
    last = [m for m in begun.classifier.network.modules() if isinstance(m, nn.Linear)][-1]
    assert last.out_features == outputs
    assert begun.options["num_classes"] == outputs
    with torch.no_grad():
        assert begun.classifier(blank(begun)).shape == (1, classes)


def test_a_binary_head_for_three_classes_is_refused() -> None:
    with pytest.raises(UsageError, match="tells 2 classes apart"):
        start("convscope:vgg16_gap", THREE, head="binary")


def test_a_users_factory_with_and_without_a_number_of_classes(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    begun = start(f"{tmp_path}/net.py:Net", THREE, size=(16, 16), options={"width": 6})
    assert begun.options == {"width": 6, "num_classes": 3}
    assert start(f"{tmp_path}/net.py:Fixed", numbered(7), size=(16, 16)).options == {}
    with pytest.raises(ModelError, match="7 outputs but 3 class names"):
        start(f"{tmp_path}/net.py:Fixed", THREE, size=(16, 16))
    with pytest.raises(UsageError, match="--size"):
        start(f"{tmp_path}/net.py:Net", THREE)


def test_weights_are_taken_as_far_as_they_fit(tmp_path: Path) -> None:
    base = start("convscope:vgg16_base_head", numbered(2), size=(64, 64), seed=5).classifier.network
    state = {name: value for name, value in base.state_dict().items() if name.startswith("features.")}
    state["classifier.0.weight"] = torch.zeros(3, 3)  # torchvision's head, which has no place here
    save_file(state, tmp_path / "vgg.safetensors")
    begun = start("convscope:vgg16_base_head", numbered(2), size=(64, 64), weights=tmp_path / "vgg.safetensors")
    new = {name for name, _ in begun.classifier.network.named_parameters()} - begun.loaded
    assert {name.split(".")[0] for name in new} == {"classifier"}
    assert torch.equal(begun.classifier.network.features[0].weight, base.features[0].weight)
    assert "classifier.0.weight" in begun.remarks[0]
    save_file({"other": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match="do not fit"):
        start("convscope:vgg16_gap", THREE, weights=tmp_path / "other.safetensors")


def test_a_run_goes_on_with_its_head_for_the_same_classes_only(tmp_path: Path) -> None:
    first = start("convscope:mnist_convnet", numbered(10), seed=3)
    write_run(first.classifier, tmp_path / "run", first.spec, first.options)
    on = start(f"run:{tmp_path}/run", numbered(10))
    assert not {name for name, _ in on.classifier.network.named_parameters()} - on.loaded
    assert (on.spec, on.run) == ("convscope:mnist_convnet", tmp_path / "run")
    other = start(f"run:{tmp_path}/run", THREE)
    names = {name for name, _ in other.classifier.network.named_parameters()}
    assert names - other.loaded == {"classifier.fc2.weight", "classifier.fc2.bias"}
    assert torch.equal(other.classifier.network.features.conv1.weight, first.classifier.network.features.conv1.weight)


def learned(begun: Start, unfreeze: list[str] | None, freeze: list[str] | None = None) -> tuple[set[str], list[str]]:
    return learning(begun.classifier, blank(begun), begun.loaded, unfreeze, freeze or [])


def test_what_learns_by_default() -> None:
    assert learned(start("convscope:efficientnet_lite0", THREE), None) == (
        {"classifier.weight", "classifier.bias"},
        [],
    )
    scratch = start("convscope:mnist_convnet", numbered(10))
    chosen, patterns = learned(scratch, None)
    assert chosen == {name for name, _ in scratch.classifier.network.named_parameters()}
    assert patterns == ["*"]


def test_the_last_stage_of_vgg16_is_block_5() -> None:
    begun = start("convscope:vgg16_base_head", numbered(2), size=(64, 64))
    begun = Start(**{**vars(begun), "loaded": frozenset(n for n, _ in begun.classifier.network.named_parameters())})
    chosen, _ = learned(begun, ["@stage:-1"])
    assert {name.rpartition(".")[0] for name in chosen} == {
        "features.24", "features.26", "features.28", "classifier.fc2"
    }  # fmt: skip
    assert {n.rpartition(".")[0] for n in learned(begun, ["@stage:0"])[0]} == {
        "features.0", "features.2", "classifier.fc2"
    }  # fmt: skip


def test_the_last_stage_of_resnet_is_layer4() -> None:
    begun = start("torchvision:resnet18@random", THREE, size=(64, 64))
    everything = frozenset(name for name, _ in begun.classifier.network.named_parameters())
    begun = Start(**{**vars(begun), "loaded": everything})
    chosen, _ = learned(begun, ["@stage:-1"])
    assert {name.split(".")[0] for name in chosen} == {"layer4", "fc"}
    assert {name for name in everything if name.startswith("layer4.")} < chosen


def test_globs_choose_and_freezing_has_the_last_word() -> None:
    begun = start("convscope:mnist_convnet", numbered(10))
    chosen, _ = learned(begun, ["*"], ["features.conv[12]"])
    assert {name.rpartition(".")[0] for name in chosen} == {"features.conv3", "classifier.fc1", "classifier.fc2"}
    with pytest.raises(UsageError, match="nothing is left to learn"):
        learned(begun, None, ["*"])
    with pytest.raises(UsageError, match=r"'features\.conf1'; nearest: features\.conv1, "):
        learned(begun, ["features.conf1"])
    freeze_others(begun.classifier.network, chosen)
    assert {n for n, p in begun.classifier.network.named_parameters() if p.requires_grad} == chosen


def test_dropout_is_changed_wherever_it_is() -> None:
    network = start("convscope:vgg16_base_head", numbered(2), size=(64, 64)).classifier.network
    set_dropout(network, 0.2)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.2]
    with pytest.raises(UsageError, match="no dropout"):
        set_dropout(start("convscope:mnist_convnet", numbered(10)).classifier.network, 0.2)
