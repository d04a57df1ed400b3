"""A folder of crops of the photos that come in packages: a class for each photo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import skimage
import sklearn.datasets
from PIL import Image

PACKED = Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images"
PHOTOS = {
    "cat": "chelsea.png",
    "coffee": "coffee.png",
    "astronaut": "astronaut.png",
    "rocket": "rocket.jpg",
    "motorcycle": "motorcycle_left.png",
    "temple": "china.jpg",
    "flower": "flower.jpg",
}
EACH = 48  # crops of a photo


def crops(folder: Path, each: int = EACH, seed: int = 0) -> Path:
    """``folder`` with crops between a fifth of a photo's shorter side and all of it, at random places."""
    rng = np.random.default_rng(seed)
    for name, file in PHOTOS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        photo = Image.open(next(place / file for place in PACKED if (place / file).exists())).convert("RGB")
        for number in range(each):
            side = round(min(photo.size) * rng.uniform(0.2, 1))
            left, top = (int(rng.integers(0, length - side + 1)) for length in photo.size)
            crop = photo.crop((left, top, left + side, top + side))
            crop.resize((256, 256), Image.Resampling.BICUBIC).save(folder / name / f"{number:03d}.jpg", quality=92)
    return folder
