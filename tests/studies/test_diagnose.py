"""Diagnose: the planted fault is found, and it alone; a sound network gets a clean bill."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import convscope
from convscope.cli.process import run
from convscope.errors import UsageError
from convscope.models.classifier import Classifier
from convscope.studies.diagnose import Diagnose, examined
from convscope.studies.diagnosis import CHECKS, chosen
from convscope.studies.diagnosis.patient import Patient, patient_of
from convscope.studies.subject import DataSet
from docs.crops import crops
from tests import nets
from tests.studies.diagnosis import small

NET = """
from torch import nn


def make():
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(32 * 64, 32), nn.ReLU(), nn.Linear(32, 10)),
    )
"""


def diagnosis(patient, folder, **settings):
    """The result for a patient that is at hand."""
    study = Diagnose(**settings)
    data = DataSet("digits", folder, {}, patient.classifier)
    return study.told(data, patient, examined(patient, chosen(study.checks or ())), 0)


def faults(found):
    table = found.table()
    return [(row["check"], row["finding"]) for row in table.records() if row["severity"] == "fault"]


PLANTED = {
    "strided": ("aliasing", "aliasing"),
    "silent": ("units", "silent layer"),
    "dominated": ("filters", "dominated first layer"),
    "watermarked": ("evidence", "a corner gives the class away"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_and_it_alone(fault: str, tmp_path: Path) -> None:
    images, labels = small.digits()
    if fault == "watermarked":
        images = small.marked(images, labels)
    found = diagnosis(small.patient(getattr(small, fault)(), images, labels), tmp_path)
    assert faults(found) == [PLANTED[fault]]
    assert found.faults == 1
    row = found.table().records()[0]
    assert row["figure"] in [figure.name for figure in found.figures]
    assert found.findings[0].startswith("1 fault, looked for with 200 photos")
    assert str(row["change"]) in found.findings[1]


def test_a_sound_network_gets_a_clean_bill(tmp_path: Path) -> None:
    found = diagnosis(small.patient(small.sound(), *small.digits()), tmp_path)
    assert found.faults == 0
    assert faults(found) == []
    assert found.findings[0].startswith("a clean bill: no faults, looked for with 200 photos in ")
    assert {str(name) for name in found.table("measures").column("check")} == set(CHECKS)
    rows = [(row["number"], row["threshold"]) for row in found.table("measures").records()]
    assert len(rows) > 40
    assert any(limit is not None and 0 < number < limit for number, limit in rows)


def test_an_untrained_network_is_told_from_a_trained_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = small.classifier(small.network())
    found = diagnosis(small.patient(own, *small.digits()), tmp_path, checks=("random-like",))
    assert faults(found) == [("random-like", "features like random ones")]


def test_figures_are_drawn(tmp_path: Path) -> None:
    images, labels = small.digits()
    found = diagnosis(small.patient(small.watermarked(), small.marked(images, labels), labels), tmp_path)
    assert {figure.name for figure in found.figures} == {"units", "filters", "random-like", "confusion", "evidence"}
    for figure in found.figures:
        darkest, lightest = found.picture(figure.name).convert("L").getextrema()
        assert darkest < 60, figure.name
        assert lightest > 200, figure.name


def test_a_pretrained_network_on_photos_raises_no_alarm(tmp_path: Path) -> None:
    lite = convscope.load("convscope:efficientnet_lite0", size=128, device="cpu", progress=False).classifier
    found = Diagnose().told(
        given := DataSet(str(crops(tmp_path / "crops", 1)), tmp_path, {}, lite),
        patient := patient_of(given, 500, "grad-cam", 0),
        examined(patient, chosen(())),
        0,
    )
    assert found.faults == 0, found.text
    assert any("confusion: left out" in note for note in found.notes), "the folders' names are no classes of ImageNet"
    shares = {(row["check"], row["what"]): row["number"] for row in found.table("measures").records()}
    assert 0.05 < shares["aliasing", "share of the typical filter's response to natural photos that is folded"] < 0.15
    assert shares["random-like", "share of the layers that are like random"] < 0.25
    assert shares["filters", "energy share of the strongest sixteenth of the filters"] < 0.5


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A network's code and weights, and photos of digits in a folder for each, with the mark that it learned."""
    folder = tmp_path_factory.mktemp("diagnose")
    (folder / "net.py").write_text(NET)
    images, labels = small.digits()
    for name, own in (("sound", small.sound()), ("watermarked", small.watermarked())):
        save_file(
            {key: value.contiguous() for key, value in own.network.state_dict().items()}, folder / f"{name}.safetensors"
        )
        pixels = (small.marked(images, labels) if name == "watermarked" else images)[1200:1400, 0]
        for row, (photo, label) in enumerate(zip(pixels, labels[1200:1400].tolist(), strict=True)):
            place = folder / name / str(label)
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray((photo * 255).round().byte().numpy()).save(place / f"{row}.png")
    (folder / "classes.txt").write_text("\n".join(map(str, range(10))))
    return folder


def command(files: Path, name: str, *more: str) -> list[str]:
    return [
        *("diagnose", f"{files}/net.py:make", str(files / name), "--weights", str(files / f"{name}.safetensors")),
        *(
            "--classes",
            str(files / "classes.txt"),
            "--canvas",
            "16",
            "--device",
            "cpu",
            "--mean",
            "0",
            "--std",
            "1",
            *more,
        ),
    ]


def test_the_command_ends_with_1_where_something_is_to_be_mended(files: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert run([*command(files, "watermarked"), "--out", str(out), "--checks", "evidence,filters"]) == 1
    told = capsys.readouterr().out
    assert "a corner gives the class away" in told
    assert "Try: cut or cover the bottom right" in told
    assert (out / "evidence.png").exists()
    about = json.loads((out / "result.json").read_text())
    assert about["tables"]["findings"]["rows"][0]["where"] == "3, bottom right"


def test_the_command_ends_with_0_with_a_clean_bill(files: Path, tmp_path: Path, capsys) -> None:
    assert run([*command(files, "sound"), "--out", str(tmp_path / "out"), "--photos", "150"]) == 0
    told = capsys.readouterr()
    assert "a clean bill: no faults, looked for with 150 photos" in told.out
    assert "150 of 200 photos, drawn at random (seed 0)" in told.err


def test_help_is_the_studys_own(capsys) -> None:
    assert run(["diagnose", "--help"]) == 0
    told = capsys.readouterr().out
    assert "--checks" in told
    assert "--photos" in told
    assert run(["--help"]) == 0
    assert "What is wrong with a network" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--checks", "unit"), "unknown check 'unit'; nearest: units"),
        (("--checks", "units,units"), "names one twice"),
        (("--method", "filters"), "method is 'filters', not one of"),
        (("--photos", "0"), "at least 1, got 0"),
        (("--photos", "few"), "photos is 'few'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    files: Path, tmp_path: Path, capsys, more: tuple[str, ...], line: str
) -> None:
    assert run([*command(files, "sound", *more), "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert line in told[0]
    assert not (tmp_path / "out").exists()


def data(files: Path, source: Path, folder: Path) -> DataSet:
    own = convscope.load(
        f"{files}/net.py:make",
        weights=files / "sound.safetensors",
        classes=files / "classes.txt",
        size=16,
        device="cpu",
    )
    return DataSet(str(source), folder, {}, own.classifier)


def test_photos_are_drawn_by_the_seed_and_have_their_classes(files: Path, tmp_path: Path) -> None:
    given = data(files, files / "sound", tmp_path)
    one, same, other = (patient_of(given, 40, "grad-cam", seed) for seed in (1, 1, 2))
    assert list(one.names) == list(same.names) != list(other.names)
    assert torch.equal(one.images, same.images)
    assert [name.split("/")[-2] for name in one.names] == [str(label) for label in one.labels or ()]
    assert float((one.answers == torch.tensor(one.labels)).double().mean()) > 0.8


def test_photos_without_labels_do_too(files: Path, tmp_path: Path) -> None:
    plain = tmp_path / "photos"
    plain.mkdir()
    for row, photo in enumerate(sorted((files / "sound" / "3").iterdir())[:6]):
        (plain / f"{row}.png").write_bytes(photo.read_bytes())
    given = data(files, plain, tmp_path / "out")
    found = Diagnose(checks=("confusion", "units")).run(given)
    assert found.faults == 0
    assert any("no label" in note for note in found.notes)
    assert any("confusion: left out" in note for note in found.notes)


def test_an_empty_folder_is_refused(files: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="is empty"):
        Diagnose().run(data(files, tmp_path / "empty", tmp_path / "out"))


def test_the_network_stays_as_it_was(tmp_path: Path) -> None:
    own = small.copied(small.sound())
    own.train()
    before = {key: value.clone() for key, value in own.state_dict().items()}
    state = torch.random.get_rng_state()
    first, again = (diagnosis(small.patient(own, *small.digits(), 60), tmp_path) for _ in range(2))
    assert first.table("measures").csv() == again.table("measures").csv()
    assert torch.equal(state, torch.random.get_rng_state())
    assert own.training
    assert own.network[0].training
    assert all(one.requires_grad and one.grad is None for one in own.parameters())
    assert all(torch.equal(value, before[key]) for key, value in own.state_dict().items())
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in own.modules())


@pytest.mark.parametrize(
    "make", [nets.Skip, nets.PreActivation, nets.SideBySide, nets.Smooth, nets.vgg_like, nets.zfnet_like]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_of_any_kind(make, dtype, tmp_path: Path) -> None:
    """Skip connections, branches, smooth activations, photos that are not square, labels or none."""
    height, width = {nets.vgg_like: (22, 27), nets.zfnet_like: (56, 64)}.get(make, (24, 30))
    own = Classifier(nets.seeded(make(), dtype=dtype), mean=nets.MEAN, std=nets.STD)
    images = nets.photos(12, 3, height, width, dtype=dtype)
    for labels in ([0, 1, 2, 3] * 3, None):
        patient = Patient(own, images, [f"{i}" for i in range(12)], labels)
        found = diagnosis(patient, tmp_path)
        assert ("random-like", "features like random ones") in faults(found), "its weights were drawn from a seed"
        assert all(row["number"] is not None for row in found.table("measures").records())
