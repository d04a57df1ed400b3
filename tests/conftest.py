"""Before convscope is imported: one thread, and every annotated shape in it checked at every call."""

import os
import sys

import torch
from hypothesis import settings
from jaxtyping import install_import_hook

import tests.checker  # noqa: F401 - the hook finds it by its name

torch.set_num_threads(1)
settings.register_profile("ci", derandomize=True)  # the same examples each time: a check's colour is the change's own
settings.load_profile("ci" if os.environ.get("CI") else "default")

CHECKED = [f"convscope.{part}" for part in ("images.frame", "models", "instrument", "methods", "scope")]

assert not [name for name in sys.modules if name.startswith("convscope.")], "imported too early to be checked"
install_import_hook(CHECKED, "tests.checker.check")
