"""Patterns of whole layers: units to objectives, a batch at a time, and a verdict on each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from zlib import crc32

import torch
from torch import Tensor

from convscope.data.cache import key_of
from convscope.errors import UsageError
from convscope.images.frame import canvas_of
from convscope.instrument.address import LOGITS, Address
from convscope.instrument.batches import parts
from convscope.instrument.canvas import on_canvas
from convscope.instrument.layers import resolve_one
from convscope.instrument.record import record
from convscope.instrument.state import undisturbed
from convscope.instrument.target import peaks
from convscope.instrument.weights import answers, raw_bytes
from convscope.models.classes import Classes
from convscope.models.classifier import Classifier
from convscope.optvis import plan
from convscope.optvis.asked import objective_of
from convscope.optvis.draws import Draws, placed, seed_of
from convscope.optvis.objectives import Objective, Units, diversity
from convscope.optvis.parameterizations import Shape
from convscope.optvis.patterns import DEAD, Patterns, heading, joined, verdict_notes, verdicts_of
from convscope.optvis.recipes import Recipe, of_photos, recipe_of
from convscope.optvis.render import Rendered, render
from convscope.progress import track
from convscope.types import Images, Scores

MADE = 1  # of pictures that are kept: another once they are made in another way


@dataclass(frozen=True)
class Job:
    """Patterns to be made, settled and checked: pictures for ``own``, made by raising ``objective``, in batches."""

    classifier: Classifier
    own: Objective
    objective: Objective
    recipe: Recipe
    shape: Shape
    seed: int
    batch: int
    title: str
    notes: tuple[str, ...] = ()
    negative: bool = False
    border: int = 0
    photos: Images | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return self.own.count

    def batches(self, done: Collection[int] = ()) -> Iterator[tuple[list[int], Patterns]]:
        """Batch by batch, with the numbers of its pictures, less those that are ``done``."""
        group = self.objective.group
        groups = [list(range(i, i + group)) for i in range(0, len(self), group)]
        left = [row for rows in groups if not set(rows) <= set(done) for row in rows]
        cut = [left[i : i + self.batch] for i in range(0, len(left), self.batch)]
        for rows in track(cut, self.title, weigh=len) if len(cut) > 1 else cut:
            yield rows, self.patterns(rows)

    def patterns(self, rows: Sequence[int]) -> Patterns:
        """The patterns of some rows, whole groups of them."""
        seeds = [self._seed(row) for row in rows]
        found = render(self.classifier, self.objective, self.recipe.how, self.shape, seeds, rows=rows, label="steps")
        before, after = (self.own.score(seen) for seen in (found.first, found.last))
        names = [self.own.name(row) for row in rows]
        verdicts = _verdicts(found, before, after)
        return Patterns(
            raw=found.images,
            names=tuple(names),
            recipe=self.recipe,
            before=before,
            after=after,
            peaks=_peaks(self.own, found, self.negative),
            natural=self._natural(rows, after),
            verdicts=verdicts,
            settings=self.about(),
            title=self.title,
            notes=(*self.notes, *verdict_notes(names, verdicts)),
            border=self.border,
        )

    def key(self, row: int) -> str:
        """What a picture depends on, the weights excepted: any change of it is another key."""
        return key_of(self._made_of, self.own.name(row), self.copy(row))

    def copy(self, row: int) -> int:
        """Which of several pictures of the same name this one is."""
        return self._copies[row]

    @cached_property
    def _copies(self) -> list[int]:
        seen: Counter[str] = Counter()
        found = []
        for row in range(len(self)):
            found.append(seen[self.own.name(row)])
            seen[self.own.name(row)] += 1
        return found

    @cached_property
    def _made_of(self) -> str:
        classifier, how = self.classifier, self.recipe.how
        magnitudes = getattr(how.parameterization, "magnitudes", None)
        photos = None if self.photos is None else raw_bytes(self.photos)
        noise = Draws([0], 0).field(self.shape, uniform=True)
        return key_of(
            MADE,
            str(classifier.network),
            answers(classifier, {need.layer: None for need in self.objective.needs}, placed(noise, classifier.blank())),
            (classifier.mean, classifier.std, str(classifier.dtype)),
            (self.shape, self.border, self.seed, self.objective.group),
            (self.recipe.name, how.steps, how.views, str(how.transforms), str(how.focus), str(how.optimizer)),
            type(how.parameterization).__name__ if magnitudes is not None else repr(how.parameterization),
            None if magnitudes is None else raw_bytes(magnitudes),
            photos,
        )

    @property
    def heading(self) -> str:
        return heading(self.title, self.recipe, self.shape[1:], self.negative)

    def about(self) -> dict[str, object]:
        """What the pictures depend on, in plain types."""
        how = self.recipe.how
        return {
            "model": self.classifier.name,
            "recipe": self.recipe.name,
            "steps": how.steps,
            "size": list(self.shape[1:]),
            "seed": self.seed,
            "negative": self.negative,
            "transforms": [str(transform) for transform in how.transforms],
        }

    def _seed(self, row: int) -> int:
        """A picture's own: that of its unit and copy, in whatever company it is made."""
        found = self.own.unit(row, self.classifier.classes)
        copy = self.copy(row)
        if found is None:
            return seed_of(self.seed, crc32(self.own.name(row).encode()), copy)
        need, unit = found
        return seed_of(self.seed, crc32(need.layer.encode()), unit, copy)

    def _natural(self, rows: Sequence[int], like: Scores) -> Scores:
        """The strongest answer of each picture's unit to the photos."""
        found = torch.full_like(like, torch.nan)
        units = _numbers(self.own, rows, self.classifier.classes)
        return found if self._best is None or not units else self._best[units].to(like)

    @cached_property
    def _best(self) -> Tensor | None:
        """Of all units of the layer, once for all batches."""
        if self.photos is None or not _numbers(self.own, [0], self.classifier.classes):
            return None
        return _strongest(self.classifier, self.photos, _layer(self.own), self.negative)


def plan_patterns(
    classifier: Classifier,
    what: str | Objective,
    *,
    units: Units | None = None,
    recipe: str | Recipe = "fourier",
    size: int | tuple[int, int] | None = None,
    steps: int | None = None,
    seed: int = 0,
    copies: int = 1,
    negative: bool = False,
    photos: Images | None = None,
    budget: float = plan.BUDGET_MIB,
) -> Job:
    """Settle what is to be made, and refuse what cannot be; see ``Scope.visualize``."""
    if not isinstance(what, str | Objective):
        raise UsageError(f"patterns are of a layer, units of it, or an objective, not {type(what).__name__}")
    made = recipe_of(recipe).with_steps(steps)
    if photos is not None:
        made = of_photos(made, photos)
    if copies < 1:
        raise UsageError(f"diversity is the number of pictures of each unit, at least 1, got {copies}")
    with on_canvas(classifier):
        own, notes = _own(classifier, what, units, negative)
        layers = list(dict.fromkeys(need.layer for need in own.needs))
        full = plan.canvas_for(classifier, own.needs) if size is None else canvas_of(size)
        objective = own = own.repeated(copies)
        if copies > 1:
            maps = next((layer for layer in layers if layer != LOGITS), None) or str(_last_maps(classifier))
            objective = own + own.strength * diversity(maps, copies)
    plan.check(classifier, objective, full, made.how.transforms)
    if made.how.focus is None:
        made = replace(made, how=replace(made.how, focus=plan.focus_of(classifier, own.needs, full)))
    shape = (classifier.channels, *full)
    with on_canvas(classifier):
        batch = plan.batch_of(classifier, objective, shape, made.how.views, budget)
    title = layers[0] if len(layers) == 1 and not isinstance(what, Objective) else own.name(0)
    border = plan.BORDER if size is None and full != classifier.canvas and max(full) < plan.MOST else 0
    return Job(classifier, own, objective, made, shape, seed, batch, title, tuple(notes), negative, border, photos)


def _own(
    classifier: Classifier, what: str | Objective, units: Units | None, negative: bool
) -> tuple[Objective, list[str]]:
    if not isinstance(what, Objective):
        return objective_of(classifier, what, units, negative)
    if units is not None:
        raise UsageError("an objective has its units already: give units= with a layer")
    return (-what if negative else what), []


def visualize(job: Job) -> Patterns:
    """All patterns of a job."""
    return joined([patterns for _, patterns in job.batches()])


def _last_maps(classifier: Classifier) -> Address:
    image = classifier.blank()
    return resolve_one(classifier.network, "@last_conv", image, through=classifier)


def _verdicts(found: Rendered, before: Scores, after: Scores) -> tuple[str, ...]:
    # Dead: silent throughout, and nothing in the picture would change that, whatever ReLUs let through.
    silent = ~found.curve.ne(0).any(0) & (before == 0) & (after == 0) & ~found.moved
    others = verdicts_of(found, before, after)
    return tuple(DEAD if dead else other for dead, other in zip(silent.tolist(), others, strict=True))


def _peaks(own: Objective, found: Rendered, negative: bool) -> Scores:
    """The strongest answer of each picture's unit anywhere on it; ``negative``: the lowest."""
    units = _numbers(own, found.last.rows, found.last.classes)
    if not units:
        return torch.full_like(found.after, torch.nan)
    each = found.last.pick(_layer(own), units).reshape(len(units), -1)
    return each.amin(1) if negative else each.amax(1)


def _layer(own: Objective) -> str:
    """Whose units pictures are of."""
    return next(need.layer for need in own.needs if need.units)


def _numbers(own: Objective, rows: Sequence[int], classes: Classes | None) -> list[int]:
    """The number of each picture's unit; nothing where they are not of units."""
    return [found[1] for row in rows if (found := own.unit(row, classes)) is not None]


def _strongest(classifier: Classifier, photos: Images, layer: str, negative: bool) -> Tensor:
    """Each unit's strongest answer to photos; ``negative``: the lowest."""
    found, sign = [], -1 if negative else 1
    with undisturbed(classifier, grad=False):
        for rows in parts(len(photos)):
            if layer == LOGITS:
                found.append((sign * classifier(photos[rows])).amax(0))
                continue
            with record(classifier.network, [layer], stop=True, reduce=lambda output: peaks(sign * output)) as kept:
                classifier(photos[rows])
            found.append(kept[layer].amax(0))
    return sign * torch.stack(found).amax(0)
