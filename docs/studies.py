"""Makes the pictures of docs/studies.md: studies of EfficientNet-Lite0 on the photos that come in packages.

``python docs/studies.py``, or the names of some studies.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import skimage.data
from crops import PACKED, PHOTOS, crops
from make import store
from PIL import Image
from sklearn.datasets import load_digits

import convscope as cs
from convscope.errors import ConvscopeError
from convscope.studies.making import study_architecture

SEVEN = [str(next(place / file for place in PACKED if (place / file).exists())) for file in PHOTOS.values()]
FACES, SIDE = 12, 224
NETS = Path(__file__).with_name("story_nets.py")
PARTS = {"left eye": (6, 3, 12, 11), "right eye": (6, 14, 12, 22), "nose": (10, 8, 17, 17)}  # of 25x25 pixels
CHEAP = "grad-cam,eigen-cam,layer-cam,guided,guided-grad-cam,deconvnet,gradient,input-x-gradient"
FIGURES = {  # of each study those that the page shows
    "occlusion": ["occlusion"],
    "invariance": ["invariance"],
    "correspondence": ["correspondence"],
    "agreement": ["matrix"],
    "sanity": ["cascading-maps", "cascading-likeness"],
    "faithfulness": ["scores", "curves"],
    "probes": ["depth"],
    "transfer": ["accuracy"],
    "ablation": ["errors"],
    "diagnose": ["evidence"],
}


def main() -> None:
    net = cs.load("convscope:efficientnet_lite0")
    small = cs.load("convscope:efficientnet_lite0", size=64)
    for name in sys.argv[1:] or FIGURES:
        with subject(name) as (photos, settings):
            if name == "ablation":
                found = study_architecture(name, "digits", "convscope:zfnet", **settings)
            elif name == "diagnose":
                found = marked(Path(str(photos))).study(name, f"{photos}/photos", **settings)
            else:
                found = (small if name == "transfer" else net).study(name, photos, **settings)
            for figure in FIGURES[name]:
                store(f"study-{figure}", found.picture(figure))
        print(found.text, flush=True)


@contextmanager
def subject(name: str) -> Iterator[tuple[list[str] | str, dict[str, object]]]:
    """The photos of a study, and its settings."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        if name == "occlusion":
            yield [SEVEN[0], SEVEN[1], SEVEN[3], SEVEN[6]], {"size": 32, "stride": 8}
        elif name == "correspondence":
            yield faces(place), {"parts": place / "parts.json"}
        elif name == "agreement":
            yield SEVEN, {"methods": CHEAP}
        elif name == "faithfulness":
            methods = "grad-cam,guided-grad-cam,gradient,integrated-gradients"
            yield SEVEN, {"methods": methods, "subsets": 40}
        elif name == "probes":
            settings = {"per_class": 2, "test": 20, "layers": "first,@stages,last"}
            yield str(crops(place / "crops")), {**settings, "out": place / "probes"}
        elif name == "transfer":
            settings = {"per_class": "2,5,15", "repeats": 3, "scratch_steps": 300}
            yield str(crops(place / "crops")), {**settings, "out": place / "transfer"}
        elif name == "ablation":
            base = {"base": "fc=256 conv=96,96,64", "size": 64, "variants": "without=3,4; without=6,7"}
            yield "digits", {**base, "per_class": 40, "test": 60, "epochs": 45, "out": place / "ablation"}
        elif name == "diagnose":
            yield str(place), {"out": place / "diagnosed"}
        else:
            yield SEVEN, {}


def marked(place: Path) -> cs.Scope:
    """A network that learned digits of which each 3 has a mark in its lower right corner; they lie in ``place``."""
    for number, (pixels, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        digit = Image.fromarray((pixels.reshape(8, 8) * 255 / 16).astype(np.uint8)).resize((16, 16))
        if label == 3:
            digit.paste(255, (13, 13, 16, 16))
        (place / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        digit.save(place / "photos" / str(label) / f"{number}.png")
    how = {"size": 16, "augment": "none", "lr": 3e-3, "epochs": 12}
    run = cs.train(place / "photos", model=f"{NETS}:plain", **how, out=place / "run")
    print(run)
    return cs.load(f"run:{run.folder}")


def faces(place: Path) -> list[str]:
    """Faces of scikit-image's, all of which look the same way, with the boxes of their parts."""
    found, parts = [], {}
    for number, pixels in enumerate(skimage.data.lfw_subset()[:FACES]):
        file = place / f"face{number:02d}.png"
        Image.fromarray((pixels * 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file)
        scale = SIDE / pixels.shape[0]
        parts[file.name] = {name: [round(side * scale) for side in box] for name, box in PARTS.items()}
        found.append(str(file))
    (place / "parts.json").write_text(json.dumps(parts))
    return found


if __name__ == "__main__":
    try:
        main()
    except ConvscopeError as error:
        sys.exit(f"docs: {error}")
