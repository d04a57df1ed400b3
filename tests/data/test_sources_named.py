"""Sets by name, as scikit-learn, scikit-image and torchvision give them; torchvision's own readers read real files."""

from __future__ import annotations

import hashlib
import inspect
import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.io import savemat
from skimage.data import lfw_subset
from sklearn.datasets import load_digits
from torchvision import datasets

from convscope.data.sets import NAMES
from convscope.data.sources import SETS, SourceOptions, open_source
from convscope.data.sources import named as module
from convscope.data.store import Arrays, Files
from convscope.errors import ConvscopeError, UsageError
from tests.data.test_sources_idx import TRUTH, write_both
from tests.data.told import PHOTO, labels, splits, tree


def test_digits() -> None:
    found = open_source("digits")
    truth = load_digits()
    assert (found.source, found.kind, found.classes) == ("digits", "set", tuple("0123456789"))
    assert found.labels.tolist() == truth.target.tolist()
    assert isinstance(found.store, Arrays)
    assert (found.store.pixels.dtype, found.store.pixels.shape) == (np.uint8, (1797, 8, 8))
    assert np.abs(found.store.pixels - truth.images * 255 / 16).max() <= 0.5
    assert found.store.pixels.max() == 255
    assert (found.store.names[0], found.store.names[-1]) == ("digit-00000", "digit-01796")
    named = open_source("digits", SourceOptions(classes=tuple("abcdefghij")))
    assert [named.classes[i] for i in named.labels[:3]] == ["a", "b", "c"]


def test_faces() -> None:
    found = open_source("lfw-subset")
    assert list(labels(found).values()) == ["face"] * 100 + ["no face"] * 100
    for i in (0, 150):
        assert np.abs(np.asarray(found.store.photo(i)) - lfw_subset()[i] * 255).max() <= 0.5


@pytest.mark.parametrize(("name", "package"), [("digits", "scikit-learn"), ("lfw-subset", "scikit-image")])
def test_a_library_that_is_not_there(monkeypatch: pytest.MonkeyPatch, name: str, package: str) -> None:
    def none(name: str) -> object:
        raise ModuleNotFoundError(name=name)

    monkeypatch.setattr(module, "import_module", none)
    with pytest.raises(UsageError, match=f"^{name} needs {package}: pip install {package}$"):
        open_source(name)


def test_unknown_sets_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown set 'torchvision:cifar10'; nearest: torchvision:CIFAR10, "):
        open_source("torchvision:cifar10")
    with pytest.raises(UsageError, match="unknown set 'torchvison:MNIST'; nearest: torchvision:MNIST"):
        open_source("torchvison:MNIST")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("mnist", "torchvision:MNIST, torchvision:KMNIST"),
        ("fashion-mnist", "torchvision:FashionMNIST"),
        ("fashion_mnist", "torchvision:FashionMNIST"),
        ("cifar-10", "torchvision:CIFAR10, torchvision:CIFAR100"),
        ("Digits", "digits"),
        ("lfw_subset", "lfw-subset"),
    ],
)
def test_what_is_no_file_but_nearly_a_set_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, near: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        open_source(name)
    assert str(caught.value) == f"{name}: no such file or folder in {tmp_path}; nearest: {near}"
    with pytest.raises(UsageError, match=f"photos/{name}: no such file or folder in .*; a source is a folder"):
        open_source(f"photos/{name}")


def test_the_names_that_help_lists_are_those_that_can_be_read() -> None:
    assert tuple(SETS) == NAMES


@pytest.mark.parametrize("name", module.TORCHVISION)
def test_torchvision_has_every_set_and_takes_what_it_is_asked(name: str) -> None:
    for part in module.TORCHVISION[name].parts:
        inspect.signature(getattr(datasets, name)).bind("root", **part.keywords, download=False)
    assert f"torchvision:{name}" in SETS


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_torchvision_pixels_in_memory(tmp_path: Path, name: str) -> None:
    write_both(tmp_path / name / "raw", "-")
    found = open_source(f"torchvision:{name}", SourceOptions(root=tmp_path))
    assert found.classes == tuple(getattr(datasets, name).classes)
    assert found.labels.tolist() == TRUTH[:50].tolist()
    assert list(splits(found).items())[29:31] == [("train-00029", "train"), ("test-00000", "test")]
    for i, (image, label) in enumerate(
        [*getattr(datasets, name)(tmp_path), *getattr(datasets, name)(tmp_path, train=False)]
    ):
        assert np.array_equal(found.store.photo(i), image)
        assert found.labels[i] == label


def test_torchvision_pixels_in_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    classes = [f"class {letter}" for letter in "jihgfedcba"]  # not in the order of the alphabet, as CIFAR's are not

    def batch(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def photos(name: str) -> list[str]:
        pixels = rng.integers(0, 256, (4, 3072), np.uint8)
        return batch(name, {"data": pixels, "labels": rng.integers(0, 10, 4).tolist()})

    monkeypatch.setattr(datasets.CIFAR10, "train_list", [photos("data_batch_1"), photos("data_batch_2")])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [photos("test_batch")])
    filename, md5 = batch("batches.meta", {"label_names": classes})
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": filename, "key": "label_names", "md5": md5})
    found = open_source("torchvision:CIFAR10", SourceOptions(root=tmp_path))
    assert found.classes == tuple(classes)
    theirs = [*datasets.CIFAR10(tmp_path), *datasets.CIFAR10(tmp_path, train=False)]
    assert found.labels.tolist() == [label for _, label in theirs]
    assert all(np.array_equal(found.store.photo(i), image) for i, (image, _) in enumerate(theirs))
    assert list(splits(found).values()) == ["train"] * 8 + ["test"] * 4


def test_channels_may_come_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)  # as SVHN has them

    class Set:
        def __init__(self, root: str, split: str, download: bool) -> None:
            self.data, self.labels = pixels, np.array([3, 0, 1, 1])

    monkeypatch.setattr(datasets, "SVHN", Set)
    found = open_source("torchvision:SVHN", SourceOptions(root=tmp_path))
    assert found.classes == ("0", "1", "2", "3")
    assert np.array_equal(found.store.photo(5), pixels[1].transpose(1, 2, 0))


def test_torchvision_files_stay_where_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "oxford-iiit-pet"
    trainval, test = {"Abyssinian_1": 1, "american_bulldog_2": 2}, {"Abyssinian_7": 1, "american_bulldog_3": 2}
    for part, photos in (("trainval", trainval), ("test", test)):
        tree(folder, *(f"images/{name}.jpg" for name in photos), "annotations/")
        text = "".join(f"{name} {label} {label} 1\n" for name, label in photos.items())
        (folder / f"annotations/{part}.txt").write_text(text)
    found = open_source("torchvision:OxfordIIITPet", SourceOptions(root=tmp_path))
    assert labels(found) == {
        "oxford-iiit-pet/images/Abyssinian_1.jpg": "Abyssinian",
        "oxford-iiit-pet/images/american_bulldog_2.jpg": "American Bulldog",
        "oxford-iiit-pet/images/Abyssinian_7.jpg": "Abyssinian",
        "oxford-iiit-pet/images/american_bulldog_3.jpg": "American Bulldog",
    }
    assert list(splits(found).values()) == ["train", "train", "test", "test"]
    assert isinstance(found.store, Files)
    assert found.store.content(2) == PHOTO
    grouped = open_source("torchvision:OxfordIIITPet", SourceOptions(root=tmp_path, group="(?i)(abyssinian|bulldog)"))
    assert grouped.groups is not None
    assert grouped.groups.tolist() == [0, 1, 0, 1]


def test_flowers_keep_the_numbers_of_their_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tree(tmp_path / "flowers-102", *(f"jpg/image_{i:05d}.jpg" for i in range(1, 5)))
    savemat(folder / "imagelabels.mat", {"labels": np.array([77, 1, 2, 77])})
    savemat(folder / "setid.mat", {"trnid": [1, 3], "valid": [2, 3], "tstid": [4, 3]})
    sums = {
        part: (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
        for part, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", sums)
    found = open_source("torchvision:Flowers102", SourceOptions(root=tmp_path))
    assert found.classes == tuple(datasets.Flowers102.classes)
    assert found.labels.tolist() == [76, 1, 0, 1, 76, 1]
    assert found.given.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_folder_set_without_halves_has_no_split(tmp_path: Path) -> None:
    tree(tmp_path / "eurosat/2750", "Forest/1.jpg", "River/1.jpg", "River/2.jpg")
    found = open_source("torchvision:EuroSAT", SourceOptions(root=tmp_path))
    assert labels(found) == {
        "eurosat/2750/Forest/1.jpg": "Forest",
        "eurosat/2750/River/1.jpg": "River",
        "eurosat/2750/River/2.jpg": "River",
    }
    assert set(splits(found).values()) == {None}


def test_a_class_of_several_names(tmp_path: Path) -> None:
    for part in ("train", "val"):
        tree(tmp_path / "imagenette2" / part, "n01440764/1.jpeg", "n03028079/2.jpeg")
        for path in (tmp_path / "imagenette2" / part).rglob("*.jpeg"):
            path.write_bytes(PHOTO)
    found = open_source("torchvision:Imagenette", SourceOptions(root=tmp_path))
    assert found.classes == ("tench, Tinca tinca", "church, church building")
    assert found.given.tolist() == [0, 0, 1, 1]


def test_a_set_that_is_not_there_says_where_it_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError) as caught:
        open_source("torchvision:CIFAR10", SourceOptions(root=tmp_path / "sets"))
    assert str(caught.value) == (
        f"torchvision:CIFAR10 was not found in {tmp_path}/sets/cifar-10-batches-py, or is damaged (no such folder): "
        "say where it is with --root, or fetch it with --download"
    )
    assert not (tmp_path / "sets").exists()
    monkeypatch.setenv("CONVSCOPE_CACHE", str(tmp_path / "cache"))
    for name in SETS:
        if name.startswith("torchvision:"):
            with pytest.raises(UsageError, match=f"{name} was not found in {tmp_path}/cache/datasets"):
                open_source(name)


def test_a_damaged_set_says_so(tmp_path: Path) -> None:
    write_both(tmp_path / "MNIST/raw", "-")
    images = tmp_path / "MNIST/raw/train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"torchvision:MNIST was not found in .*MNIST/raw, or is damaged \("):
        open_source("torchvision:MNIST", SourceOptions(root=tmp_path))


def test_what_cannot_be_downloaded_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(*args: object, **how: object) -> None:
        print("Downloading")
        raise URLError("Name or service not known")

    monkeypatch.setattr("torchvision.datasets.oxford_iiit_pet.download_and_extract_archive", offline)
    with pytest.raises(ConvscopeError, match=r"could not be downloaded into .*: <urlopen error Name or service not"):
        open_source("torchvision:OxfordIIITPet", SourceOptions(root=tmp_path, download=True))
    assert capsys.readouterr() == ("", "Downloading\n")


def test_another_torchvision_is_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Set:
        def __init__(self, root: str, train: bool, download: bool) -> None:
            self.data = torch.zeros(2, 8, 8, dtype=torch.uint8)

    monkeypatch.setattr(datasets, "USPS", Set)
    with pytest.raises(ConvscopeError, match="keeps its labels where they are not looked for"):
        open_source("torchvision:USPS", SourceOptions(root=tmp_path))
