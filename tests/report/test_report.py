"""The report: everything in one page, escaped, of bounded size, and readable without what made it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from convscope.images.frame import Framing
from convscope.images.read import Photo
from convscope.methods.explanation import Explanation, View
from convscope.methods.registry import Traits
from convscope.report import About, Figure, PhotoPage, Report, Sheet, Trouble
from convscope.report import embed as embedding
from convscope.report.build import _percent
from convscope.report.embed import embed, embed_sheet

VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Every tag with its attributes, in a tree that must close properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, name: str) -> Iterator[dict[str, str | None]]:
        return (attributes for tag, attributes in self.tags if tag == name)


def picture(width: int, height: int, *, noise: bool = True) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values if noise else np.full_like(values, 90))


def explanation(rows: int = 1, **changes: Any) -> Explanation:
    photo, framing = picture(60, 40), Framing((32, 32), 32)
    view = View(Photo(photo, "a.png"), framing.place(photo.height, photo.width))
    given: dict[str, Any] = {
        "raw": torch.ones(rows, 32, 32),
        "method": "grad-cam",
        "traits": Traits("map", "positive"),
        "labels": tuple(f"class {i}" for i in range(rows)),
        "scores": torch.arange(rows) + 0.5,
        "layer": "features.7",
        "settings": {"layer": "@last_conv", "chunk": None, "budget": 512.0},
        "views": (view,) * rows,
    }
    return Explanation(**{**given, **changes})


def figure(found: Explanation, row: int = 0) -> Figure:
    return Figure.of(found, row, found.picture(row), found.overlay(row))


def page(*figures: Figure, name: str = "a.png", index: int = 0, **rest: Any) -> PhotoPage:
    view = explanation().views[0]
    top = rest.pop("top", [("tabby", 0.75), ("lynx", 0.0001)])
    return PhotoPage.of(index, name, view.photo.image, view.placement, top=top, figures=figures, **rest)


def written(folder: Path, *pages: PhotoPage, failed: list[Trouble] | None = None, **about: str) -> str:
    given = {"model": "net.py:Net", "device": "CPU", "command": "convscope explain net.py:Net a.png", **about}
    with Report(About(**given, versions=("convscope 0", "torch 2"))) as report:  # type: ignore[arg-type]
        for one in pages:
            report.add(one)
        size = report.write(folder / "report.html", failed or [])
    assert size == (folder / "report.html").stat().st_size
    return (folder / "report.html").read_text("utf-8")


def test_it_holds_all_that_it_shows(tmp_path: Path) -> None:
    sheet = Sheet.of("features.7", "the 2 strongest", picture(900, 300))
    text = written(tmp_path, page(figure(explanation()), sheets=[sheet]), page(index=1, name="b.png"))
    found = Page(text)
    images = list(found.all("img"))
    assert len(images) == 5
    assert all((image["src"] or "").startswith("data:image/") for image in images)
    assert all(image["alt"] for image in images)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert not re.search(r"url\(|@import|<script|<link", text)
    ids = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    links = [attributes["href"] for attributes in found.all("a")]
    assert len(links) == 3
    assert all((link or "")[1:] in ids for link in links)


def test_it_says_what_was_done(tmp_path: Path) -> None:
    text = Page(written(tmp_path, page(figure(explanation())))).text
    for expected in (
        "What net.py:Net looked at",
        "convscope explain net.py:Net a.png",
        "60 × 40 pixels. The network saw what is inside of the frame, as 32 × 32.",
        "tabby 75.0 %",
        "lynx < 0.1 %",
        "Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391).",
        "class 0 logit 0.5",
        "layer features.7",
        "The brighter, the more a place matters.",
        "torch 2",
    ):
        assert expected in text, expected
    assert "chunk" not in text  # not set
    assert "budget" not in text  # changes no result


def test_the_frame_lies_where_the_network_looked(tmp_path: Path) -> None:
    (style,) = [one["style"] for one in Page(written(tmp_path, page())).all("div") if one.get("class") == "seen"]
    values = dict(part.split(":") for part in (style or "").split(";"))
    assert float(values["top"].rstrip("%")) == 0
    assert float(values["left"].rstrip("%")) == pytest.approx(100 / 6, abs=0.01)
    assert float(values["width"].rstrip("%")) == pytest.approx(100 * 2 / 3, abs=0.01)
    assert float(values["height"].rstrip("%")) == 100


def test_several_targets_and_their_notes(tmp_path: Path) -> None:
    raw = torch.ones(3, 32, 32)
    raw[1] = 0
    some = explanation(3, raw=raw, notes=("the layer is early", "zero everywhere, nothing was found: row 1"))
    found = Page(written(tmp_path, page(*(figure(some, row) for row in range(3)))))
    assert found.text.count("the layer is early") == 1
    assert found.text.count("the map is zero everywhere: nothing was found for this target") == 1
    assert "row 1" not in found.text
    assert "class 1 logit 1.5 Note the map is zero" in found.text


def test_what_the_user_gave_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"&"
    found = explanation(labels=(evil,), layer=evil, notes=(evil,), settings={"fill": evil})
    pages = [
        page(figure(found), name=evil, top=[(evil, 0.5)], troubles=[Trouble(evil, evil, evil)]),
        page(index=1, name="\udcffx.png", sheets=[Sheet.of(evil, evil, picture(20, 20))]),
    ]
    text = written(tmp_path, *pages, failed=[Trouble(evil, evil)], model=evil, device=evil, command=evil)
    assert "<script" not in text
    assert evil in Page(text).text


def test_failures_are_listed(tmp_path: Path) -> None:
    failed = [Trouble("b.png", "it is empty"), Trouble("c.png", "it is a web page")]
    text = Page(written(tmp_path, page(troubles=[Trouble("a.png", "no rule", "guided")]), failed=failed)).text
    assert "and 3 problems" in text
    for expected in ("b.png it is empty", "c.png it is a web page", "a.png, guided no rule"):
        assert expected in text
    assert "problem" not in Page(written(tmp_path, page())).text


def test_pages_come_in_their_order_and_leave_memory(tmp_path: Path) -> None:
    with Report(About("m", "d", "c")) as report:
        for index in range(3):
            report.add(page(index=index, name=f"{index}.png"))
            assert not any(isinstance(value, PhotoPage) for value in vars(report).values())
        report.write(tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text("utf-8")
    assert [text.index(f'id="photo-{index}"') for index in range(3)] == sorted(
        text.index(f'id="photo-{index}"') for index in range(3)
    )


def decoded(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_pictures_are_no_larger_than_a_screen_shows() -> None:
    large = embed(picture(3000, 1500, noise=False))
    assert (large.width, large.height) == (1000, 500)
    assert decoded(large.uri).size == (1000, 500)
    assert large.aspect == 2
    small = picture(28, 28)
    assert np.array_equal(np.asarray(decoded(embed(small).uri)), np.asarray(small))  # without loss
    assert embed(small).coarse
    sheet = embed_sheet(picture(3000, 9000, noise=False))
    assert (sheet.width, sheet.height) == (1500, 4500)


def test_without_webp_and_for_very_long_sheets_there_is_jpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    assert embed(picture(200, 200)).uri.startswith("data:image/webp;")
    assert embed_sheet(picture(110, 17000, noise=False)).uri.startswith("data:image/jpeg;")
    monkeypatch.setattr(embedding.features, "check", lambda name: False)
    assert embed(picture(200, 200)).uri.startswith("data:image/jpeg;")


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0.0 %"), (0.0004, "< 0.1 %"), (0.5, "50.0 %"), (0.9996, "> 99.9 %"), (1.0, "100.0 %")],
)
def test_percent_does_not_round_to_certainty(share: float, words: str) -> None:
    assert _percent(share) == words
