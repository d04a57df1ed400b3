"""Going on with a run: which one, and that it is the same job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from convscope.errors import UsageError
from convscope.models.registry import lasting, lasting_spec, parse
from convscope.models.run import CONFIG, model_section
from convscope.training.config import Config, resolve_config, sections_of
from convscope.training.folder import RUNS, RunFolder

AUTO = "auto"
MORE = {("training", "epochs"), ("training", "patience")}  # what a run that goes on may have more of
# The same from whatever folder they are named.
PLACES = {("data", "source"), ("data", "root"), ("data", "split"), ("model", "weights")}


def which(
    resume: str,
    out: Path | None,
    given: Mapping[str, Mapping[str, Any]],
    tell: Callable[[str], None] = lambda reason: None,
) -> Path | None:
    """The run that ``--resume`` means; None where "auto" finds none to go on with, and tells why.

    "auto" is ``out`` if that is a run, else the last one, if it is the same job and not done.
    """
    if resume != AUTO:
        path = Path(resume.removeprefix("run:"))
        if not (path / CONFIG).is_file():
            raise UsageError(f"--resume {resume}: not a run folder; name one, or auto")
        return path.resolve()
    if out is not None:
        return out.resolve() if _begun(out) else None
    last = RUNS / "last"
    if not (last / CONFIG).is_file() or not _begun(last):
        return None
    if found := differences(last, given):
        tell(f"a new run begins: the last one, {last.resolve().name}, is another job ({found[0]})")
        return None
    state, epochs = RunFolder(last).load_state(), given.get("training", {}).get("epochs")
    more = state is not None and epochs is not None and epochs > state["epoch"]
    if more or not RunFolder(last).is_concluded():
        return last.resolve()
    tell(f"a new run begins: the last one, {last.resolve().name}, is done")
    return None


def _begun(path: Path) -> bool:
    return (path / "checkpoints").is_dir() and RunFolder(path).load_state() is not None


def differences(path: Path, given: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Where settings that are given now are not those of the run."""
    before = _settings(path)
    found = []
    for section, settings in given.items():
        for name, value in settings.items():
            if value is None or (section, name) in MORE:
                continue
            held = before.get(section, {}).get(name)
            if (section, name) == ("model", "spec"):
                same, held = _same_start(str(value), path)
            elif (section, name) in PLACES:
                same = value == held or lasting(str(value)) == held
            else:
                same = _same(name, value, held)
            if not same:
                found.append(f"{section}.{name} is {held!r} there and {value!r} here")
    return found


def _same_start(spec: str, path: Path) -> tuple[bool, str]:
    """Whether a run began with the model that is named now, and what it began with."""
    model = model_section(path)
    run = str(model.get("begun_from", ""))
    if not run.startswith("run:"):
        return lasting_spec(spec) == model["spec"], model["spec"]
    if parse(spec)[0] != "run":
        return False, run
    # The same command once more: by now runs/last may be the very run that it began.
    return lasting_spec(spec) in (run, f"run:{path.resolve()}"), run


def continued(path: Path, given: Mapping[str, Mapping[str, Any]]) -> Config:
    """The settings of a run that goes on: its own, with more epochs if more are asked for."""
    moved = given.get("data", {}).get("source")  # whether they are the same photos, their contents tell
    elsewhere = {**given, "data": {**given.get("data", {}), "source": None}}
    if found := differences(path, elsewhere):
        raise UsageError(
            f"{path} was begun with other settings: {'; '.join(found[:4])}; leave them out, or start a new run"
        )
    more = {name: given.get(section, {}).get(name) for section, name in MORE}
    state = RunFolder(path).load_state()
    if state is not None and more["epochs"] is not None and more["epochs"] < state["epoch"]:
        raise UsageError(
            f"{path} has done {state['epoch']} epochs already: --epochs {more['epochs']} is less than that"
        )
    return resolve_config(_settings(path), {"training": more, "data": {"source": moved and lasting(str(moved))}})


def update_config(folder: RunFolder, config: Config) -> None:
    """Let a run's config.yaml say what it goes on with."""
    text = (folder.path / CONFIG).read_text(encoding="utf-8")
    held = yaml.safe_load(text)
    for section, name in MORE:
        held[section][name] = getattr(getattr(config, section), name)
    held["data"]["source"] = config.data.source
    changed = yaml.safe_dump(held, sort_keys=False, allow_unicode=True)
    if changed != text:
        folder.write(CONFIG, changed)


def _settings(path: Path) -> dict[str, Any]:
    return sections_of(path / CONFIG)


def _same(name: str, value: Any, held: Any) -> bool:
    if name in ("mean", "std") and held:  # one number is for all channels
        return list(value) * (len(held) // len(value)) == list(held)
    if name == "size" and isinstance(value, int):
        return held in (value, [value, value], (value, value))
    if name == "augment":
        from convscope.data.augment import augmentation

        return str(augmentation(value)) == held
    if isinstance(value, Mapping) and isinstance(held, Mapping):
        return all(held.get(key) == one for key, one in value.items() if key != "num_classes")
    if isinstance(value, list | tuple) and isinstance(held, list | tuple):
        return list(value) == list(held)
    return bool(value == held)
