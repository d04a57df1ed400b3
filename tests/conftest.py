"""Before convscope is imported: one thread, and every annotated shape in it checked at every call."""

import sys

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)

CHECKED = [f"convscope.{part}" for part in ("images", "models", "instrument", "methods", "scope")]

assert not [name for name in sys.modules if name.startswith("convscope.")], "imported too early to be checked"
install_import_hook(CHECKED, "beartype.beartype")
