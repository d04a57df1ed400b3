"""What options say, read from their text; what cannot be read is refused with an example."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from convscope.errors import ConvscopeError, UsageError

if TYPE_CHECKING:
    from convscope.scope import Scope


def listed(text: str) -> list[str]:
    """The parts of a comma-separated list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def listed_layers(text: str) -> list[str]:
    """Layer patterns between commas."""
    from convscope.instrument import address  # not sooner: torch comes with it

    return address.listed_layers(text)


def numbers(option: str, text: str | None) -> list[float] | None:
    """``.5,.5,.5`` as numbers."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{option} {text!r} is not numbers with commas between them, such as .5,.5,.5") from None


def canvas(text: str | None, option: str = "--size") -> int | tuple[int, int] | None:
    """``224``, or height and width as ``96x128``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if match is None or "0" in match.groups():
        raise UsageError(f"{option} {text!r} is neither a side such as 224 nor height and width such as 96x128")
    return int(match[1]) if match[2] is None else (int(match[1]), int(match[2]))


def assignment(option: str, text: str) -> tuple[str, Any]:
    """``name=value``, the value as Python would read it, or else as text."""
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"{option} {text!r} is not of the form name=value")
    words = {"true": True, "false": False, "none": None}
    if value.lower() in words:
        return name.strip(), words[value.lower()]
    try:
        return name.strip(), ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return name.strip(), value


def device_named(text: str | None) -> Any:
    """A device that is there; None for the best one."""
    if text is None:
        return None
    import torch

    try:
        device = torch.device(text)
    except RuntimeError:
        raise UsageError(f"--device {text!r} is not a device: cpu, cuda, cuda:1 or mps") from None
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there.get(device.type, 0):
        names = ["cpu", *(f"cuda:{i}" for i in range(there["cuda"])), *["mps"] * there["mps"]]
        raise ConvscopeError(f"--device {text}: there is no such device here, only {', '.join(names)}")
    return device


def layer_paths(scope: Scope, patterns: Sequence[str]) -> list[str]:
    """The layers that patterns select, each once, in the order asked for."""
    return list(dict.fromkeys(path for pattern in patterns for path in scope.find_layers(pattern)))
