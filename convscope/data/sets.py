"""The sets that are known by name. Nothing that takes long is imported, so that help can list them."""

from __future__ import annotations

from typing import Any, NamedTuple


class Part(NamedTuple):
    """A part of a torchvision set: the split it is, and how torchvision is asked for it."""

    split: str | None
    keywords: dict[str, Any]


class TorchvisionSet(NamedTuple):
    """Where below the root torchvision keeps a set, and its parts."""

    folder: str
    parts: tuple[Part, ...]


def _split(*words: str) -> tuple[Part, ...]:
    return tuple(Part({"trainval": "train"}.get(word, word), {"split": word}) for word in words)


BY_FLAG = (Part("train", {"train": True}), Part("test", {"train": False}))
WHOLE = (Part(None, {}),)
TORCHVISION = {
    "CIFAR10": TorchvisionSet("cifar-10-batches-py", BY_FLAG),
    "CIFAR100": TorchvisionSet("cifar-100-python", BY_FLAG),
    "Country211": TorchvisionSet("country211", _split("train", "valid", "test")),
    "DTD": TorchvisionSet("dtd", _split("train", "val", "test")),
    "EuroSAT": TorchvisionSet("eurosat", WHOLE),
    "FGVCAircraft": TorchvisionSet("fgvc-aircraft-2013b", _split("train", "val", "test")),
    "FashionMNIST": TorchvisionSet("FashionMNIST/raw", BY_FLAG),
    "Flowers102": TorchvisionSet("flowers-102", _split("train", "val", "test")),
    "Food101": TorchvisionSet("food-101", _split("train", "test")),
    "GTSRB": TorchvisionSet("gtsrb", _split("train", "test")),
    "Imagenette": TorchvisionSet("imagenette2", _split("train", "val")),
    "KMNIST": TorchvisionSet("KMNIST/raw", BY_FLAG),
    "MNIST": TorchvisionSet("MNIST/raw", BY_FLAG),
    "OxfordIIITPet": TorchvisionSet("oxford-iiit-pet", _split("trainval", "test")),
    "RenderedSST2": TorchvisionSet("rendered-sst2", _split("train", "val", "test")),
    "STL10": TorchvisionSet("stl10_binary", _split("train", "test")),
    "SVHN": TorchvisionSet("", _split("train", "test")),
    "StanfordCars": TorchvisionSet("stanford_cars", _split("train", "test")),
    "USPS": TorchvisionSet("", BY_FLAG),
}

NAMES = ("digits", "lfw-subset", *(f"torchvision:{name}" for name in TORCHVISION))
