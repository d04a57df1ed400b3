"""Makes convscope/optvis/spectrum.safetensors from public photos of scikit-image, scikit-learn and matplotlib."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import skimage
import sklearn
from PIL import Image
from safetensors.torch import save_file

from convscope.optvis import spectrum

PHOTOS = {
    skimage: ("chelsea.png", "coffee.png", "astronaut.png", "rocket.jpg", "motorcycle_left.png"),
    sklearn: ("china.jpg", "flower.jpg"),
    matplotlib: ("grace_hopper.jpg",),
}
FOLDERS = {skimage: "data", sklearn: "datasets/images", matplotlib: "mpl-data/sample_data"}


def main() -> None:
    files = [Path(str(m.__file__)).parent / FOLDERS[m] / name for m, names in PHOTOS.items() for name in names]
    magnitudes = spectrum.of_photos([Image.open(file) for file in files])
    out = Path(spectrum.__file__).with_suffix(".safetensors")
    save_file({"magnitudes": magnitudes.half()}, out, {"photos": ", ".join(file.name for file in files)})
    print(f"wrote {out}: {tuple(magnitudes.shape)} of {len(files)} photos")


if __name__ == "__main__":
    main()
