"""``convscope.train``: the one call from photos to a run folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from convscope.errors import UsageError, unknown
from convscope.progress import reporting_unless_listened
from convscope.training.config import Config, checked_sections, keyword, read_config, resolve_config
from convscope.training.features import LARGEST
from convscope.training.job import Told, Trained, run
from convscope.training.prepare import Machine
from convscope.training.resume import AUTO, continued, which
from convscope.training.tensorboard import logged


def train(
    source: str | Path | None = None,
    *,
    out: str | Path | None = None,
    config: str | Path | Mapping[str, Any] | None = None,
    resume: str | Path | None = None,
    device: str | torch.device | None = None,
    workers: int | None = None,
    cache: bool = True,
    cache_limit: float | None = None,
    tensorboard: bool = False,
    told: Told | None = None,
    **settings: Any,
) -> Trained:
    """Train a classifier on a user's photos; what comes of it is in the folder ``.folder``, for ``load("run:...")``.

    ``source``: a folder with a folder of photos for each class, a list, IDX files, tar shards or a set by name.
    ``config``: a YAML file, or sections of settings; ``settings``, by their names there, go before it: ``model``,
    ``epochs``, ``lr``, ``augment``, ``unfreeze``, ``split`` and so on. By default a head is trained on the frozen base
    of a pretrained network. ``resume``: a run folder to go on with, or "auto". ``cache_limit``: GiB of features that
    may be kept. ``tensorboard``: also write its files into the run. Returns what the run came to; raises
    ConvscopeError where it cannot be done.
    """
    given = sections(settings)
    if source is not None:
        given.setdefault("data", {})["source"] = str(source)
    held: Mapping[str, Any] = {}
    if config is not None:
        held = checked_sections(config, "config") if isinstance(config, Mapping) else read_config(config)
    place = Path(out) if out is not None else None
    if resume is not None and str(resume) != AUTO:
        for name, value in (("--out", out), ("--config", config)):
            if value is not None:
                raise UsageError(f"--resume goes on with a run's own folder and settings: leave {name} out")
    wanted = {name: {**held.get(name, {}), **given.get(name, {})} for name in Config.model_fields}
    if str(given.get("model", {}).get("spec", "")).startswith("run:"):  # a run's network, whatever a file begins with
        wanted["model"] = given["model"]
    begun = resolve_config(wanted, {})  # what is wrong with a setting shows before anything is compared
    told = told or Told()
    going = which(str(resume), place, wanted, told.remark) if resume is not None else None
    made: Config = continued(going, wanted) if going is not None else begun
    if not made.data.source:
        raise UsageError("no photos are named: give a folder with a folder for each class")
    if cache_limit is not None and not 0 < cache_limit < math.inf:
        raise UsageError(f"cache_limit is GiB of features, more than 0: got {cache_limit}; cache=False keeps none")
    machine = Machine(
        torch.device(device) if device is not None else None,
        workers,
        cache,
        LARGEST if cache_limit is None else int(cache_limit * 2**30),
    )
    with reporting_unless_listened():
        return run(made, out=place, resume=going, machine=machine, told=logged(told) if tensorboard else told)


def sections(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings by their names -> by section."""
    homes = {
        keyword(section, name): (section, name)
        for section, field in Config.model_fields.items()
        for name in getattr(field.annotation, "model_fields", {})
        if name != "digest"  # a run's own
    }
    found: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        if name not in homes:
            raise unknown("setting", name, homes)
        if value is not None:
            section, own = homes[name]
            found.setdefault(section, {})[own] = str(value) if isinstance(value, Path) else value
    return found
