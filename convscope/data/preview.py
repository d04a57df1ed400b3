"""What augmentation makes of a user's own photos, on a sheet: the photo, then some epochs of it."""

from __future__ import annotations

import numpy as np
from PIL import Image

from convscope.data.augment import Augmentation
from convscope.data.catalog import Catalog
from convscope.data.loading import Photos, Wanted
from convscope.errors import UsageError
from convscope.images.frame import Framing, to_image
from convscope.images.sheet import contact_sheet

EPOCHS = 7
SIDE = 176


def preview(found: Catalog, augmentation: Augmentation, *, photos: int = 6, seed: int = 0) -> Image.Image:
    """A row a photo, spread over the classes: as it is, and as it is in the first epochs of a training."""
    if not len(found):
        raise UsageError(f"{found.source} has no photo to preview")
    order = np.argsort(found.labels, kind="stable")
    rows = np.unique(order[np.linspace(0, len(found) - 1, min(photos, len(found))).astype(int)])
    framing = Framing((SIDE, SIDE), SIDE)
    plain, changed = (Photos(found, framing, 3, augmentation=way, seed=seed) for way in (Augmentation(), augmentation))
    tiles, labels = [], []
    for row in rows.tolist():
        versions = [plain[Wanted(0, np.array([row]))], *(changed[Wanted(e, np.array([row]))] for e in range(EPOCHS))]
        for epoch, batch in enumerate(versions):
            if len(batch.rows):
                tiles.append(to_image(batch.images[0].float() / 255))
                labels.append(f"epoch {epoch}" if epoch else found.store.names[row])
    if not tiles:
        raise UsageError(f"{found.source}: none of the photos to preview can be read any more")
    return contact_sheet(tiles, labels, columns=EPOCHS + 1, tile=SIDE, title=f"augmentation: {augmentation}")
