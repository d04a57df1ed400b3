"""What may be wrong with a network, one check a file. Importing this package imports each file, which registers itself
in ``CHECKS``."""

from importlib import import_module
from pkgutil import iter_modules

from convscope.studies.diagnosis.registry import CHECKS, chosen

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["CHECKS", "chosen"]
