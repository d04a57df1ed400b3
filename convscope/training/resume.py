"""Going on with a run: which one, and that it is the same job."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from convscope.errors import UsageError
from convscope.models.run import CONFIG
from convscope.training.config import Config, read_config, resolve_config
from convscope.training.folder import RUNS, RunFolder
from convscope.training.learned import LEARNED

AUTO = "auto"
STARTED = {CONFIG, "classes.json", "split.csv", "environment.json", "quarantine.csv", LEARNED, "checkpoints"}
MORE = {("training", "epochs"), ("training", "patience")}  # what a run that goes on may have more of


def which(resume: str, out: Path | None, given: Mapping[str, Mapping[str, Any]]) -> Path | None:
    """The run that ``--resume`` means; None where "auto" finds none to go on with.

    "auto" is ``out`` if that is a run, else the last one, if it is the same job and not done.
    """
    if resume != AUTO:
        path = Path(resume.removeprefix("run:"))
        if not (path / CONFIG).is_file():
            raise UsageError(f"--resume {resume}: not a run folder; name one, or auto")
        return path.resolve()
    if out is not None:
        return out.resolve() if (out / "checkpoints").is_dir() and RunFolder(out).load_state() is not None else None
    last = RUNS / "last"
    if not (last / CONFIG).is_file() or RunFolder(last).load_state() is None:
        return None
    return last.resolve() if not differences(last, given) and not RunFolder(last).is_finished() else None


def differences(path: Path, given: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where settings that are given now are not those of the run."""
    before = _settings(path)
    found = []
    for section, settings in given.items():
        for name, value in settings.items():
            if (section, name) in MORE or (section, name) == ("model", "spec"):
                continue
            held = before.get(section, {}).get(name)
            if value is not None and not _same(name, value, held):
                found.append(f"{section}.{name} is {held!r} there and {value!r} here")
    return found


def continued(path: Path, given: Mapping[str, Mapping[str, Any]]) -> Config:
    """The settings of a run that goes on: its own, with more epochs if more are asked for."""
    if found := differences(path, given):
        raise UsageError(
            f"{path} was begun with other settings: {'; '.join(found[:4])}; leave them out, or start a new run"
        )
    more = {name: given.get(section, {}).get(name) for section, name in MORE}
    return resolve_config(_settings(path), {"training": more})


def clear_unbegun(out: Path) -> None:
    """Remove a run that was killed before its first checkpoint, which has nothing to go on from; nothing else."""
    if (out / CONFIG).is_file() and RunFolder(out).load_state() is None:
        names = {place.name for place in out.iterdir()}
        if names <= STARTED and not any(place.name[0] != "." for place in (out / "checkpoints").glob("*")):
            shutil.rmtree(out)


def update_config(folder: RunFolder, config: Config) -> None:
    """Let a run's config.yaml say what it goes on with."""
    text = (folder.path / CONFIG).read_text(encoding="utf-8")
    held = yaml.safe_load(text)
    for section, name in MORE:
        held[section][name] = getattr(getattr(config, section), name)
    changed = yaml.safe_dump(held, sort_keys=False, allow_unicode=True)
    if changed != text:
        folder.write(CONFIG, changed)


def _settings(path: Path) -> dict[str, Any]:
    return read_config(path / CONFIG)


def _same(name: str, value: Any, held: Any) -> bool:
    if name == "source":
        return str(Path(value).expanduser().resolve()) == held or value == held
    if name == "size" and isinstance(value, int):
        return held in (value, [value, value], (value, value))
    if name == "augment":
        from convscope.data.augment import augmentation

        return str(augmentation(value)) == held
    if isinstance(value, Mapping) and isinstance(held, Mapping):
        return all(held.get(key) == one for key, one in value.items())
    return bool(list(value) == list(held)) if isinstance(value, list | tuple) and held else bool(value == held)
