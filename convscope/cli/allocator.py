"""How glibc's malloc treats large blocks; the one setting of the process that the command line changes.

As it comes, glibc maps every block above some MiB anew and gives it back when it is freed. The activations of a network
are such blocks: each forward pass faults all of their pages in again, and the kernel fills each with zeros first. A
process that only explains photos has no use for that: it keeps what was freed and uses it again, so its memory stays
at its peak until it ends. Nothing but the time is changed. Only the command line does this, never ``import convscope``.
"""

from __future__ import annotations

import ctypes
import os

TUNED, DEFAULT = "tuned", "default"
HELP = (
    "How memory is handled. tuned: freed memory is kept for the next layer instead of going back to the system, "
    "which is faster (Linux with glibc; elsewhere nothing changes). default: as the system does it."
)

# From glibc's malloc.h, and what it starts with.
M_TRIM_THRESHOLD, TRIM_AT_FIRST = -1, 128 * 1024
M_MMAP_MAX = -4
NEVER = 2**31 - 1


def tune() -> bool:
    """Keep freed memory for reuse. Both settings or none; False where the C library is not glibc.

    To be called before torch is imported: blocks that are mapped by then stay as they are.
    """
    if not _is_glibc():
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or not mallopt(M_TRIM_THRESHOLD, NEVER):
        return False
    if mallopt(M_MMAP_MAX, 0):
        return True
    mallopt(M_TRIM_THRESHOLD, TRIM_AT_FIRST)
    return False


def apply(choice: str) -> str:
    """Do what ``--allocator`` says; what came of it, in words for ``--version`` and the report."""
    if choice == DEFAULT:
        return "default"
    return "tuned (freed memory is kept for reuse)" if tune() else "default (tuned is for Linux with glibc)"


def _is_glibc() -> bool:
    try:
        return (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, ValueError, OSError):
        return False
