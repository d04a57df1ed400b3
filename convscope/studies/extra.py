"""What only some studies need: the packages of ``pip install 'convscope[studies]'``."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def extra(module: str, package: str = "scikit-learn", study: str = "this study") -> Any:
    """A module of a package; one line where that is not installed."""
    from convscope.errors import UsageError

    try:
        return import_module(module)
    except ImportError:
        raise UsageError(f"{study} needs {package}: pip install 'convscope[studies]'") from None
