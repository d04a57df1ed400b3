"""Every method, one a file. Importing this package imports each file, which registers itself in ``METHODS``."""

from importlib import import_module
from pkgutil import iter_modules

from convscope.methods.registry import METHODS, Method, Traits, configure, register, setting

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["METHODS", "Method", "Traits", "configure", "register", "setting"]
