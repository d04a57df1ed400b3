"""How long does a user wait for a study that does not train: EfficientNet-Lite0, eight photos, the command line?"""

from __future__ import annotations

import json
import os
import tempfile
from importlib.resources import files
from pathlib import Path

import sklearn.datasets
from _command import command
from _table import Table, options
from PIL import Image

MODEL, BOUND = "convscope:efficientnet_lite0", 300.0  # seconds on two cores
PHOTOS = {
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "astronaut": "astronaut.png",
    "rocket": "rocket.jpg",
    "motorcycle": "motorcycle_left.png",
    "camera": "camera.png",
    "temple": "china.jpg",
    "flower": "flower.jpg",
}
STUDIES = {
    "occlusion, square 32, stride 8": ["occlusion", "--size", "32", "--stride", "8"],
    "invariance, first and last layer": ["invariance", "--layers", "first,last"],
    "correspondence, three parts": ["correspondence", "--parts", "parts.json"],
    "agreement": ["agreement"],
    "agreement, all methods": ["agreement", "--methods", "all"],
    "sanity": ["sanity"],
    "sanity, all methods": ["sanity", "--methods", "all"],
    "faithfulness": ["faithfulness"],
    "faithfulness, all methods": ["faithfulness", "--methods", "all"],
    "faithfulness with boxes, all methods": ["faithfulness", "--methods", "all", "--boxes", "boxes.json"],
}
QUICK = ("occlusion, square 32, stride 8", "sanity", "faithfulness")


def subject(folder: Path) -> None:
    """Eight photos, each in a folder of its class, and boxes of three parts in each."""
    places = files("skimage") / "data", Path(sklearn.datasets.__file__).parent / "images"
    parts, boxes = {}, {}
    for name, file in PHOTOS.items():
        found = next(place / file for place in places if (place / file).is_file())
        with found.open("rb") as source, Image.open(source) as photo:
            width, height = photo.size
            (folder / "photos" / name).mkdir(parents=True)
            photo.convert("RGB").save(folder / "photos" / name / file)
        thirds = [0, height // 3, 2 * height // 3, height]
        whole = f"{name}/{file}"
        parts[whole] = {f"part {n}": [thirds[n], width // 4, thirds[n + 1], 3 * width // 4] for n in range(3)}
        boxes[whole] = [[height // 4, width // 4, 3 * height // 4, 3 * width // 4]]
    (folder / "parts.json").write_text(json.dumps(parts))
    (folder / "boxes.json").write_text(json.dumps(boxes))


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("names", nargs="*", help="those whose name holds one of these words")
    chosen = parser.parse_args()
    cases = {**{name: ["study", words[0], MODEL, "photos", *words[1:]] for name, words in STUDIES.items()}}
    cases["diagnose"] = ["diagnose", MODEL, "photos"]
    processor_only = os.environ.get("OMP_NUM_THREADS") == "1"
    table = Table("Waiting: studies of EfficientNet-Lite0 on eight photos")
    with tempfile.TemporaryDirectory() as place:
        subject(Path(place))
        os.chdir(place)
        for name, words in cases.items():
            if (chosen.quick and name not in QUICK) or not any(word in name for word in chosen.names or [""]):
                continue
            wall, processor, peak = command([*words, "--out", name.replace(" ", "-")])
            table.at_most(name, processor if processor_only else wall, BOUND, "s")
            table.note(f"{name}: processor time; peak memory", f"{processor:.0f} s; {peak:.0f} MiB")
        os.chdir("/")
    table.finish()


if __name__ == "__main__":
    main()
