"""The study of faithfulness as a whole: what beats what on a network whose right map is known, and what is refused."""

import json
import math
import re
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from convscope.errors import Cancelled, ConvscopeError, UsageError
from convscope.instrument.target import Target
from convscope.methods import METHODS
from convscope.methods.explanation import explain
from convscope.methods.registry import Traits
from convscope.models.classifier import Classifier
from convscope.progress import reporting
from convscope.studies import STUDIES, configure
from convscope.studies.faithfulness_told import Entry, Measured, findings_of
from convscope.studies.interval import estimate
from convscope.studies.subject import Album
from tests.nets import Planted, Skip, Smooth, classifier_of, photos, planted_photo

QUICK = {"steps": 6, "subsets": 8, "sizes": (0.2, 0.5), "passes": 2}
PLACES = [(4, 6), (33, 30), (6, 34), (34, 3), (20, 5), (20, 34), (4, 20), (34, 17)]


def run(album, seed=0, **settings):
    return configure("faithfulness", {**QUICK, **settings}).run(album, seed)


def planted(count=8):
    """Photos of a red blob, each elsewhere, beside a blue one."""
    images = [planted_photo([PLACES[i], None, PLACES[(i + 1) % len(PLACES)]], seed=i) for i in range(count)]
    return Album.of(Classifier(Planted()), torch.stack(images), label=0)


def boxes(tmp_path, count=8, blob=10):
    told = {f"image {i}": [[r, c, r + blob, c + blob]] for i, (r, c) in enumerate(PLACES[:count])}
    file = tmp_path / "boxes.json"
    file.write_text(json.dumps(told))
    return file


def score(found, name, column):
    (row,) = [row for row in found.table("scores").records() if row["map"] == name]
    return row[column]


class Wrong:
    """Grad-CAM turned upside down: what is least needed comes first."""

    name, traits = "wrong", Traits("map", "signed")

    def run(self, classifier, images, target):
        right = METHODS["grad-cam"]().run(classifier, images, target)
        return replace(right, raw=-right.raw)


class Other:
    """Grad-CAM of another class: it shows the blue blob where the red one is asked for."""

    name, traits = "other", Traits("map", "positive")

    def run(self, classifier, images, target):
        return METHODS["grad-cam"]().run(classifier, images, Target(index=(2,) * len(images)))


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        listed = [METHODS["grad-cam"](), Wrong(), Other()]
        patch.setattr("convscope.studies.compared.methods_meant", lambda words, passes=None: (listed, []))
        return run(planted(), boxes=boxes(tmp_path_factory.mktemp("boxes")), tolerance=0, steps=36, subsets=30)


def test_the_true_map_beats_what_knows_nothing_and_the_wrong_one_does_not(judged):
    rows = judged.table("against").records()
    beats = {(row["map"], row["against"], row["score"]): row["beats"] for row in rows}
    for rival in ("random", "centre", "edges"):
        for name in ("difference", "sensitivity-n", "pointing", "energy"):
            assert beats["grad-cam", rival, name] is True, (rival, name)
        for name in ("deletion", "insertion", "difference", "sensitivity-n"):
            assert beats["wrong", rival, name] is False, (rival, name)
        for name in ("sensitivity-n", "pointing", "energy"):
            assert beats["other", rival, name] is False, (rival, name)
    for rival in ("centre", "edges"):
        assert beats["grad-cam", rival, "deletion"] is beats["grad-cam", rival, "insertion"] is True
    assert score(judged, "grad-cam", "deletion") < score(judged, "random", "deletion") / 2
    assert score(judged, "grad-cam", "pointing") == 1
    assert score(judged, "other", "pointing") == score(judged, "other", "energy") == 0
    assert score(judged, "wrong", "energy") is None  # nothing in it speaks for the class
    assert score(judged, "grad-cam", "deletion") < 0.5 < score(judged, "grad-cam", "insertion")


def test_the_findings_say_so(judged):
    text = "\n".join(judged.findings)
    assert "Insertion less deletion: of the methods best is grad-cam" in text
    assert re.search(r"Insertion less deletion: grad-cam \(by 0\.\d+\) beats every baseline; not so ", text)
    assert "wrong (not random, centre, edges)" in text
    assert re.search(r"Insertion less deletion: grad-cam \(by 0\.\d+\) beats its own map of shuffled weights", text)
    assert re.search(r"Energy: grad-cam \(by 0\.\d+\) beats every baseline; not so other \(not random, c", text)


def test_a_map_that_is_the_same_everywhere_is_told(judged):
    """Of the shuffled network Grad-CAM is rectified to nothing on most of these photos."""
    rows = judged.table("photos").records()
    flat = sum(r["map"] == "grad-cam, shuffled" and r["energy"] is None for r in rows)
    assert 0 < flat <= 8
    line = "the same everywhere, so that chance orders the cells: "
    (told,) = [note for note in judged.notes if note.startswith(line)]
    assert f"grad-cam, shuffled on {flat} of 8 photos" in told


def test_every_method_has_its_control_and_the_baselines_stand_beside(judged):
    kinds = [(row["map"], row["kind"]) for row in judged.table("scores").records()]
    assert kinds == [
        *(("grad-cam", "method"), ("wrong", "method"), ("other", "method")),
        *(("random", "baseline"), ("centre", "baseline"), ("edges", "baseline")),
        *(("grad-cam, shuffled", "control"), ("wrong, shuffled", "control"), ("other, shuffled", "control")),
    ]


def test_tables_hang_together(judged):
    """Means and intervals of the first, and paired ones of the second, from the photos' own values."""
    photos_rows = judged.table("photos").records()
    per = {}
    for row in photos_rows:
        for name in ("deletion", "insertion", "difference", "sensitivity-n", "pointing", "energy"):
            per.setdefault((row["map"], name), []).append(math.nan if row[name] is None else row[name])
    for row in judged.table("scores").records():
        for name in ("deletion", "energy"):
            mean, low, high, count = estimate(per[row["map"], name], (0, 1))
            assert [row[f"{name} low"], row[f"{name} high"]] == [low, high]
            assert row[name] == (mean if count else None)
    for row in judged.table("against").records():
        mine, others = (np.array(per[row[key], row["score"]]) for key in ("map", "against"))
        sign = -1 if row["score"] == "deletion" else 1
        most = 2 if row["score"] in ("difference", "sensitivity-n") else 1
        mean, low, high, count = estimate(sign * (mine - others), (-most, most))
        assert [row["low"], row["high"], row["photos"]] == [low, high, count]
        assert row["better by"] == (mean if count else None)
        assert row["beats"] == (low > 0 if count >= 6 else None)
    for map, values in {map: v for (map, name), v in per.items() if name == "difference"}.items():
        assert values == pytest.approx(np.subtract(per[map, "insertion"], per[map, "deletion"]))
    curve = [r for r in judged.table("curves").records() if r["map"] == "grad-cam" and r["curve"] == "deletion"]
    shares, means = ([r[key] for r in curve] for key in ("share", "probability"))
    assert np.trapezoid(means, shares) == pytest.approx(np.mean(per["grad-cam", "deletion"]))
    assert shares[0] == 0
    assert shares[-1] == 1
    assert len(shares) == 37


def test_a_paired_difference_is_surer_than_two_intervals_apart():
    """Photos that differ far more from each other than the maps do: the pairs settle it, single intervals overlap."""
    entries = [Entry("better", "method"), *(Entry(name, "baseline") for name in ("random", "centre", "edges"))]
    found = Measured.empty(entries, 6, ["insertion"], ["insertion"], [0.0, 1.0], [])
    base = np.array([0.1, 0.9, 0.3, 0.7, 0.2, 0.95])
    found.values["insertion"][:] = [base + 0.02, base, base - 0.05, base]
    assert estimate(base + 0.02).low < estimate(base).high
    assert "Insertion: better (by 0.02) beats every baseline" in findings_of(found)
    found = Measured.empty(entries, 6, ["insertion"], ["insertion"], [0.0, 1.0], [])
    found.values["insertion"][1:] = [base, base - 0.05, base]
    found.values["insertion"][0] = base + 0.02 * np.array([1, -1, 1, -1, 1, -1])
    assert "Insertion: no method beats every baseline: better (not random, edges)" in findings_of(found)


def test_the_best_is_one_that_photos_have_and_equals_are_named_together():
    entries = [Entry(name, "method") for name in ("a", "b", "c")]
    found = Measured.empty(entries, 20, ["energy"], [], [], [])
    found.values["energy"][:] = np.array([[0.6], [np.nan], [0.6]])
    found.values["energy"][1, 0] = 0.99
    assert findings_of(found)[0].startswith("Energy: of the methods best are a, c, 0.6")


def test_figures_are_drawn_and_files_written(judged, tmp_path):
    files = {path.name for path in judged.save(tmp_path)}
    assert {"scores.csv", "against.csv", "photos.csv", "curves.csv", "sizes.csv", "scores.png", "curves.svg"} <= files
    picture = np.asarray(judged.picture("curves"))  # made by the saving
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_input_times_gradient_of_a_linear_network_sums_up():
    """Through the study: its signed sum over channels is asked, whatever orders the pixels."""
    layer = nn.Linear(3 * 14 * 14, 2, dtype=torch.float64)
    album = Album.of(Classifier(nn.Sequential(nn.Flatten(), layer)), photos(3, 3, 14, 14), label=1)
    found = run(album, methods="input-x-gradient,gradient", scores="sensitivity-n")
    assert score(found, "input-x-gradient", "sensitivity-n") == pytest.approx(1)
    assert score(found, "gradient", "sensitivity-n") < 0.999
    assert list(found.settings["scores"]) == ["sensitivity-n"]
    assert [table.name for table in found.tables] == ["scores", "against", "photos", "sizes"]


def two_pixels():
    """One pixel speaks for the class, another one more loudly against it."""
    layer = nn.Linear(16, 2, dtype=torch.float64)
    layer.weight.data.zero_()
    layer.weight.data[0, 5], layer.weight.data[0, 6] = -8.0, 4.0
    layer.bias.data.zero_()
    classifier = Classifier(nn.Sequential(nn.Flatten(), layer), channels=1)
    return Album.of(classifier, torch.ones(3, 1, 4, 4, dtype=torch.float64), label=0)


def test_energy_is_of_what_speaks_for_the_class(tmp_path):
    """The pixel against it, which is in the box, is none of it."""
    (tmp_path / "boxes.json").write_text(json.dumps({f"image {i}": [[1, 1, 2, 2]] for i in range(3)}))
    how = {"methods": "gradient,input-x-gradient", "scores": "energy", "boxes": tmp_path / "boxes.json"}
    found = run(two_pixels(), **how)
    assert score(found, "gradient", "energy") == score(found, "input-x-gradient", "energy") == 0
    (tmp_path / "boxes.json").write_text(json.dumps({f"image {i}": [[1, 2, 2, 3]] for i in range(3)}))
    assert score(run(two_pixels(), **how), "gradient", "energy") == 1


def test_magnitude_or_sign_orders_pixel_attributions():
    """One pixel against the class: by magnitude it goes first and the class gains; by sign it goes last."""
    album = two_pixels()

    def first(channels):
        how = {"methods": "input-x-gradient", "scores": "deletion", "steps": 16, "delete": "black"}
        rows = run(album, channels=channels, **how).table("curves").records()
        return [r["probability"] for r in rows if r["map"] == "input-x-gradient"][1]

    assert first("magnitude") == pytest.approx(1 / (1 + math.exp(-4)))
    assert first("signed") == pytest.approx(1 / (1 + math.exp(8)))


def test_a_score_of_a_photo_does_not_depend_on_the_others():
    classifier, images = classifier_of(Smooth()), photos(18)
    whole = run(Album.of(classifier, images, label=1), methods="gradient", scores="deletion,sensitivity-n")
    first = run(Album.of(classifier, images[:2], label=1), methods="gradient", scores="deletion,sensitivity-n")
    rows = {(r["photo"], r["map"]): (r["deletion"], r["sensitivity-n"]) for r in whole.table("photos").records()}
    for row in first.table("photos").records():
        assert (row["deletion"], row["sensitivity-n"]) == pytest.approx(rows[row["photo"], row["map"]], abs=1e-9)
    assert any("fewer than 6 photos all of it may be chance" in line for line in first.findings)


def test_the_same_seed_gives_the_same():
    album = Album.of(classifier_of(Smooth()), photos(2), label=1)
    one, same, other = (run(album, seed, methods="gradient").about() for seed in (3, 3, 4))
    assert one == same
    assert one["tables"]["photos"] != other["tables"]["photos"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_in_both_precisions_and_nothing_is_disturbed(dtype, channels):
    net = Skip(channels=channels).to(dtype).train()
    net.conv1.weight.requires_grad_(False)
    classifier = Classifier(net)
    album = Album.of(classifier, photos(3, channels, dtype=dtype), label=2)
    weights = {name: value.clone() for name, value in net.state_dict().items()}
    torch.manual_seed(11)
    state = torch.get_rng_state()
    found = run(album, methods="grad-cam,guided")
    assert all(math.isfinite(score(found, name, "difference")) for name in ("grad-cam", "guided", "edges"))
    with pytest.raises(Cancelled), reporting(cancel=iter([False] * 6 + [True] * 99).__next__):
        run(album, methods="grad-cam,guided")
    assert net.training
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    assert [p.requires_grad for p in net.parameters()] == [False] + [True] * (len(list(net.parameters())) - 1)
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_method_that_cannot_look_at_the_network_is_left_out_and_said():
    class Refusing:
        name, traits = "refusing", Traits("map", "positive")

        def run(self, classifier, images, target):
            raise ConvscopeError("it will not")

    def listed(*methods):
        return lambda words, passes=None: (list(methods), [])

    album = Album.of(classifier_of(Smooth()), photos(3), label=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("convscope.studies.compared.methods_meant", listed(METHODS["gradient"](), Refusing()))
        found = run(album)
        assert [row["map"] for row in found.table("scores").records()][:2] == ["gradient", "random"]
        assert "left out: refusing: it will not" in found.notes
        patch.setattr("convscope.studies.compared.methods_meant", listed(Refusing()))
        with pytest.raises(ConvscopeError, match="it will not"):
            run(album)


def test_a_network_that_cannot_be_copied_has_no_control_and_it_is_said():
    classifier = classifier_of(Smooth())
    classifier.network.lock = threading.Lock()
    found = run(Album.of(classifier, photos(3), label=1), methods="gradient")
    assert [row["kind"] for row in found.table("scores").records()] == ["method", *["baseline"] * 3]
    assert any(note.startswith("there is no control with shuffled weights: ") for note in found.notes)
    assert {row["against"] for row in found.table("against").records()} == {"random", "centre", "edges"}


def test_a_map_of_nan_has_no_score_and_spoils_no_other():
    class Broken:
        name, traits = "broken", Traits("map", "positive")

        def run(self, classifier, images, target: Target):
            raw = torch.ones_like(images[:, 0])
            raw[0, 0, 0] = torch.nan
            return explain(METHODS["grad-cam"](), classifier, images, target, raw, torch.zeros(len(images)))

    album = Album.of(classifier_of(Smooth()), photos(3), label=1)
    with pytest.MonkeyPatch.context() as patch:
        listed = [METHODS["gradient"](), Broken()]
        patch.setattr("convscope.studies.compared.methods_meant", lambda words, passes=None: (listed, []))
        found = run(album)
    rows = [r for r in found.table("photos").records() if r["photo"] == "image 0"]
    assert [r["deletion"] is None for r in rows if r["kind"] == "method"] == [False, True]
    assert score(found, "broken", "insertion photos") == 2
    assert score(found, "gradient", "insertion photos") == 3


def test_boxes_may_be_named_as_text_as_on_a_command_line(tmp_path):
    settings = {"boxes": str(boxes(tmp_path, 1)), "scores": "pointing", "methods": "grad-cam", "tolerance": "0"}
    found = run(planted(1), **settings)
    assert score(found, "grad-cam", "pointing") == 1
    assert list(found.tables[0].columns)[2:] == ["pointing", "pointing low", "pointing high", "pointing photos"]


def test_photos_without_a_box_are_left_out_of_those_scores_alone(tmp_path):
    found = run(planted(4), methods="grad-cam", boxes=boxes(tmp_path, 3))
    rows = [row for row in found.table("photos").records() if row["map"] == "grad-cam"]
    assert [row["pointing"] is None for row in rows] == [False, False, False, True]
    assert all(row["deletion"] is not None for row in rows)
    assert "without a box, and left out of pointing and energy: image 3" in found.notes


REFUSED = {
    "no boxes": ({"scores": "pointing"}, "pointing needs boxes: name a JSON file of them with --boxes"),
    "a score": ({"scores": "deletoin"}, "unknown score 'deletoin'; nearest: deletion"),
    "no score": ({"scores": ""}, "no score is named"),
    "a method": ({"methods": "grad-kam"}, "unknown method 'grad-kam'; nearest: grad-cam"),
    "no map": ({"methods": "filters"}, "filters does not make a map of a photo"),
    "steps": ({"steps": 721, "cell": 1}, "steps is 721: from 1 to the canvas's 720 cells"),
    "no steps": ({"steps": 0}, "steps is 0"),
    "sizes": ({"sizes": "0.5,1"}, "sizes are shares of all features, above 0 and below 1"),
    "subsets": ({"subsets": 2}, "subsets is 2: a correlation needs 3"),
    "cell": ({"cell": 25}, "cell is 25: from 1 to the canvas's shorter side, 24"),
    "tolerance": ({"boxes": "x.json", "tolerance": -1}, "tolerance is -1"),
    "passes": ({"passes": 0}, "passes is 0"),
    "no file": ({"boxes": "nowhere.json"}, "there is no file of boxes nowhere.json"),
    "boxes for nothing": ({"boxes": "x.json", "scores": "deletion"}, "neither pointing nor energy is among the scores"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line_before_any_map_is_made(case, monkeypatch):
    settings, line = REFUSED[case]
    album = Album.of(classifier_of(Smooth()), photos(3), label=1)
    monkeypatch.setattr("convscope.studies.compared.attributions", lambda *_: pytest.fail("too late"))
    monkeypatch.setattr("convscope.studies.faithfulness.randomised", lambda *_: pytest.fail("too late"))
    with pytest.raises(UsageError, match=line) as refusal:
        run(album, **settings)
    assert "\n" not in str(refusal.value)


def test_registered_for_photos():
    assert STUDIES["faithfulness"].traits.of == "photos"
