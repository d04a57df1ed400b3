"""Units across the checkpoints of a run, each with an atlas of the same photos (Zeiler & Fergus 2013, figure 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from convscope.atlas.atlas import Atlas
from convscope.atlas.renders import PHOTO
from convscope.atlas.snapshots import Snapshot, side_by_side, snapshot_sheet
from convscope.atlas.unit import Unit
from convscope.errors import ConvscopeError, UsageError
from convscope.images.sheet import headed
from convscope.images.slug import slug

STAGE = "epoch-"  # what the folders of stages begin with, in the atlas of the run
LEGEND = (
    "The photo that excites the unit most at each epoch: above, what of it does, projected back; below, what the unit "
    "sees of it. Framed: another photo than before."
)


def stages_of(atlas: Atlas) -> dict[int, Atlas]:
    """The atlases of a run's checkpoints that lie in that of the run, by their epochs."""
    folders = {folder.name.removeprefix(STAGE): folder for folder in atlas.folder.glob(f"{STAGE}*")}
    epochs = sorted(int(epoch) for epoch in folders if epoch.isdecimal())
    return {epoch: Atlas(folders[_named(epoch)]) for epoch in epochs}


def stage_folder(out: Path, epoch: int) -> Path:
    return out / f"{STAGE}{_named(epoch)}"


def _named(epoch: int) -> str:
    return f"{epoch:04d}"


def evolution(stages: Mapping[int, Atlas], units: Sequence[str], method: str, folder: Path) -> list[Snapshot]:
    """Each unit at each stage, its pictures kept in ``folder``; ``sheet`` draws them."""
    if not stages:
        raise UsageError("there are no checkpoints: train with --keep 1, then make the atlas with --evolve")
    found: list[Snapshot] = []
    folder.mkdir(parents=True, exist_ok=True)
    for address in units:
        before: str | None = None
        for epoch, atlas in stages.items():
            one = _snapshot(epoch, atlas.unit(address), method, folder, before)
            before = before if one.dead else one.photo
            found.append(one)
    return found


def sheet(folder: Path, found: Sequence[Snapshot]) -> Image.Image:
    """A row a unit, a column an epoch, framed where another photo took over."""
    return headed(snapshot_sheet(folder, found, list(dict.fromkeys(one.unit for one in found)), "epoch"), LEGEND)


def _snapshot(epoch: int, unit: Unit, method: str, folder: Path, before: str | None) -> Snapshot:
    patch = unit.top[0]
    pictures = unit.atlas.pictures(unit.layer, [unit.neuron(patch)], [method])
    if any((unit.number, patch.number, what) not in pictures for what in (PHOTO, method)):
        raise ConvscopeError(unit.atlas.troubles.get(patch.number, f"there is no picture of {patch.image}"))
    seen, back = (pictures[unit.number, patch.number, what] for what in (PHOTO, method))
    name = f"{slug(unit.address)}-{epoch:04d}.png"
    side_by_side(back.image, seen.image).save(folder / name)
    jumped = before is not None and not unit.dead and before != patch.image
    field = seen.box or (0, 0, *unit.atlas.meta["framing"]["size"])
    empty = bool((back.told or {}).get("empty"))
    place = (patch.row, patch.col)
    return Snapshot(
        epoch, unit.address, patch.value, patch.image, patch.number, *place, field, jumped, unit.dead, empty, name
    )
