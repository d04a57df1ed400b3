"""Checkpoints, read as tensors only: nothing in a file is ever executed."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from convscope.errors import ModelError, UsageError, some

# Where trainers put the weights inside a checkpoint, averaged ones last, and what wrappers put before every name.
NESTS = (
    *("state_dict", "model_state_dict", "model", "net", "network", "weights"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
)
WRAPPERS = ("module", "_orig_mod", "model", "net", "network")
COUNTERS = ("num_batches_tracked", "n_averaged")  # of BatchNorm, in no old checkpoint; of torch's AveragedModel

# What trainers keep beside the weights: their command line and a score or two. Data alone; none of it can run code.
_scalar = np.float64(0).__reduce__()[0]
PLAIN: list[Any] = [
    *(argparse.Namespace, np.dtype, *{type(np.dtype(code)) for code in "?" + np.typecodes["AllInteger"] + "efd"}),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a PyTorch checkpoint (tensors only, ``weights_only=True``)."""
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"weights {path}: a folder, not a checkpoint; name the file in it")
    if not path.is_file():
        raise UsageError(f"weights {path}: no such file")
    try:
        found = load_file(path) if path.suffix.lower() == ".safetensors" else _load(path)
    except Exception as error:  # readers raise nearly anything on damaged data
        if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL (\S+)", str(error))):
            raise ModelError(
                f"weights {path}: hold more than tensors ({found[1]}), and running what is in there is not safe; save "
                "the tensors alone, torch.save(model.state_dict(), ...), or as safetensors"
            ) from None
        raise ModelError(f"weights {path}: not a checkpoint, or a damaged one ({_reason(error)})") from None
    return _unnest(found, path)


def _load(path: Path) -> object:
    with torch.serialization.safe_globals(PLAIN), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is odd about the file is said once, by the error
        return torch.load(path, map_location="cpu", weights_only=True)


def _unnest(found: object, path: Path) -> dict[str, Tensor]:
    """The tensors by name, wherever they are in what the file holds."""
    for _ in range(4):
        if not isinstance(found, Mapping):
            break
        inner = next((found[key] for key in NESTS if isinstance(found.get(key), Mapping)), None)
        if inner is None:
            state = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
            if state:
                return state
        found = inner
    raise ModelError(
        f"weights {path}: no state dict found (looked for a dict of tensors, also under {', '.join(NESTS)})"
    )


def load_state(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``network``, all of it or nothing; what does not fit is listed."""
    everything = network.state_dict(keep_vars=True)
    own = {key: value for key, value in everything.items() if isinstance(value, Tensor)}
    state = unprefixed(state, own)
    given = {id(own[key]) for key in own if key in state}  # what is tied under two names, safetensors keeps under one
    missing = [key for key in own if key not in state and id(own[key]) not in given and not key.endswith(COUNTERS)]
    unexpected = [key for key in state if key not in own and not key.endswith(COUNTERS)]
    misfits = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and not is_lazy(own[key]) and state[key].shape != own[key].shape
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": misfits}
    if any(lists.values()):
        problems = "; ".join(f"{len(keys)} {kind}: {some(keys, 8)}" for kind, keys in lists.items() if keys)
        raise ModelError(f"weights {source} do not fit {type(network).__name__}: {problems}")
    ordered = OrderedDict(state)
    ordered._metadata = everything._metadata  # type: ignore[attr-defined] # some modules refuse a state without version
    network.load_state_dict(ordered, strict=False)


def unprefixed(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off what wrappers (DataParallel, compile, Lightning) put before the names, where more of them fit then.

    Where all that the network has is there under one prefix, what is beside it is the wrapper's own: a loss's weights,
    a metric's counts.
    """
    best = dict(state)
    for prefix in sorted({prefix for key in state for prefix in _prefixes(key)}):
        inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if len(inside) < len(state) and all(key in inside or key.endswith(COUNTERS) for key in own):
            return inside
        shorter = {key.removeprefix(prefix): value for key, value in state.items()}
        if len(shorter) == len(state) and len(shorter.keys() & own.keys()) > len(best.keys() & own.keys()):
            best = shorter
    return best


def _prefixes(key: str) -> Iterator[str]:
    prefix = ""
    for part in key.split("."):
        if part not in WRAPPERS:
            break
        prefix += part + "."
        yield prefix


def _reason(error: Exception) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines and not lines[0].startswith("Weights only load failed") else type(error).__name__
