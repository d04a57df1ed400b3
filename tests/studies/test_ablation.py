from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from convscope.data.split import read_split
from convscope.errors import UsageError
from convscope.images.read import read_photo
from convscope.models.registry import lasting_spec, load_classifier, parse
from convscope.studies import configure, subject
from convscope.studies.ablation_variants import table_3, variants_to_train
from convscope.studies.making import study_architecture
from convscope.studies.retraining import runs
from convscope.studies.retraining.options import options_of, variants_of
from convscope.studies.retraining.repeats import spread
from convscope.training.metrics import wilson
from tests.studies.sets import NET, counted, data_of, digits_in, without_charts

WIDE = {"size": 8, "epochs": 2, "variants": "width=2; remove=3; width=2 remove=2,3", "per_class": 8}


@pytest.fixture(scope="module", autouse=True)
def _without_charts() -> Iterator[None]:
    with without_charts():
        yield


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NET)
    digits_in(tmp_path / "photos", 14)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parameters_of_zfnet(size: int, classes: int, fc: int, conv: tuple[int, ...], without: tuple[int, ...] = ()) -> int:
    """By arithmetic: weights and biases, layer by layer, with the sides of the maps of the paper's figure 3."""
    side = (size + 2 - 7) // 2 + 1
    side = -(-(side - 3) // 2) + 1
    side = (side - 5) // 2 + 1
    side = -(-(side - 3) // 2) + 1
    side = (side - 3) // 2 + 1
    count, maps = (3 * 49 * 96 + 96) + (96 * 25 * 256 + 256), 256
    for layer, width in zip((3, 4, 5), conv, strict=True):
        if layer not in without:
            count, maps = count + maps * 9 * width + width, width
    inputs = maps * side * side
    for layer in (6, 7):
        if layer not in without:
            count, inputs = count + inputs * fc + fc, fc
    return count + inputs * classes + classes


def test_variants_have_the_parameters_that_arithmetic_gives() -> None:
    assert parameters_of_zfnet(224, 1000, 4096, (384, 384, 256)) == 62_357_608  # the architecture's own figure
    found = variants_to_train("convscope:zfnet", {"fc": 16, "conv": [6, 6, 4]}, None, 64, ("a", "b", "c"))
    expected = {
        "whole": {},
        "without=3,4": {"without": (3, 4)},
        "without=7": {"without": (7,)},
        "without=6,7": {"without": (6, 7)},
        "without=3,4,6,7": {"without": (3, 4, 6, 7)},
        "fc=8": {"fc": 8},
        "fc=32": {"fc": 32},
        "conv=8,16,8": {"conv": (8, 16, 8)},
        "fc=32 conv=8,16,8": {"fc": 32, "conv": (8, 16, 8)},
    }
    assert {variant.name: variant.parameters for variant in found} == {
        name: parameters_of_zfnet(64, 3, **{"fc": 16, "conv": (6, 6, 4), **change}) for name, change in expected.items()
    }


def test_the_rows_of_table_3_are_the_papers_own() -> None:
    rows = table_3("convscope", "zfnet", {})
    assert {"fc": 2048} in rows.values()
    assert {"fc": 8192} in rows.values()
    assert {"conv": [512, 1024, 512]} in rows.values()
    assert {"fc": 8192, "conv": [512, 1024, 512]} in rows.values()
    assert list(table_3("convscope", "alexnet_2012", {"conv": [9, 9, 8]}).values())[-2]["conv"] == [12, 24, 16]
    with pytest.raises(UsageError, match="has no options that table 3 changes"):
        table_3("torchvision", "resnet18", {})


def test_what_is_written_is_what_is_meant() -> None:
    assert options_of("fc=2048 conv=512,1024,512 flag=true name=some rate=1e-3 one=3,") == {
        "fc": 2048,
        "conv": [512, 1024, 512],
        "flag": True,
        "name": "some",
        "rate": 0.001,
        "one": [3],
    }
    assert variants_of(" without=3,4 ;fc=8  conv=1,2,3; ") == {
        "without=3,4": {"without": [3, 4]},
        "fc=8 conv=1,2,3": {"fc": 8, "conv": [1, 2, 3]},
    }


def test_variants_are_trained_alike_and_measured(place: Path) -> None:
    with counted() as calls:
        found = study_architecture("ablation", "photos", "net.py:Net", out="out", machine={"workers": 0}, **WIDE)
        assert len(calls) == 4
        again = study_architecture("ablation", "photos", "net.py:Net", out="out", machine={"workers": 0}, **WIDE)
        assert len(calls) == 4
        assert again.about() == found.about()
        study_architecture("ablation", "photos", "net.py:Net", out="out", machine={"workers": 0}, **WIDE, repeats=2)
        assert len(calls) == 8
    assert len({call["seed"] for call in calls[:4]}) == 1
    assert len({call["seed"] for call in calls}) == 2
    rows = found.table().records()
    four, two = 1 * 9 * 4 + 4 + 4 * 9 * 4 + 4 + 64 * 3 + 3, 1 * 9 * 2 + 2 + 2 * 9 * 2 + 2 + 32 * 3 + 3
    assert [row["parameters"] for row in rows] == [four, two, four, two - (2 * 9 * 2 + 2)]
    splits = set()
    for row, one in zip(rows, found.table("trainings").records(), strict=True):
        run = Path(str(one["run"]))
        names, labels, of = read_split(run / "split.csv")
        splits.add(tuple(of.tolist()))
        classifier = load_classifier(f"run:{run}")
        for kind, column in ((0, "train error"), (2, "error")):
            wrong = 0
            rows_of = [i for i, which in enumerate(of) if which == kind]
            for i in rows_of:
                canvas = classifier.framing.apply(read_photo(Path("photos") / names[i]).image, classifier.channels)[0]
                with torch.no_grad():
                    guessed = int(classifier(canvas[None]).argmax())
                wrong += classifier.classes[guessed] != labels[i]
            assert (row[column], one[column]) == pytest.approx((wrong / len(rows_of),) * 2)
            if kind == 2:
                of_all = wilson(wrong, len(rows_of))
                assert (row["low"], row["high"]) == pytest.approx((of_all.low, of_all.high), abs=0.07)
            else:
                assert len(rows_of) == 24
        assert row["top-5 error"] is None  # of three classes
    assert len(splits) == 1
    assert (place / "out" / "report.html").exists()


def test_what_an_earlier_version_trained_is_measured_and_not_trained_again(place: Path) -> None:
    how = {**WIDE, "variants": "width=2", "repeats": 1}
    first = study_architecture("ablation", "photos", "net.py:Net", out="old", machine={"workers": 0}, **how)
    for file in (place / "old" / "trained").glob("*/study.json"):
        told = json.loads(file.read_text())
        del told["right"]
        file.write_text(json.dumps(told))
    with counted() as calls:
        again = study_architecture("ablation", "photos", "net.py:Net", out="old", machine={"workers": 0}, **how)
    assert not calls
    assert again.about() == first.about()


def test_few_photos_and_broken_ones_are_said(place: Path) -> None:
    settings = {**WIDE, "variants": "width=2", "test": 1, "repeats": 1}
    (place / "photos" / "broken.png").write_bytes(b"no")
    moved = place / "photos" / "number 1" / "broken.png"
    (place / "photos" / "broken.png").rename(moved)
    found = study_architecture("ablation", "photos", "net.py:Net", out="few", machine={"workers": 0}, **settings)
    assert found.findings[-1] == "3 photos measured are too few to say what was needed (at least 6)"
    assert any("1 photos could not be used, such as number 1/broken.png" in note for note in found.notes)


def test_layers_that_do_nothing(place: Path) -> None:
    whole = load_classifier("net.py:Net", size=8).network
    spec = "without:2,3:net.py:Net"
    found = load_classifier(spec, size=8)
    assert isinstance(found.network[2], nn.Identity)
    assert isinstance(found.network[3], nn.Identity)
    found.network[0].load_state_dict(whole[0].state_dict())
    found.network[6].load_state_dict(whole[6].state_dict())
    x = torch.rand(2, 1, 8, 8)
    expected = whole[6](whole[4](whole[0](x).relu()).flatten(1))
    assert torch.allclose(found(x), expected, atol=1e-6)
    assert parse(spec) == ("without", "2,3:net.py:Net", "trained")
    assert lasting_spec(spec) == f"without:2,3:{place / 'net.py'}:Net"
    assert parse("without:a.b:convscope:zfnet@random") == ("without", "a.b:convscope:zfnet", "random")
    for wrong, said in (
        ("without:9:net.py:Net", "unknown layer '9'"),
        ("without:4:net.py:Net", "layer 4 cannot be left out: it makes 4x4x4 of 4x8x8"),
        ("without:2:", "write without:LAYER,LAYER:MODEL"),
    ):
        with pytest.raises(UsageError, match=said):
            load_classifier(wrong, size=8)


def test_a_block_with_a_skip_connection_is_left_out() -> None:
    spec = "without:layer1.1:torchvision:resnet18@random"
    found = load_classifier(spec, size=32, options={"num_classes": 3})
    whole = load_classifier("torchvision:resnet18@random", size=32, options={"num_classes": 3})
    count = [sum(p.numel() for p in one.network.parameters()) for one in (whole, found)]
    assert count[0] - count[1] == 2 * (64 * 64 * 9) + 2 * 2 * 64
    with pytest.raises(UsageError, match=r"layer2\.0 cannot be left out: it makes 128x4x4 of 64x8x8"):
        load_classifier("without:layer2.0:torchvision:resnet18@random", size=32)


def test_the_interval_is_of_repetitions_and_photos(place: Path) -> None:
    study = configure("ablation", {**WIDE, "variants": "width=2", "repeats": 3, "epochs": 1})
    found = study.run(data_of("photos", place / "out", spec="net.py:Net"))
    every = found.table("trainings").records()
    for row in found.table().records():
        values = [one["error"] for one in every if one["variant"] == row["variant"]]
        runs = [Path(str(one["run"])) for one in every if one["variant"] == row["variant"]]
        right = [[float(word) for word in json.loads((run / "study.json").read_text())["right"]] for run in runs]
        assert values == pytest.approx(1 - np.mean(right, 1))
        assert (row["error"], row["low"], row["high"]) == pytest.approx(spread(1 - np.array(right)))
    states = [load_file(Path(str(one["run"])) / "model.safetensors")["0.bias"] for one in every[::2]]
    assert not torch.equal(states[0], states[1])
    assert found.settings["variants"] == {"width=2": {"width": 2}}
    assert found.picture().size[0] > 300


def test_what_cannot_be_is_said_before_anything_is_trained(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(runs, "train", never)
    monkeypatch.setattr(subject, "scan", never)
    (place / "loose").mkdir()
    for i, file in enumerate(sorted((place / "photos").rglob("*.png"))):
        (place / "loose" / f"{i}.png").write_bytes(file.read_bytes())
    for settings, said in (
        ({"variants": "width=2; depth=3"}, "variant depth=3: unknown option 'depth'"),
        ({"variants": "remove=4"}, "variant remove=4: layer 4 cannot be left out"),
        ({"variants": "remove=conv"}, "unknown layer 'conv'"),
        ({"variants": "width"}, "'width' is not of the form name=value"),
        ({"variants": ";"}, "variants is empty"),
        ({"variants": None}, "has no options that table 3 changes"),
        ({"epochs": 0}, "at least 1"),
        ({"training": "lr=3"}, "lr is the study's to decide"),
    ):
        with pytest.raises(UsageError, match=said):
            study_architecture("ablation", "photos", "net.py:Net", out="out", **{**WIDE, **settings})
    with pytest.raises(UsageError, match="lie in no class folder"):
        study_architecture("ablation", "loose", "net.py:Net", out="out", **WIDE)
    with pytest.raises(UsageError, match="name the architecture"):
        study_architecture("ablation", "photos", "run:some", out="out", **WIDE)
    assert not (place / "out").exists()


def test_other_code_under_the_same_name_is_another_training(tmp_path):
    file = tmp_path / "own.py"
    data = data_of("digits", tmp_path / "out")
    places = []
    for width in (4, 8, 4):
        file.write_text(
            f"from torch import nn\n\n\ndef Net(num_classes=10):\n    return nn.Linear({width}, num_classes)\n"
        )
        for model in (f"{file}:Net", f"without:0:{file}:Net"):
            plan = runs.Plan("whole", {"model": model}, np.zeros(3, np.int8))
            places.append(runs.place_of(data, plan, "photos"))
    assert places[0] == places[4] != places[2]
    assert places[1] == places[5] != places[3]
    assert len(set(places)) == 4
