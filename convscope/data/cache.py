"""Where things are kept that can be made again: scans, features, downloads."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path

from convscope.errors import UsageError


def cache_folder(kind: str) -> Path:
    """``$CONVSCOPE_CACHE/kind``, or ``~/.cache/convscope/kind`` (``$XDG_CACHE_HOME`` is heeded). It may not exist."""
    own = os.environ.get("CONVSCOPE_CACHE")
    try:
        home = Path(own or os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError:  # a container's user may have none
        raise UsageError("there is no home folder for the cache: set CONVSCOPE_CACHE to a folder") from None
    return (home if own else home / "convscope") / kind


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
    draft = path.parent / f".{path.name[:40]}-{secrets.token_hex(6)}.part"
    # Made here, so that it has the rights of any new file; mkstemp's are its owner's alone. Asking for the umask means
    # to set it, for all threads.
    os.close(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    usual = draft.stat().st_mode
    try:
        yield draft
        draft.chmod(usual)  # writers that replace it, as safetensors' does, forget
        os.replace(draft, path)
    finally:
        with suppress(OSError):
            draft.unlink()
