"""The run folder: all that a training makes, in plain files that are whole at any moment, also when it is killed."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from convscope.data.cache import replacing
from convscope.data.listing import Refused
from convscope.errors import ConvscopeError, UsageError
from convscope.images.own import make_own
from convscope.models.run import WEIGHTS

METRICS, STATE, NETWORK, OPTIMIZER = "metrics.jsonl", "state.json", "model.safetensors", "training.safetensors"
EVALUATION = "evaluation.json"  # written last
UNBEGUN = ".unbegun"  # is there until there is a checkpoint
LAST, BEST = "last", "best"
EPOCH = "epoch-"  # what the files of epochs that stay begin with
RUNS = Path("runs")


@dataclass(frozen=True)
class Checkpoint:
    """A moment of a training: everything that its continuation depends on."""

    network: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes a run's files. Only the process that leads writes."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """A new folder; one that holds anything is not written into."""
        with writing(path, ""):
            if path.exists() and not path.is_dir():
                raise UsageError(f"{path} is a file, and a run is a folder: choose another --out")
            cls(path).clear_unbegun()
            if path.exists() and any(path.iterdir()):
                raise UsageError(
                    f"{path} is there already: choose another --out, or go on with that run by --resume {path}"
                )
            there = path.exists()
            make_own(path)
            (path / UNBEGUN).write_text("in a folder that was there" if there else "")
            (path / "checkpoints").mkdir()
        return cls(path)

    @property
    def is_unbegun(self) -> bool:
        """Whether it was made and has no checkpoint yet: nothing in it was learned, and all of it is convscope's."""
        return (self.path / UNBEGUN).is_file()

    def clear_unbegun(self) -> bool:
        """Empty a run that has not begun; nobody else's files. Whether its folder was made for it."""
        if not self.is_unbegun:
            return False
        made = not (self.path / UNBEGUN).read_text()
        for place in self.path.iterdir():
            if place.name != UNBEGUN:  # the last: a kill in between leaves it what it is
                shutil.rmtree(place) if place.is_dir() else place.unlink()
        (self.path / UNBEGUN).unlink()
        return made

    # metrics.jsonl

    def rows(self) -> list[dict[str, Any]]:
        """A row an epoch."""
        try:
            text = (self.path / METRICS).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        lines = text.split("\n")[:-1]  # a line without an end was being written when the process was killed
        return [json.loads(line) for line in lines]

    def append(self, row: Mapping[str, Any]) -> None:
        with writing(self.path), (self.path / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def cut_back(self, epochs: int) -> None:
        """Keep the rows of the first ``epochs`` epochs: later ones are run again."""
        kept = [row for row in self.rows() if row["epoch"] <= epochs]
        self.write(METRICS, "".join(json.dumps(row) + "\n" for row in kept))

    # checkpoints

    def save(self, name: str, checkpoint: Checkpoint) -> None:
        """Put a checkpoint in the place of the one of that name, which stays whole until the new one is.

        A best one replaces another for good with the last one that knows of it: see ``settle_best``.
        """
        place = self.path / "checkpoints"
        new, old = place / f".{name}.new", place / f".{name}.old"
        with writing(self.path):
            _mend(place, name)
            for left in (new, old):  # by a kill: nothing can be renamed onto it
                shutil.rmtree(left, ignore_errors=True)
            try:
                new.mkdir(parents=True)
                save_file(checkpoint.network, new / NETWORK)
                save_file(checkpoint.optimizer, new / OPTIMIZER)
                (new / STATE).write_text(json.dumps(checkpoint.state, indent=1) + "\n", encoding="utf-8")
                for file in new.iterdir():
                    _usual_rights(file)
                    _to_disk(file)
            except Exception:
                shutil.rmtree(new, ignore_errors=True)  # of a full disk nothing is kept occupied
                raise
            if (place / name).exists():
                os.replace(place / name, old)
            os.replace(new, place / name)
            if name == LAST:
                shutil.rmtree(place / f".{BEST}.old", ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)
                (self.path / UNBEGUN).unlink(missing_ok=True)

    def load(self, name: str) -> Checkpoint | None:
        """The checkpoint of that name; None where there is none yet."""
        place = self.path / "checkpoints"
        with writing(self.path):
            _mend(place, name)
        folder = place / name
        if not folder.is_dir():
            return None
        try:
            state = json.loads((folder / STATE).read_text(encoding="utf-8"))
            return Checkpoint(load_file(folder / NETWORK), load_file(folder / OPTIMIZER), state)
        except Exception as error:  # safetensors has errors of its own
            raise ConvscopeError(f"{folder} is damaged ({error}): remove it to begin anew") from None

    def settle_best(self, epoch: int | None) -> None:
        """After a kill between the writing of the best checkpoint and of the last: the one that the last knows of."""
        place = self.path / "checkpoints"
        old = place / f".{BEST}.old"
        if old.is_dir() and _best_of(old) == epoch != _best_of(place / BEST):
            with writing(self.path):
                shutil.rmtree(place / BEST, ignore_errors=True)
                os.replace(old, place / BEST)
            self.publish()

    def keep(self, epoch: int, network: dict[str, Tensor]) -> None:
        """Let the weights of an epoch stay."""
        with writing(self.path), replacing(self.path / "checkpoints" / f"{EPOCH}{epoch:04d}.safetensors") as draft:
            save_file(network, draft)

    def stages(self) -> dict[int, Path]:
        """Weights of the run by their epochs, in order: those that were kept, the best and the last."""
        place = self.path / "checkpoints"
        found = {}
        for name in (BEST, LAST):
            checkpoint = self.load(name)
            if checkpoint is not None:
                found[int(checkpoint.state["epoch"])] = place / name / NETWORK
        kept = {file.stem.removeprefix(EPOCH): file for file in place.glob(f"{EPOCH}*.safetensors")}
        found |= {int(epoch): file for epoch, file in kept.items() if epoch.isdecimal()}
        return dict(sorted(found.items()))

    def publish(self) -> None:
        """Put the best weights where ``run:`` looks for them: the same file once more, where the disk can do that."""
        best = self.path / "checkpoints" / BEST / NETWORK
        with writing(self.path), replacing(self.path / WEIGHTS) as draft:
            try:
                draft.unlink()
                os.link(best, draft)
            except OSError:  # not all disks have links
                shutil.copyfile(best, draft)

    # other files

    def write(self, name: str, text: str) -> Path:
        with writing(self.path):
            with replacing(self.path / name) as draft:
                draft.write_text(text, encoding="utf-8", errors="surrogateescape")
            return self.path / name

    def write_refused(self, refused: Sequence[Refused], name: str = "quarantine.csv") -> None:
        """What was left out, and why."""
        rows = [("photo", "class", "reason"), *((one.name, one.label, one.reason) for one in refused)]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self.write(name, text.getvalue())

    def load_state(self) -> dict[str, Any] | None:
        """How far the run is; None without a checkpoint."""
        place = self.path / "checkpoints"
        try:
            found: dict[str, Any] = json.loads((_whole(place, LAST) / STATE).read_text(encoding="utf-8"))
            return found
        except (OSError, ValueError):
            return None

    def is_concluded(self) -> bool:
        """Whether nothing is left to do: not for a run that was killed while its best epoch was being measured."""
        state = self.load_state()
        try:
            measured = json.loads((self.path / EVALUATION).read_text(encoding="utf-8"))["epochs"]
        except (OSError, ValueError, KeyError):
            return False
        return bool(state and state.get("finished") and state["epoch"] == measured)


def _whole(place: Path, name: str) -> Path:
    """Where the checkpoint of that name is: after a kill between two renamings, the newer of two whole ones."""
    current, new, old = place / name, place / f".{name}.new", place / f".{name}.old"
    if current.exists() or not (old / STATE).exists():
        return current
    return new if (new / STATE).exists() else old


def _mend(place: Path, name: str) -> None:
    """After such a kill: put it where it belongs."""
    found = _whole(place, name)
    if found != place / name:
        os.replace(found, place / name)


def _best_of(checkpoint: Path) -> int | None:
    """Which epoch was the best when a checkpoint was written."""
    try:
        found: int | None = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["best"].get("epoch")
        return found
    except (OSError, ValueError, KeyError):
        return None


def _to_disk(file: Path) -> None:
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _usual_rights(file: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    file.chmod(0o666 & ~mask)


@contextmanager
def writing(path: Path, more: str = "; earlier checkpoints are kept") -> Iterator[None]:
    """What the disk refuses, in one line. A checkpoint that is there is not touched by it."""
    try:
        yield
    except OSError as error:
        raise ConvscopeError(f"cannot write {path}: {error.strerror or error}{more}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # its name for a full disk
            raise
        raise ConvscopeError(f"cannot write {path}: {error}{more}") from error


def new_name(model: str, data: str, now: float | None = None) -> str:
    """``<time>-<model>-<data>``, in letters that any file system takes."""
    stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
    parts = (model.rpartition(":")[2].rpartition("/")[2], Path(data).stem if data else "data")
    return "-".join([stamp, *(re.sub(r"[^\w.]+", "_", part).strip("_.")[:40] or "data" for part in parts)])


def unused(parent: Path, name: str) -> Path:
    """A folder's path that nothing has yet: of two runs in one second the later gets a number."""
    path, number = parent / name, 2
    while path.exists():
        path, number = parent / f"{name}-{number}", number + 1
    return path


def point_last(path: Path) -> None:
    """Let ``runs/last`` name a run in ``runs``; where links cannot be made there is none."""
    if path.resolve().parent.name != RUNS.name:
        return
    link = path.parent / "last"
    if link.exists() and not link.is_symlink():
        return  # somebody's own folder
    draft = path.parent / f".last-{os.getpid()}"
    with suppress(OSError, NotImplementedError):
        draft.unlink(missing_ok=True)
        draft.symlink_to(path.name, target_is_directory=True)
        os.replace(draft, link)


def environment() -> dict[str, Any]:
    """What a run was made with."""
    import platform
    import sys
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow"):
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    from convscope import __version__

    return {
        "convscope": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state's tensors by themselves: on the CPU, none sharing memory with another, as safetensors wants them."""
    return {key: value.detach().cpu().contiguous().clone() for key, value in state.items() if isinstance(value, Tensor)}


def fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a checkpoint's tensors into its network; what else its state holds stays as it is."""
    plain = {key: value for key, value in network.state_dict().items() if not isinstance(value, Tensor)}
    network.load_state_dict({**plain, **state})
