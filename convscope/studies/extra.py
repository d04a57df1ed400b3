"""What only some studies need: the packages of ``pip install 'convscope[studies]'``."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def extra(module: str) -> Any:
    """A module of scikit-learn or scipy, which comes with it; one line where it is not installed."""
    from convscope.errors import UsageError

    try:
        return import_module(module)
    except ImportError:
        raise UsageError("this study needs scikit-learn: pip install 'convscope[studies]'") from None
