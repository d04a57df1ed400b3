"""Some images at a time, so that memory does not grow with their number."""

from __future__ import annotations

AT_ONCE = 16  # images in one pass: more gains nothing on a CPU and costs memory


def parts(count: int) -> list[slice]:
    """Consecutive slices of ``count`` images, ``AT_ONCE`` in each."""
    return [slice(start, start + AT_ONCE) for start in range(0, count, AT_ONCE)]
