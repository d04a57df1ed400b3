"""Copy the two photos of `make demo` out of scikit-image's package: `python demo_photos.py FOLDER`."""

from __future__ import annotations

import shutil
import sys
from importlib.resources import as_file, files
from pathlib import Path

PHOTOS = {"chelsea.png": "cat.png", "coffee.png": "coffee.png"}  # both CC0


def main(folder: Path) -> None:
    for name, copy in PHOTOS.items():
        with as_file(files("skimage") / "data" / name) as photo:
            shutil.copyfile(photo, folder / copy)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
