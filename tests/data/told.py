"""What the tests of sources share: a photo to put where one is wanted, and a listing in plain words."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image
from skimage import data

from convscope.data.listing import SPLITS, Listing


def _photo() -> bytes:
    file = io.BytesIO()
    Image.fromarray(data.chelsea()).resize((20, 12)).save(file, "JPEG")
    return file.getvalue()


PHOTO = _photo()


def tree(root: Path, *names: str) -> Path:
    """Files below ``root``: photos, or folders where the name ends in a slash."""
    for name in names:
        path = root / name
        (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
        if not name.endswith("/"):
            path.write_bytes(PHOTO)
    return root


def labels(listing: Listing) -> dict[str, str | None]:
    """The class of each photo by its name, in order."""
    names = list(listing.store.names)
    assert len(set(names)) == len(names) == len(listing.labels) == len(listing.given)
    return {
        name: listing.classes[label] if label >= 0 else None
        for name, label in zip(names, listing.labels.tolist(), strict=True)
    }


def splits(listing: Listing) -> dict[str, str | None]:
    """The split that the source gives each photo."""
    given = [SPLITS[number] if number >= 0 else None for number in listing.given.tolist()]
    return dict(zip(listing.store.names, given, strict=True))


def groups(listing: Listing) -> list[list[str]]:
    """The names that belong together, those with company first come first."""
    assert listing.groups is not None
    found: dict[int, list[str]] = {}
    for name, number in zip(listing.store.names, listing.groups.tolist(), strict=True):
        found.setdefault(number, []).append(name)
    return list(found.values())


def reasons(listing: Listing) -> dict[str, str]:
    """Why each photo or line was refused."""
    assert len({refused.name for refused in listing.refused}) == len(listing.refused)
    return {refused.name: refused.reason for refused in listing.refused}
