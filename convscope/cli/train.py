"""``convscope train``: photos to a run folder."""

from __future__ import annotations

import math
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convscope.cli.data import DATA, SOURCE, ClassNames, DataChoice
from convscope.cli.options import NETWORK, Background, Device, Json, Mean, Options, Size, Std, flag, option
from convscope.cli.output import emit, note, say, stdout
from convscope.cli.values import assignment, canvas, device_named, listed, numbers
from convscope.errors import UsageError

if TYPE_CHECKING:
    from convscope.training.job import Epoch, Told, Trained

LEARNING, RUN = "Learning", "Run"  # panels of help
SINGULAR = {"rates": "rate", "options": "option"}  # what may be repeated is called by what is given each time


@dataclass(frozen=True, kw_only=True)
class Start:
    """The network that training starts from."""

    model: Annotated[
        str | None,
        option(
            NETWORK,
            "MODEL",
            "Such as convscope:vgg16_gap, torchvision:resnet18, net.py:Net; @random to start without trained weights. "
            "By default convscope:efficientnet_lite0.",
        ),
    ] = None
    from_: Annotated[str | None, option(NETWORK, "RUN", "Train on from a run's network.", "--from")] = None
    weights: Annotated[str | None, option(NETWORK, "FILE", "Trained weights to begin with, as far as they fit.")] = None
    size: Size = None
    head: Annotated[str | None, option(NETWORK, "KIND", "softmax, or binary for a single output; default auto.")] = None
    batch_norm: Annotated[bool, flag(NETWORK, "BatchNorm after each convolution.", "--batch-norm")] = False
    dropout: Annotated[float | None, option(NETWORK, "SHARE", "Change the share of every dropout.")] = None
    options: Options = None
    mean: Mean = None
    std: Std = None

    def settings(self) -> dict[str, Any]:
        if self.from_ is not None and self.model is not None:
            raise UsageError("--from names a run whose network goes on, --model another network: give one of them")
        if self.from_ is not None and self.weights is not None:
            raise UsageError("--from begins with a run's weights, --weights with others: give one of them")
        options = dict(assignment("--option", text) for text in self.options or ())
        if self.batch_norm:
            options["batch_norm"] = True
        model = self.model
        if self.from_ is not None:
            model = f"run:{self.from_.removeprefix('run:')}"
        return {
            "model": model,
            "weights": self.weights,
            "size": canvas(self.size),
            "head": self.head,
            "dropout": self.dropout,
            "options": options or None,
            "mean": numbers("--mean", self.mean),
            "std": numbers("--std", self.std),
        }


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How it learns."""

    epochs: Annotated[int | None, option(LEARNING, "N", "Default: 40 of a head, 10 of a trained network, else 30.")] = (
        None
    )
    batch_size: Annotated[int | None, option(LEARNING, "N", "Photos a step; default 32.")] = None
    optimizer: Annotated[str | None, option(LEARNING, "NAME", "adamw (default), sgd or rmsprop.")] = None
    lr: Annotated[float | None, option(LEARNING, "RATE", "Learning rate.")] = None
    rates: Annotated[
        list[str] | None,
        option(LEARNING, "GLOB=RATE", "Some layers' own learning rate; may be repeated.", "--rate"),
    ] = None
    schedule: Annotated[str | None, option(LEARNING, "NAME", "cosine (default), constant or plateau.")] = None
    warmup: Annotated[float | None, option(LEARNING, "EPOCHS", "Over which the rate rises from 0.")] = None
    momentum: Annotated[float | None, option(LEARNING, "M", "Of sgd and rmsprop; default 0.")] = None
    weight_decay: Annotated[float | None, option(LEARNING, "W", "Default .01 for adamw, else 0.")] = None
    patience: Annotated[int | None, option(LEARNING, "N", "Stop after so many epochs without a better loss.")] = None
    clip: Annotated[float | None, option(LEARNING, "NORM", "The gradient's largest norm.")] = None
    max_filter_rms: Annotated[float | None, option(LEARNING, "RMS", "Rescale filters that exceed it (ZFNet: .1).")] = (
        None
    )
    label_smoothing: Annotated[float | None, option(LEARNING, "SHARE", "Such as .1.")] = None
    balance: Annotated[
        str | None, option(LEARNING, "HOW", "For classes of unequal size: weights (in the loss) or sampling.")
    ] = None
    augment: Annotated[
        str | None,
        option(LEARNING, "WHAT", "none, light, standard, strong, or by name: rotation=40,shift=.2,zoom=.2,flip."),
    ] = None
    unfreeze: Annotated[
        list[str] | None,
        option(LEARNING, "LAYERS", "What learns beside the head: a glob, @stage:-1, or * for all; may be repeated."),
    ] = None
    freeze: Annotated[list[str] | None, option(LEARNING, "LAYERS", "What does not learn; may be repeated.")] = None
    drop_last: Annotated[bool, flag(LEARNING, "Leave out an epoch's last, smaller batch.", "--drop-last")] = False
    keep: Annotated[
        int | None, option(RUN, "N", "Let the weights of every N-th epoch stay, for `convscope atlas --evolve`.", min=1)
    ] = None
    precision: Annotated[str | None, option(LEARNING, "NAME", "fp32, bf16 or fp16; default bf16 on a GPU.")] = None
    split: Annotated[
        str | None, option(DATA, "A/B/C", "Shares of train, val and test (default 70/15/15), or a run's split.csv.")
    ] = None
    subset: Annotated[str | None, option(DATA, "A/B/C", "So many photos of each class instead: 1000/500/500.")] = None
    seed: Annotated[int | None, option(LEARNING, "N", "Of the split, the weights, the order; default 0.")] = None

    def settings(self) -> dict[str, Any]:
        found = {name: value for name, value in vars(self).items() if name not in ("rates", "unfreeze", "freeze")}
        rates = dict(assignment("--rate", text) for text in self.rates or ())
        if wrong := [f"{name}={rate}" for name, rate in rates.items() if not isinstance(rate, int | float)]:
            raise UsageError(f"--rate {wrong[0]}: write LAYERS=RATE, such as 'features.*=1e-5'")
        several = {
            name: [part for text in getattr(self, name) or () for part in listed(text)] or None
            for name in ("unfreeze", "freeze")
        }
        return {**found, **several, "rates": rates or None, "drop_last": self.drop_last or None}


@dataclass(frozen=True, kw_only=True)
class Watching:
    """Features while they grow."""

    evolve: Annotated[
        str | None,
        option(RUN, "N|A,B,...", "Snapshots of units every N iterations, or at epochs written as e1,e2,e5."),
    ] = None
    evolve_units: Annotated[str | None, option(RUN, "LAYER:UNITS", "Which units; may be several, with blanks.")] = None
    evolve_patterns: Annotated[
        int | None, option(RUN, "STEPS", "Also what each unit wants, a pattern of so many steps of ascent.", min=1)
    ] = None

    def settings(self) -> dict[str, Any]:
        if self.evolve is None:
            for name, given in (("units", self.evolve_units), ("patterns", self.evolve_patterns)):
                if given is not None:
                    raise UsageError(
                        f"--evolve-{name} are of the snapshots of --evolve: say when, such as --evolve 100"
                    )
            return {}
        parts = listed(self.evolve)
        epochs = all(part.startswith("e") for part in parts)
        try:
            at = [int(part[1:] if epochs else part) for part in parts]
        except ValueError:
            at = []
        if not at or min(at) < 1:
            raise UsageError(
                f"--evolve {self.evolve!r}: write a number of iterations, such as 893, or epochs: e1,e2,e5"
            )
        return {
            "evolve": at[0] if len(at) == 1 and not epochs else at,
            "evolve_epochs": epochs or None,
            "evolve_units": self.evolve_units.split() if self.evolve_units else None,
            "evolve_patterns": self.evolve_patterns,
        }


@dataclass(frozen=True, kw_only=True)
class Carrying:
    """How the run is carried out."""

    out: Annotated[
        Path | None, option(RUN, "DIR", "The run's folder; by default runs/<time>-<model>-<data>. Never overwritten.")
    ] = None
    config: Annotated[Path | None, option(RUN, "FILE", "Settings in YAML; options go before them.")] = None
    resume: Annotated[
        str | None, option(RUN, "RUN|auto", "Go on with an interrupted run; auto begins one if there is none.")
    ] = None
    workers: Annotated[int | None, option(RUN, "N", "Processes that read photos; by default one a core.", min=0)] = None
    no_cache: Annotated[bool, flag(RUN, "Run a frozen base in every epoch instead of once.", "--no-cache")] = False
    cache_limit: Annotated[float | None, option(RUN, "GIB", "Most features to keep; default 4.")] = None
    tensorboard: Annotated[bool, flag(RUN, "Also write TensorBoard's files.", "--tensorboard")] = False

    def settings(self) -> dict[str, Any]:
        if self.cache_limit is not None and not 0 < self.cache_limit < math.inf:
            hint = "--no-cache runs the base in every epoch instead, and keeps no features"
            raise UsageError(f"--cache-limit {self.cache_limit:g} is no number of GiB above 0; {hint}")
        return {
            "out": self.out,
            "config": self.config,
            "resume": self.resume,
            "workers": self.workers,
            "cache": not self.no_cache,
            "cache_limit": self.cache_limit,
            "tensorboard": self.tensorboard,
        }


def train(
    photos: Annotated[str | None, typer.Argument(metavar="PHOTOS", help=SOURCE, show_default=False)] = None,
    *,
    data: DataChoice,
    named: ClassNames,
    start: Start,
    learning: Learning,
    watching: Watching,
    carrying: Carrying,
    device: Device = None,
    background: Background = None,
    json: Json = False,
) -> None:
    """Train a classifier on your photos.

    By default a head on the frozen base of a pretrained network, whose features are computed once: seconds, not hours.
    """
    settings = {
        "classes": named.names(),
        **data.settings(),
        **start.settings(),
        **learning.settings(),
        **watching.settings(),
        "background": background,
    }
    carried = carrying.settings()
    device_found = device_named(device)
    from convscope.cli.process import asked_to_end
    from convscope.progress import ConsoleProgress, reporting
    from convscope.training.api import train as trained
    from convscope.training.config import WrongSetting

    try:
        with asked_to_end() as wanted, reporting(ConsoleProgress(), cancel=wanted):
            found = trained(photos, device=device_found, told=_teller(json), **carried, **settings)
    except WrongSetting as error:
        if settings.get(error.name) is None:
            raise
        raise UsageError(f"{_option(error.name)}{error.text}") from None
    if not found.leads:
        return
    if json:
        emit(_about(found))
    else:
        _conclude(found)


def _option(setting: str) -> str:
    """The option that gives a setting."""
    return f"--{SINGULAR.get(setting, setting).replace('_', '-')}"


def _teller(json: bool) -> Told:
    """Epochs as lines of a table, one a second at most but for the first and last."""
    from convscope.training.job import Told

    last = [0.0]

    def epoch(found: Epoch) -> None:
        row, done, config = found.row, found.done, found.config
        if row["epoch"] == 1 or not last[0]:
            say(f"{'epoch':>9}  {'train loss':>10}  {'accuracy':>8}  {'val loss':>8}  {'accuracy':>8}  {'rate':>8}")
        if row["epoch"] != 1 and not done.finished and time.monotonic() - last[0] < 1:
            return
        last[0] = time.monotonic()
        cells = [f"{row['epoch']}/{config.training.epochs}".rjust(9), f"{row['train_loss']:10.4f}"]
        cells += [_share(row["train_accuracy"])]
        cells += [" " * 8 if row["val_loss"] is None else f"{row['val_loss']:8.4f}", _share(row["val_accuracy"])]
        best = "  best" if done.best.get("epoch") == row["epoch"] else ""
        say("  ".join([*cells, f"{row['lr']:8.2g}"]) + best)

    return Told(note, (lambda found: None) if json else epoch)


def _share(value: float | None) -> str:
    return " " * 8 if value is None else f"{value:8.1%}"


def _about(found: Trained) -> dict[str, Any]:
    metrics = found.metrics.as_dict() if found.metrics is not None else None
    if metrics is not None:
        for name in ("confusion", "top_losses"):  # evaluation.json has them
            metrics.pop(name, None)
    return {
        "run": str(found.folder),
        "epochs": len(found.rows),
        "best": found.progress.best,
        "measured_on": found.measured,
        "metrics": metrics,
        "remarks": found.remarks,
    }


def _conclude(found: Trained) -> None:
    say()
    pictures = "curves.png, README.md"
    if found.metrics is not None:
        low, high = found.metrics.accuracy_interval.low, found.metrics.accuracy_interval.high
        told = "test photos, which had no part in training"
        if found.measured == "val":
            told = "validation photos, which chose the epoch"
        elif found.seen:
            told = f"test photos, {found.seen:,} of which an earlier run had learned from"
        count = f"{found.metrics.count:,}"
        say(f"accuracy {found.metrics.accuracy:.1%} ({low:.1%} to {high:.1%}) on {count} {told}")
        pictures = "curves.png, confusion.png, README.md"
    say(f"{found.folder}: {pictures}; try it:")
    say(f"  convscope explain {shlex.quote(f'run:{found.folder}')} PHOTO")
    stdout().flush()
