"""The recipes: their files are settings, their commands are commands, their networks are those of the systems."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file

from convscope.cli.app import app
from convscope.cli.process import run
from convscope.models.registry import RANDOM, SOURCES, Request, parse
from convscope.models.zoo import ARCHITECTURES
from convscope.models.zoo._vgg import vgg16_features
from convscope.training import api
from convscope.training.config import Config, read_config, resolve_config
from convscope.training.prepare import begin, resolved

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
DOC = (ROOT / "docs/recipes.md").read_text("utf-8")
CONVOLUTIONS = 14_714_688  # of VGG16
CONVOLUTIONS_OF_ZFNET = 96 * (7 * 7 * 3 + 1) + 256 * (5 * 5 * 96 + 1) + 384 * 2305 + 384 * 3457 + 256 * 3457
# The system that a recipe is of, the classes it tells apart, and its network's parameters: those of the description,
# or where that gives none, layer by layer.
FACTS = {
    "cat_breeds": ("S1", 12, 14_720_844),
    "mnist": ("S3", 10, 93_322),
    "dogs_vs_cats": ("S4", 2, 3_453_121),
    "pretrained_vgg16": ("S5", 2, 16_812_353),
    "zfnet": ("S9", 1000, CONVOLUTIONS_OF_ZFNET + 4096 * 9217 + 4096 * 4097 + 1000 * 4097),
    "cifar10": ("S11", 10, CONVOLUTIONS + 2 * 512 * 513 + 10 * 513),
    "faces": ("S12", 500, 4_652_008 - 500 * 1281),
    "pytorch_book": ("S13", 10, 10 * 10 + 20 * 91 + 50 * 501 + 10 * 51),
}


def small() -> Any:
    spec = importlib.util.spec_from_file_location("recipes_small", ROOT / "recipes/small.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there for what a module's annotations mean
    spec.loader.exec_module(module)
    return module


SMALL = small()


def commands(recipe: str) -> list[list[str]]:
    """The convscope commands in the comment that a recipe begins with, as words."""
    text = (ROOT / f"recipes/{recipe}.yaml").read_text("utf-8")
    lines = re.findall(r"^#     (.*)$", text.replace("\\\n#  ", ""), flags=re.M)
    found = [shlex.split(line) for line in lines]
    return [words[words.index("convscope") + 1 :] for words in found if "convscope" in words]


def training(recipe: str) -> list[list[str]]:
    return [words for words in commands(recipe) if words[0] == "train"]


Configured = Callable[[list[str]], Config]


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> Configured:
    """The settings that a command would train with, read by the command line itself."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CONVSCOPE_ALLOCATOR", "default")
    found: list[Config] = []

    def kept(config: Config, **_: Any) -> Any:
        found.append(config)
        return SimpleNamespace(leads=False)

    monkeypatch.setattr(api, "run", kept)

    def called(words: list[str]) -> Config:
        assert run(words) == 0
        return found.pop()

    return called


def parameters(config: Config, classes: int) -> int:
    """Of the network's structure; no weights are made."""
    prefix, name, _ = parse(config.model.spec)
    outputs = 1 if name in ("catdog_convnet", "vgg16_base_head") else classes
    with torch.device("meta"):
        found = SOURCES[prefix](Request(name, RANDOM, {**config.model.options, "num_classes": outputs}))
    return sum(parameter.numel() for parameter in found.network.parameters())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_settings_of_an_architecture_that_there_is(recipe: str) -> None:
    config = resolve_config(read_config(ROOT / f"recipes/{recipe}.yaml"), {})
    prefix, name, _ = parse(config.model.spec)
    assert prefix == "convscope"
    assert name in ARCHITECTURES
    assert not config.data.source
    assert config.training.epochs
    assert config.training.lr


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_network_has_the_parameters_of_the_system(recipe: str) -> None:
    _, classes, expected = FACTS[recipe]
    config = resolve_config(read_config(ROOT / f"recipes/{recipe}.yaml"), {})
    assert parameters(config, classes) == expected


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_command_in_it_is_one(recipe: str) -> None:
    group = typer.main.get_group(app)
    assert commands(recipe)
    for words in commands(recipe):
        group.commands[words[0]].make_context(words[0], words[1:])


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_training_that_it_names_can_be_set_up(recipe: str, configured: Configured) -> None:
    own = resolve_config(read_config(ROOT / f"recipes/{recipe}.yaml"), {})
    found = [configured(words) for words in training(recipe)]
    places = [words[words.index("--out") + 1] for words in training(recipe)]
    assert len(found) >= 1
    assert len(set(places)) == len(places)
    assert f"recipes/{recipe}.yaml" in training(recipe)[0]
    assert found[0].training == own.training
    for config in found:
        assert config.data.source
        if not config.model.spec.startswith("run:"):
            assert parameters(config, FACTS[recipe][1]) > 0


def test_the_first_and_second_forms_differ_by_augmentation_and_dropout(configured: Configured) -> None:
    first, second = (configured(words) for words in training("dogs_vs_cats"))
    assert (first.model.dropout, first.training.augment) == (None, "none")
    assert (second.model.dropout, second.training.epochs) == (0.5, 100)
    assert second.training.augment == "flip=0.5,rotation=40,shift=0.2,shear=0.2,zoom=0.2"
    assert first.data == second.data
    assert first.data.subset == "1000/500/500"


def test_the_recipe_of_zfnet_is_that_of_the_paper(configured: Configured) -> None:
    training_ = configured(training("zfnet")[0]).training
    assert (training_.optimizer, training_.momentum, training_.lr, training_.batch_size) == ("sgd", 0.9, 0.01, 128)
    assert (training_.epochs, training_.schedule, training_.max_filter_rms) == (70, "plateau", 0.1)


def test_the_stages_of_the_pretrained_base_learn_the_head_and_then_block_5(
    configured: Configured, tmp_path: Path
) -> None:
    base = {f"features.{name}": tensor for name, tensor in vgg16_features().state_dict().items()}
    save_file(base, tmp_path / "base.safetensors")
    cached, augmented, tuned = (configured(words) for words in training("pretrained_vgg16"))
    counts = []
    for config in (cached, augmented, tuned):
        model = cached.model.model_copy(update={"weights": str(tmp_path / "base.safetensors")})
        begun = begin(model, ("cat", "dog"), seed=0)
        _, chosen, kind = resolved(config, begun)
        sizes = {name: parameter.numel() for name, parameter in begun.classifier.network.named_parameters()}
        counts.append((kind, sum(sizes[name] for name in chosen)))
    block_5 = 3 * (512 * 512 * 9 + 512)
    assert counts == [("head", 2_097_665), ("head", 2_097_665), ("tune", 2_097_665 + block_5)]
    assert augmented.training.augment == tuned.training.augment != cached.training.augment == "none"
    assert tuned.model.spec == "run:runs/augmented"
    assert tuned.model.weights is None  # they would take the place of what the run learned
    assert tuned.training.lr == 1e-5


def test_recipes_and_their_page_have_the_same_systems() -> None:
    first = {name: (ROOT / f"recipes/{name}.yaml").read_text("utf-8").splitlines()[0] for name in RECIPES}
    assert {name: line.partition(":")[0] for name, line in first.items()} == {
        name: f"# {system}" for name, (system, *_) in FACTS.items()
    }
    rows = re.findall(r"^\| (S\d+) \|.*\]\(\.\./recipes/(\w+)\.yaml\)", DOC, flags=re.M)
    assert {name: system for system, name in rows} == {name: system for name, (system, *_) in FACTS.items()}
    assert len(rows) == len(FACTS)


def test_every_recipe_has_a_small_form_and_every_part_is_on_the_page() -> None:
    assert {part.recipe for part in SMALL.PARTS} == set(RECIPES)
    for part in SMALL.PARTS:
        assert re.search(rf"^\| {part.recipe}, {part.name} \|", DOC, flags=re.M), f"{part.recipe}, {part.name}"


@pytest.mark.parametrize("part", SMALL.PARTS, ids=lambda part: f"{part.recipe}-{part.name}")
def test_a_small_form_keeps_its_recipe_but_for_what_it_says(part: Any, configured: Configured, tmp_path: Path) -> None:
    place = SMALL.Place(tmp_path)
    options = shlex.split(part.options.format(runs=tmp_path))
    config = configured(["train", "photos", "--config", place.settings(part), *options])
    own = resolve_config(read_config(ROOT / f"recipes/{part.recipe}.yaml"), {})
    changed = {name for name, value in own.training if getattr(config.training, name) != value}
    said = {word[2:].replace("-", "_") for word in options if word.startswith("--")}
    assert changed <= said
    assert config.training.epochs is not None
    assert config.training.epochs <= 30


def test_the_small_forms_photos_are_cut_from_six_photos(tmp_path: Path) -> None:
    SMALL.crops(tmp_path / "crops", count=2)
    files = sorted((tmp_path / "crops").glob("*/*.jpg"))
    assert len(files) == 12
    assert len({file.parent for file in files}) == 6
    for file in files:
        with Image.open(file) as photo:
            assert min(photo.size) > 64


def test_fashion_mnist_that_is_not_there_is_asked_for_with_the_way_to_it(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="apt-get download dataset-fashion-mnist"):
        SMALL.Data(tmp_path, tmp_path / "nowhere").source("fashion")
