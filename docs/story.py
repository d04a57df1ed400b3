"""The story of docs/studies.md, run: a network learns Fashion-MNIST, is diagnosed and mended, twice.

    python docs/story.py --fashion-mnist DIR [--out runs/story]

DIR holds the IDX files of Fashion-MNIST (Debian's dataset-fashion-mnist: /usr/share/datasets/fashion-mnist). What is
trained stays in the folder, and is not trained again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from make import store

import convscope as cs
from convscope.errors import ConvscopeError
from convscope.images.sheet import headed, stacked

NETS = Path(__file__).with_name("story_nets.py")
NAMES = ("alexnet_like", "zfnet_like", "zfnet_like_begun_small")
TRAINING = {
    **{"size": 32, "subset": "4000/200/1000", "batch_size": 64, "epochs": 8},
    **{"optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fashion-mnist", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path("runs/story"))
    asked = parser.parse_args()
    found, nets = {}, {}
    for name in NAMES:
        place = asked.out / name
        if not (place / "README.md").exists():
            cs.train(str(asked.fashion_mnist), model=f"{NETS}:{name}", **TRAINING, out=place)
        nets[name] = net = cs.load(f"run:{place}")
        print(name, net.evaluate())
        found[name] = net.study("diagnose", str(asked.fashion_mnist), out=asked.out / f"{name}-diagnosed")
        print(found[name].text, flush=True)
    store("story-aliasing", found[NAMES[0]].picture("aliasing"))
    rows = [headed(nets[name].filters("0").sheet(columns=16), name) for name in NAMES]
    store("story-filters", stacked(rows))


if __name__ == "__main__":
    try:
        main()
    except ConvscopeError as error:
        sys.exit(f"docs: {error}")
