"""Everything that a run depends on, checked: what ``config.yaml`` holds and the command line sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator, model_validator

from convscope.errors import UsageError, unknown

BOUNDS = {  # pydantic's names, in words, and what the bound is called there
    "greater_than": ("greater than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
KINDS = {  # how pydantic's names begin
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "string": "text",
    "bool": "true or false",
    "list": "a list",
    "dict": "names with values",
}


class WrongSetting(UsageError):
    """A setting cannot be what it is. ``name``: what ``train`` calls it; ``text``: what is wrong, to follow a name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}{text}")
        self.name, self.text = name, text


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Model(Section):
    """Which network, and how it starts."""

    spec: str = "convscope:efficientnet_lite0"
    weights: str | None = None  # a checkpoint to begin with
    options: dict[str, Any] = Field(default_factory=dict)
    size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = Field(
        default=None, description="a side such as 224, or height and width such as [96, 128]"
    )
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
    split: str | None = None  # "70/15/15", or a run's split.csv
    subset: str | None = None  # "1000/500/500" a class
    background: str | None = None  # by default that of the run it goes on from, else white
    download: bool = False
    digest: str | None = None  # of the photos that a run began with

    @field_validator("background")
    @classmethod
    def _colour(cls, text: str | None) -> str | None:
        from convscope.images.convert import paper_colour

        try:
            if text is not None:
                paper_colour(text)
        except UsageError as error:
            raise ValueError(str(error)) from None
        return text


class Training(Section):
    """How it learns. What is None is chosen by what learns: a head, a trained network or a new one."""

    epochs: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=32, ge=1)
    drop_last: bool = False
    optimizer: str = "adamw"  # of optimizers.OPTIMIZERS
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
    keep: int | None = Field(default=None, ge=1)  # the weights of every so many epochs stay, to see what became of them
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("optimizer")
    @classmethod
    def _there(cls, name: str) -> str:
        from convscope.training.optimizers import OPTIMIZERS

        if name not in OPTIMIZERS:
            raise ValueError(str(unknown("optimizer", name, OPTIMIZERS)))
        return name

    @field_validator("augment")
    @classmethod
    def _known(cls, text: str) -> str:
        from convscope.data.augment import augmentation

        try:
            return str(augmentation(text))
        except UsageError as error:  # for pydantic, which says of which setting
            raise ValueError(str(error)) from None


class Evolution(Section):
    """Snapshots of units while they learn."""

    at: PositiveInt | list[PositiveInt] | None = Field(
        default=None, description="a number of iterations, or a list of those at which snapshots are taken"
    )
    epochs: bool = False  # count epochs instead of iterations
    units: list[str] = Field(default_factory=list)
    photos: int = Field(default=1000, ge=1)  # training photos among which the strongest is looked for
    method: str = "deconvnet"
    patterns: int | None = Field(default=None, ge=1)  # steps of gradient ascent, for a pattern of each unit


class Config(Section):
    """A run's settings. ``read_config`` takes a file with any part of them."""

    model: Model = Model()
    data: Data = Data()
    training: Training = Training()
    evolution: Evolution = Evolution()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.data.split and self.data.subset:
            raise ValueError("split and subset both say which photos are for what: give one of them")
        return self


def resolve_config(given: Mapping[str, Any] | None, overrides: Mapping[str, Mapping[str, Any]]) -> Config:
    """Settings, with ``overrides`` that are not None over them. WrongSetting, by its name for ``train``, if one cannot
    be what it is."""
    merged: dict[str, Any] = {name: dict(section or {}) for name, section in (given or {}).items()}
    for name, section in overrides.items():
        merged.setdefault(name, {}).update({key: value for key, value in section.items() if value is not None})
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _in_words(error) from None


def keyword(section: str, name: str) -> str:
    """What ``train`` calls a setting."""
    if section == "evolution":
        return "evolve" if name == "at" else f"evolve_{name}"
    return "model" if (section, name) == ("model", "spec") else name


def read_config(path: str | Path) -> dict[str, dict[str, Any]]:
    """The sections of a user's YAML file, which may be a run's config.yaml; what is wrong is said with its place."""
    return checked_sections(sections_of(path), str(path))


def checked_sections(found: Mapping[str, Any], what: str) -> dict[str, dict[str, Any]]:
    """Sections of settings, of which each may be empty or missing; ``what`` they are of is said with what is wrong."""
    made = _sections(found, what)
    try:
        Config.model_validate(made)
    except ValidationError as error:
        raise _in_words(error, what) from None
    return made


def sections_of(path: str | Path) -> dict[str, dict[str, Any]]:
    """The sections of a YAML file as they stand: for a run's config.yaml, which another version may have written."""
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())[:200]}") from None
    return _sections(found, str(path))


def _sections(found: Any, what: str) -> dict[str, dict[str, Any]]:
    if not isinstance(found, Mapping):
        raise UsageError(f"{what}: expected sections such as training: with settings in them")
    made: dict[str, dict[str, Any]] = {}
    for name, section in found.items():
        if name not in Config.model_fields:
            homes = [home for home, one in Config.model_fields.items() if name in _settings_of(one)]
            if homes:
                raise UsageError(f"{what}: {name} is a setting of the section {homes[0]}: write it there")
            raise unknown("section", str(name), Config.model_fields, f"of {what}")
        if not isinstance(section, Mapping | None):
            raise UsageError(f"{what}: {name} is a section, with settings in it")
        made[name] = dict(section or {})
    model = made.get("model", {})
    if "interpolation" in model:  # a run's own file says what its model became, and all it needs is how it began
        made["model"] = _as_begun(model)
    return made


def _settings_of(section: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = getattr(section.annotation, "model_fields", {})
    return found


def _as_begun(model: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in model.items() if key in Model.model_fields}
    if str(model.get("begun_from", "")).startswith("run:"):  # which has the options
        return {**kept, "spec": model["begun_from"], "options": {}}
    options = dict(kept.get("options") or {})
    if options.get("num_classes") != 1:  # else it is that of the photos; a single output for two is a choice
        options.pop("num_classes", None)
    return {**kept, "options": options}


def _in_words(error: ValidationError, what: str = "") -> UsageError:
    """The first thing that is wrong, without pydantic's words: of a file, or of what ``train`` was given."""
    first = error.errors()[0]
    kind, context = first["type"], first.get("ctx", {})
    cause = context.get("error")
    if len(first["loc"]) < 2:  # how settings go together
        return UsageError((f"{what}: " if what else "") + str(cause or first["msg"]))
    section, name, *inner = map(str, first["loc"])
    settings = getattr(Config.model_fields[section].annotation, "model_fields", {})
    if name not in settings:
        return unknown(f"setting of {section}", name, settings, f"of {what}" if what else "")
    words = settings[name].description  # where several types are possible
    entry = f"[{first['loc'][2]!r}]" if inner and not words else ""
    words = words or _in_plain(kind, context)
    text = f" must be {words}, got {_shown(first['input'])}" if words else f": {cause or first['msg']}"
    if what:
        return UsageError(f"{section}.{name}{entry} of {what}{text}")
    return WrongSetting(keyword(section, name), entry + text)


def _in_plain(kind: str, context: Mapping[str, Any]) -> str:
    """What a value must be, by the name of pydantic's error; empty where that says it itself."""
    if kind in BOUNDS:
        words, bound = BOUNDS[kind]
        return f"{words} {_shown(context[bound])}"
    if kind == "literal_error":
        return str(context["expected"]).replace("'", "")
    return KINDS.get(kind.partition("_")[0], "")


def _shown(value: Any) -> str:
    text = repr(value).removesuffix(".0")
    return text if len(text) <= 80 else f"{text[:80]}..."
