"""Where things are kept that can be made again: scans, features, downloads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """``$CONVSCOPE_CACHE/kind``, or ``~/.cache/convscope/kind`` (``$XDG_CACHE_HOME`` is heeded). It may not exist."""
    own = os.environ.get("CONVSCOPE_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(own).expanduser() if own else Path(home) / "convscope") / kind


def key_of(*parts: object) -> str:
    """A name for a cache entry: any change of a part is another name."""
    digest = blake2b(digest_size=16)
    for part in parts:
        data = part if isinstance(part, bytes) else repr(part).encode("utf-8", "surrogateescape")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}-", suffix=".part", dir=path.parent)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        mask = os.umask(0)
        os.umask(mask)
        draft.chmod(0o666 & ~mask)
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink()
