"""Checkpoints, read as tensors only: nothing in a file is ever executed."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from convscope.errors import ModelError, UsageError

# Where trainers put the weights inside a checkpoint, and what wrappers put before every name.
NESTS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.")


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a .safetensors file or a PyTorch checkpoint (tensors only, ``weights_only=True``)."""
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"weights {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"weights {path}: holds more than tensors, and running what is in it is not safe; save the tensors alone, "
            "torch.save(model.state_dict(), ...), or as safetensors"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise ModelError(f"weights {path}: not a readable checkpoint ({_line(error)})") from None
    return _unnest(found, path)


def _unnest(found: object, path: Path) -> dict[str, Tensor]:
    for _ in range(3):
        if isinstance(found, Mapping) and found and all(isinstance(v, Tensor) for v in found.values()):
            return dict(found)
        if not isinstance(found, Mapping):
            break
        found = next((found[key] for key in NESTS if isinstance(found.get(key), Mapping)), None)
    raise ModelError(
        f"weights {path}: no state dict found (looked for a dict of tensors, also under {', '.join(NESTS)})"
    )


def load_state(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load ``state`` into ``network``, all of it or nothing; what does not fit is listed."""
    own = network.state_dict()
    state = _unprefix(state, own)
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misfits = [
        f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    lists = {"missing": missing, "unexpected": unexpected, "of another shape": misfits}
    if any(lists.values()):
        problems = "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in lists.items() if keys)
        raise ModelError(f"weights {source} do not fit {type(network).__name__}: {problems}")
    network.load_state_dict(dict(state), strict=False)


def _unprefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes of wrappers (DataParallel, compile, Lightning) while that makes more names fit."""
    state = dict(state)
    for _ in PREFIXES:
        for prefix in PREFIXES:
            if all(key.startswith(prefix) for key in state):
                shorter = {key.removeprefix(prefix): value for key, value in state.items()}
                if len(shorter.keys() & own.keys()) > len(state.keys() & own.keys()):
                    state = shorter
    return state


def _some(keys: list[str], most: int = 8) -> str:
    return ", ".join(keys[:most]) + (f" and {len(keys) - most} more" if len(keys) > most else "")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
