"""Every study, one a file. Importing this package imports each file, which registers itself in ``STUDIES``."""

from importlib import import_module
from pkgutil import iter_modules

from convscope.studies.registry import STUDIES, configure

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["STUDIES", "configure"]
