"""One photo of ``convscope explain``: its methods run, its files written, its page drawn; then it is let go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from convscope.cli.photos import Failure
from convscope.errors import Cancelled, ConvscopeError, Inapplicable, UsageError
from convscope.images.read import Photo
from convscope.images.slug import slug
from convscope.methods.explanation import Explanation
from convscope.report import Figure, PhotoPage, Sheet, Trouble
from convscope.scope import Scope

TOP = 5
SHEET_UNITS = 256  # more than 16 rows of small maps say little


@dataclass(frozen=True)
class Plan:
    """What to do with each photo. ``methods``: ready to run; ``choosy``: leave out what cannot explain a target."""

    methods: Sequence[Any]
    targets: Sequence[str | None]
    against: str | None
    strongest: int
    layers: Sequence[str]
    choosy: bool = False


def photo_findings(scope: Scope, plan: Plan, index: int, photo: Photo, draft: Path) -> dict[str, Any]:
    """Explain a photo and write its files under ``draft``; what ``summary.json`` says of it, and its report's page."""
    top = scope.predict(photo).top(TOP)
    folder = draft / f"{index:03d}-{slug(top[0].name.split(',')[0])}"
    figures: list[Figure] = []
    told: list[dict[str, Any]] = []
    failures: list[Failure] = []
    left_out: list[Trouble] = []
    for method in plan.methods:
        try:
            for found in _explanations(scope, plan, photo, method):
                many = len(plan.targets) > 1 or len(found) > 1
                for row in range(len(found)):
                    place = folder / method.name / (_target_folder(found, row, figures) if many else "")
                    figures.append(_figure(found, row, place))
                    told.append(_about(found, row, place, draft))
        except Inapplicable as error:
            if not plan.choosy:
                raise Inapplicable(f"{method.name}: {error}") from None
            left_out.append(Trouble(photo.name, f"left out: {error}", method.name))
        except (Cancelled, UsageError):
            raise
        except ConvscopeError as error:  # this method cannot be used here; others may
            if len(plan.methods) == 1:
                raise
            failures.append(Failure(str(photo.path), str(error), method.name))
    if not figures:
        raise ConvscopeError("no method succeeded: " + "; ".join(f"{f.method}: {f.reason}" for f in failures))
    _, (view,) = scope.images(photo)
    page = PhotoPage.of(
        index,
        photo.name,
        photo.image,
        view.placement,
        top=[(entry.name.split(",")[0], entry.probability) for entry in top],
        figures=figures,
        sheets=[_sheet(scope.activations(photo, layer)) for layer in plan.layers],
        troubles=[*left_out, *(Trouble(photo.name, failure.reason, failure.method) for failure in failures)],
    )
    return {
        "page": page,
        "index": index,
        "photo": str(photo.path),
        "folder": folder.name,
        "size": {"height": photo.image.height, "width": photo.image.width},
        "seen": dict(zip(("top", "left", "bottom", "right"), view.placement.seen, strict=True)),
        "top": [vars(entry) for entry in top],
        "explanations": told,
        "failures": failures,
    }


def _explanations(scope: Scope, plan: Plan, photo: Photo, method: Any) -> list[Explanation]:
    """A method's results, one a target; what no target changes is found once."""
    if not method.traits.targeted:
        return [scope.explain(photo, method)]
    return [
        scope.explain(photo, method, target, against=plan.against, strongest=plan.strongest) for target in plan.targets
    ]


def _figure(found: Explanation, row: int, place: Path) -> Figure:
    """A row's files (grey, heat and overlay as PNG, the numbers as safetensors), and its place in the report."""
    found[row].save(place / "raw.safetensors")
    pictures = {file.stem: _opened(file) for file in found.save_each(place, row)}
    map = pictures.get("closeup", pictures["heat"])
    return Figure.of(found, row, map, pictures["overlay"], pictures.get("closeup-photo"))


def _opened(file: Path) -> Image.Image:
    with Image.open(file) as picture:
        return picture.copy()


def _about(found: Explanation, row: int, place: Path, draft: Path) -> dict[str, Any]:
    about = found[row].about()
    return {
        "method": about["method"],
        "target": next(iter(about["targets"]), None),
        "score": None if about["scores"] is None else about["scores"][0],
        **{key: about[key] for key in ("layer", "baseline", "settings", "notes", "shape")},
        "files": sorted(str(file.relative_to(draft)) for file in place.iterdir() if file.is_file()),
    }


def _target_folder(found: Explanation, row: int, before: Sequence[Figure]) -> str:
    number = sum(figure.method == found.method for figure in before)
    return f"{number:02d}-{slug(found.labels[row] if found.labels else 'map')}"


def _sheet(found: Explanation) -> Sheet:
    """A layer's maps; of very many, those that are strongest in this photo."""
    units = found.raw.shape[1]
    if units <= SHEET_UNITS:
        return Sheet.of(str(found.layer), "", found.sheet())
    silent = units - int(found.raw[0].flatten(1).any(1).sum())
    remark = f"the {SHEET_UNITS} strongest of {units:,} units, {silent} of which are silent on this photo"
    return Sheet.of(str(found.layer), remark, strongest(found, SHEET_UNITS).sheet())


def strongest(found: Explanation, count: int) -> Explanation:
    """The ``count`` units of a layer with the highest maximum in the first image, the highest first."""
    order = found.raw[0].flatten(1).amax(1).argsort(descending=True, stable=True)[:count].tolist()
    return select(found, order)


def select(found: Explanation, places: Sequence[int]) -> Explanation:
    """Some of the maps of a layer, by their place among those there are."""
    return replace(found, raw=found.raw[:, list(places)], units=tuple(found.units[place] for place in places))
