"""Makes the documentation's pictures and its page of methods by running convscope on real photos and real weights."""

from __future__ import annotations

import re
import sys
import tempfile
from inspect import cleandoc
from pathlib import Path

import skimage
from PIL import Image

import convscope as cs
from convscope.errors import ConvscopeError
from convscope.images.sheet import contact_sheet
from convscope.methods import METHODS
from convscope.settings import settings_of

DOCS = Path(__file__).parent
PICTURES = DOCS / "pictures"
WIDTH = 1100


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    net = cs.load("convscope:efficientnet_lite0")
    photos = [Path(skimage.__file__).parent / "data" / name for name in ("chelsea.png", "coffee.png")]
    hero(net, photos)
    evolution()
    sections = [section(name, method, net, photos) for name, method in METHODS.items()]
    text = "\n\n".join([HEADER.strip(), *sections]) + "\n"
    (DOCS / "methods.md").write_text(text, encoding="utf-8")
    print(f"wrote {DOCS / 'methods.md'} and {len(list(PICTURES.iterdir()))} pictures")


def evolution() -> None:
    """Units of a small VGG16 while they learn from crops of real photos."""
    sys.path.insert(0, str(DOCS.parent / "recipes"))
    from small import crops

    with tempfile.TemporaryDirectory() as place:
        crops(Path(place, "photos"))
        steps = {"evolve": [10, 40, 120], "evolve_units": [f"features.{layer}:0-5" for layer in (5, 12, 22, 32, 42)]}
        model = {"model": "convscope:vgg16_gap", "options": {"batch_norm": True}, "size": 64}
        learning = {"optimizer": "sgd", "lr": 0.01, "epochs": 12, "batch_size": 8, "schedule": "constant"}
        run = cs.train(Path(place, "photos"), out=Path(place, "run"), **model, **learning, **steps)
        sheet = Image.open(run.folder / "evolution" / "evolution.png")
        sheet = sheet.crop((0, 0, sheet.width, sheet.height // 2))
        sheet = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
        sheet.save(PICTURES / "evolution.webp", quality=82, method=6)


HEADER = """
# The methods

Every picture on this page was made by `make docs` with EfficientNet-Lite0 and its ImageNet weights. The settings are
those of the registry, `convscope methods NAME` prints them too.
"""


def hero(net: cs.Scope, photos: list[Path]) -> None:
    """The README's picture: what the network sees of two photos, and four methods."""
    methods = ("grad-cam", "guided", "occlusion", "layer-cam")
    tiles, labels = [], []
    for photo in photos:
        best = net.predict(photo).top(1)[0]
        tiles.append(seen(net, photo, Image.open(photo).convert("RGB")))
        labels.append(f"{best.name.split(',')[0]} {best.probability:.0%}")
        for method in methods:
            found = net.explain(photo, method, **({"layer": "@stage:-2"} if method == "layer-cam" else {}))
            tiles.append(found.picture() if method == "guided" else seen(net, photo, found.overlay()))
            labels.append(method)
    store("hero", contact_sheet(tiles, labels, columns=len(methods) + 1, tile=320))


def seen(net: cs.Scope, photo: Path, picture: Image.Image) -> Image.Image:
    """The part of a picture of the photo that the network sees."""
    _, (view,) = net.images(photo)
    top, left, bottom, right = view.placement.seen
    return picture.crop((left, top, right, bottom))


def section(name: str, method: type, net: cs.Scope, photos: list[Path]) -> str:
    """A method's part of the page: its docstring, its settings, its picture."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    first, _, rest = cleandoc(method.__doc__ or "").partition("\n")
    lines = [f"## {name}", first, re.sub(r"\s+", " ", rest.replace("``", "`")).strip()]
    file, notes = picture(name, net, photos)
    lines.append(f"![{name} on two photos](pictures/{file})")
    lines += [f"> {note[0].upper()}{note[1:]}." for note in notes]
    rows = [f"| `{s.name}` | `{s.default}` | {s.help} |" for s in settings_of(method)]
    if rows:
        lines.append("\n".join(["| setting | default | |", "|---|---|---|", *rows]))
    return "\n\n".join(lines)


def picture(name: str, net: cs.Scope, photos: list[Path]) -> tuple[str, list[str]]:
    """The file of a method's picture, and what the results themselves say."""
    kind = METHODS[name].traits.kind
    if kind == "weights":
        return store(name, net.filters().sheet()), []
    if kind == "features":
        return store(name, net.activations(photos[0], "blocks.0.0").sheet()), []
    tiles, labels, notes = [], [], {}
    for photo in photos:
        found = net.explain(photo, name)
        tiles += [found.picture(), found.overlay()]
        labels += [": ".join(filter(None, (photo.stem, found.label(0)))), "over the photo"]
        notes |= dict.fromkeys(found.notes)
    return store(name, contact_sheet(tiles, labels, columns=4, tile=300)), list(notes)


def store(name: str, sheet: Image.Image) -> str:
    """Write a picture small enough for a page; gives its file name."""
    if sheet.width > WIDTH:
        sheet = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
    file = f"{name.replace('+', 'p')}.webp"
    sheet.save(PICTURES / file, quality=82, method=6)
    return file


if __name__ == "__main__":
    try:
        main()
    except ConvscopeError as error:
        sys.exit(f"docs: {error}")
