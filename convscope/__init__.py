"""convscope: see what convolutional networks learned. Importing it imports neither torch nor anything else heavy."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from convscope import methods
    from convscope.atlas.atlas import Atlas
    from convscope.data.findings import check
    from convscope.errors import ConvscopeError
    from convscope.progress import ConsoleProgress, reporting
    from convscope.scope import Scope, load
    from convscope.training.api import train
    from convscope.training.evolution import Evolution

_HOME = {
    "Atlas": "convscope.atlas.atlas",
    "Scope": "convscope.scope",
    "load": "convscope.scope",
    "ConvscopeError": "convscope.errors",
    "ConsoleProgress": "convscope.progress",
    "reporting": "convscope.progress",
    "check": "convscope.data.findings",
    "train": "convscope.training.api",
    "Evolution": "convscope.training.evolution",
}
__all__ = [
    "Atlas",
    "ConsoleProgress",
    "ConvscopeError",
    "Evolution",
    "Scope",
    "__version__",
    "check",
    "load",
    "methods",
    "reporting",
    "train",
]


def __getattr__(name: str) -> Any:
    if name == "methods":
        return importlib.import_module("convscope.methods")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'convscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
