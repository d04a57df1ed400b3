"""Everything that a run depends on, checked: what ``config.yaml`` holds and the command line sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from convscope.errors import UsageError, unknown


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Model(Section):
    """Which network, and how it starts."""

    spec: str = "convscope:efficientnet_lite0"
    weights: str | None = None  # a checkpoint to begin with
    options: dict[str, Any] = Field(default_factory=dict)
    size: int | tuple[int, int] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    head: Literal["auto", "softmax", "binary"] = "auto"
    dropout: float | None = Field(default=None, ge=0, lt=1)  # changes every dropout of the network


class Data(Section):
    """Which photos, and which of them are for what."""

    source: str = ""
    root: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    group: str | None = None
    classes: list[str] | None = None
    split: str | None = None  # "70/15/15"
    subset: str | None = None  # "1000/500/500" a class
    background: str = "white"
    download: bool = False
    digest: str | None = None  # of the photos that a run began with


class Training(Section):
    """How it learns. What is None is chosen by what learns: a head, a trained network or a new one."""

    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    drop_last: bool = False
    optimizer: Literal["sgd", "adamw", "rmsprop"] = "adamw"
    lr: float | None = Field(default=None, gt=0)
    momentum: float = Field(default=0.0, ge=0, lt=1)  # of sgd and rmsprop
    weight_decay: float | None = Field(default=None, ge=0)  # of weights alone, not of biases and normalisation
    rates: dict[str, float] = Field(default_factory=dict)  # a glob of parameters -> their own lr
    schedule: Literal["constant", "plateau", "cosine"] | None = None
    warmup: float = Field(default=0.0, ge=0)  # epochs over which lr rises from 0
    plateau: int = Field(default=5, ge=1)  # epochs without a better val_loss, after which lr is divided
    plateau_factor: float = Field(default=0.1, gt=0, lt=1)
    patience: int | None = Field(default=None, ge=1)  # epochs without a better val_loss, after which training ends
    clip: float | None = Field(default=None, gt=0)  # the largest norm of the gradient
    max_filter_rms: float | None = Field(default=None, gt=0)  # ZFNet: 0.1
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    balance: Literal["none", "weights", "sampling"] = "none"
    augment: str = "none"
    unfreeze: list[str] | None = None
    freeze: list[str] = Field(default_factory=list)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("augment")
    @classmethod
    def _known(cls, text: str) -> str:
        from convscope.data.augment import augmentation

        return str(augmentation(text))


class Evolution(Section):
    """Snapshots of units while they learn."""

    at: int | list[int] | None = None  # every so many iterations; or a list
    epochs: bool = False  # count epochs instead of iterations
    units: list[str] = Field(default_factory=list)
    photos: int = Field(default=1000, ge=1)  # training photos among which the strongest is looked for
    method: str = "deconvnet"


class Config(Section):
    """A run's settings. ``Config.read`` takes a file with any part of them."""

    model: Model = Model()
    data: Data = Data()
    training: Training = Training()
    evolution: Evolution = Evolution()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.data.split and self.data.subset:
            raise ValueError("split and subset both say which photos are for what: give one of them")
        return self


def resolve_config(given: dict[str, Any] | None, overrides: dict[str, dict[str, Any]]) -> Config:
    """Settings of a file, with those of the command line over them; what is wrong is one line that says so."""
    merged: dict[str, Any] = {name: dict(section or {}) for name, section in (given or {}).items()}
    for name, section in overrides.items():
        merged.setdefault(name, {}).update({key: value for key, value in section.items() if value is not None})
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _in_words(error) from None


def read_config(path: str | Path) -> dict[str, Any]:
    """The sections of a YAML file: a part of the settings, or the config.yaml of a run."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except yaml.YAMLError as error:
        raise UsageError(f"--config {path}: not YAML ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(found, dict):
        raise UsageError(f"--config {path}: expected sections such as training: with settings in them")
    for name, section in found.items():
        if name not in Config.model_fields:
            raise unknown("section", str(name), Config.model_fields, f"of {path}")
        if not isinstance(section, dict | None):
            raise UsageError(f"--config {path}: {name} is a section, with settings in it")
    if model := found.get("model"):
        # A run's own file also says what its model became; what it began as is all that training needs.
        found["model"] = {key: value for key, value in model.items() if key in Model.model_fields}
        if "num_classes" in (options := found["model"].get("options") or {}):
            found["model"]["options"] = {key: value for key, value in options.items() if key != "num_classes"}
    return found


def _in_words(error: ValidationError) -> UsageError:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden" and len(place) == 2:
        section = Config.model_fields[place[0]].annotation
        return unknown(f"setting of {place[0]}", place[1], getattr(section, "model_fields", {}))
    cause = first.get("ctx", {}).get("error")
    reason = str(cause) if cause else first["msg"][0].lower() + first["msg"][1:]
    value = f", got {first['input']!r}" if not isinstance(first["input"], dict) and not cause else ""
    name = ".".join(place)
    return UsageError(f"{name}: {reason}{value}" if name else reason)
