"""The model card of a run, its README.md: what it tells apart, from what, how it was trained, how good, how far.

After Mitchell et al. 2019 ("Model cards for model reporting"): figures stand beside their uncertainty and their limits.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from convscope.errors import UsageError
from convscope.images.lettering import one_line
from convscope.images.read import printable
from convscope.training.metrics import Metrics, between, listed, percent

FEW = 20  # training photos of a class below which little is learned of it
SHAKY = 30  # measured photos of a class below which the interval of its recall is some 30 points wide
LONGEST = 100  # classes up to which a table lists them all
SHOWN = 20  # how many it lists of more


@dataclass(frozen=True)
class CardFacts:
    """What a model card says. ``photos``: for each split the photos of each class, in the order of ``classes``.

    ``measured``: the figures of splits, of which the card gives test, or else val. ``chosen_on``: the split that
    chose ``best_epoch``, None if none did. ``quarantined``: files left out, by the reason. ``more``: other settings.
    """

    title: str
    run: str  # the run's folder, as it is typed
    classes: Sequence[str]
    photos: Mapping[str, Sequence[int]]
    base: str  # specifier of the network that training started from
    trained: str  # which part, in words: "the head; the base is frozen"
    optimizer: str
    learning_rate: float | str
    epochs: int
    augmentation: str
    seed: int
    seconds: float
    device: str
    versions: Mapping[str, str]
    source: str = ""  # where the photos are
    date: str = ""
    best_epoch: int | None = None
    chosen_on: str | None = None
    measured: Mapping[str, Metrics] = field(default_factory=dict)
    quarantined: Mapping[str, int] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)  # what each shows, and its file in the run's folder


def model_card(facts: CardFacts) -> str:
    """The card as GitHub's Markdown. Names are escaped: no class or folder can be taken for mark-up."""
    for split, counts in facts.photos.items():
        if len(counts) != len(facts.classes):
            raise UsageError(f"{split} counts photos of {len(counts)} classes, and there are {len(facts.classes)}")
    parts = [
        f"# {escape(facts.title)}",
        _what(facts),
        _section("Photos", _photos(facts)),
        _section("Training", _training(facts)),
        _section("How good it is", *_quality(facts)),
        _section("Limits", "\n".join(f"- {limit}" for limit in _limits(facts))),
        _section("Use", _use(facts)),
    ]
    return "\n\n".join(parts) + "\n"


def escape(text: object) -> str:
    """Text as it stands within a line: Markdown and HTML find nothing in it to mark up, in a table's cell either."""
    return re.sub(r"([\\`*_\[\]<>#|~&$@])", r"\\\1", one_line(str(text)))


def duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s" if seconds < 10 else f"{rest} s"


def _section(title: str, *parts: str) -> str:
    return "\n\n".join([f"## {title}", *(part for part in parts if part)])


def _what(facts: CardFacts) -> str:
    names = _names(facts.classes)
    total = sum(sum(counts) for counts in facts.photos.values())
    known = f" It was made from {_photos_of(total)} with convscope"
    when = f" on {escape(facts.date)}." if facts.date else "."
    return f"An image classifier that tells {len(facts.classes)} classes apart: {names}.{known}{when}"


def _photos(facts: CardFacts) -> str:
    splits = list(facts.photos)
    rows = [(escape(name), *(facts.photos[split][i] for split in splits)) for i, name in enumerate(facts.classes)]
    listing, note = rows, ""
    if len(rows) > LONGEST:
        train = facts.photos.get("train") or facts.photos[splits[0]]
        fewest = sorted(range(len(rows)), key=lambda i: train[i])[:SHOWN]
        listing, note = [rows[i] for i in fewest], f"The {SHOWN} classes with the fewest photos of {len(rows)}:"
    total = ("all", *(sum(facts.photos[split]) for split in splits))
    table = _table(("class", *map(escape, splits)), [*listing, total])
    source = f"From {escape(facts.source)}." if facts.source else ""
    return "\n\n".join(part for part in (source, note, table) if part)


def _training(facts: CardFacts) -> str:
    best = f"{facts.epochs}"
    if facts.best_epoch is not None:
        by = f", chosen on {escape(facts.chosen_on)}" if facts.chosen_on else ""
        best += f" (the weights are those of epoch {facts.best_epoch}{by})"
    rows: list[tuple[object, ...]] = [
        ("base", escape(facts.base)),
        ("trained", escape(facts.trained)),
        ("optimizer", escape(facts.optimizer)),
        ("learning rate", escape(_number(facts.learning_rate))),
        ("epochs", best),
        ("augmentation", escape(facts.augmentation)),
        *((escape(name), escape(_number(value))) for name, value in facts.more.items()),
        ("seed", facts.seed),
        ("duration", duration(facts.seconds)),
        ("device", escape(facts.device)),
        ("versions", escape(", ".join(f"{name} {version}" for name, version in facts.versions.items()))),
    ]
    return "\n\n".join([_table(("setting", "value"), rows), *_pictures(facts, "curves")])


def _quality(facts: CardFacts) -> list[str]:
    split = _judged(facts)
    if split is None:
        return ["Not measured: there were no photos apart from those it was trained on."]
    metrics = facts.measured[split]
    headline = (
        f"**{percent(metrics.accuracy)}** of the {_photos_of(metrics.count)} of {escape(split)} are classified "
        f"correctly (95 % interval {between(metrics.accuracy_interval)}, Wilson)."
    )
    splits = ", ".join(
        f"{escape(name)} {percent(other.accuracy)} of {other.count:,}" for name, other in facts.measured.items()
    )
    beside = f"Accuracy of each split: {splits}." if len(facts.measured) > 1 else ""
    summary = _table(("figure", "value", "of"), [tuple(map(escape, row)) for row in metrics.summary()])
    head, *rows = metrics.table()
    note = ""
    if len(rows) > LONGEST:
        recalls = [(c.recall is None, c.recall or 0.0) for c in metrics.per_class]
        rows = [rows[i] for i in sorted(range(len(rows)), key=recalls.__getitem__)[:SHOWN]]
        note = f"The {SHOWN} classes of {len(recalls)} that it recognises worst:"
    classes = _table(head, [tuple(map(escape, row)) for row in rows])
    meaning = "Precision: how many taken for the class are of it. Recall, with its interval: how many of it are found."
    return [headline, beside, summary, note, classes, meaning, *_pictures(facts, "confusion")]


def _judged(facts: CardFacts) -> str | None:
    """The split whose figures count: the one that nothing was chosen by."""
    return next((split for split in ("test", "val", *facts.measured) if split in facts.measured), None)


def _limits(facts: CardFacts) -> list[str]:
    return [*_of_choice(facts), *_of_counts(facts), *_of_files(facts), *_of_use(facts)]


def _of_choice(facts: CardFacts) -> list[str]:
    """What the figures are worth, by how the epoch was chosen and on what they were measured."""
    split, chosen = _judged(facts), facts.chosen_on
    if split is None:
        return ["How good it is on photos that it has not seen is unknown."]
    if split == "train":
        return ["The figures are of the photos it was trained on: on others it will be worse, by how much is unknown."]
    if chosen is None:
        return [f"No split chose the epoch: nothing was fitted to {escape(split)} by the training."]
    if split == chosen:
        return [
            f"{escape(chosen)} chose the epoch, and the figures are of {escape(chosen)} too: they are somewhat too "
            "good. Photos kept apart as a test split would give an honest figure."
        ]
    return [f"{escape(chosen)} was used to choose the epoch, so that the figure of {escape(split)} is the honest one."]


def _of_counts(facts: CardFacts) -> list[str]:
    """Classes that were learned from few photos, measured on few, or are not there at all."""
    limits = []
    train = facts.photos.get("train")
    few = [(n, name) for n, name in zip(train or (), facts.classes, strict=False) if 0 < n < FEW]
    if few:
        names = [f"{escape(name)} ({n})" for n, name in few]
        limits.append(f"Few training photos, fewer than {FEW}: {listed(names)}.")
    for split, counts in facts.photos.items():
        absent = [name for n, name in zip(counts, facts.classes, strict=True) if n == 0]
        if len(absent) == len(facts.classes):
            limits.append(f"There are no photos in {escape(split)}.")
        elif absent:
            limits.append(f"No photos in {escape(split)}: {_names(absent)}.")
    return limits + _of_few_measured(facts)


def _of_few_measured(facts: CardFacts) -> list[str]:
    if (split := _judged(facts)) is None:
        return []
    names = [f"{escape(c.name)} ({c.count})" for c in facts.measured[split].per_class if 0 < c.count < SHAKY]
    what = f"Measured on fewer than {SHAKY} photos in {escape(split)}, so that their figures are rough"
    return [f"{what}: {listed(names)}."] if names else []


def _of_files(facts: CardFacts) -> list[str]:
    if not (count := sum(facts.quarantined.values())):
        return []
    reasons = ", ".join(f"{escape(reason)} ({n})" for reason, n in facts.quarantined.items() if n)
    return [
        f"{count:,} file{'s were' if count > 1 else ' was'} quarantined and neither trained nor measured: {reasons}."
    ]


def _of_use(facts: CardFacts) -> list[str]:
    return [
        "The figures hold for photos like these: of other cameras, places or times it may be much worse.",
        f"Every photo is taken for one of the {len(facts.classes)} classes, also one that shows none of them.",
    ]


def _use(facts: CardFacts) -> str:
    model = f"run:{facts.run}"
    typed = shlex.quote(printable(model))
    return f"""```sh
convscope predict {typed} photo.jpg
convscope explain {typed} photo.jpg
```

```python
import convscope as cs
net = cs.load({model!r})
print(net.predict("photo.jpg").top(3))
```"""


def _pictures(facts: CardFacts, name: str) -> list[str]:
    file = facts.pictures.get(name)
    return [f"![{escape(name)}](<{one_line(file)}>)"] if file else []


def _names(names: Sequence[str]) -> str:
    return listed([escape(name) for name in names], 12)


def _photos_of(count: int) -> str:
    return f"{count:,} photo" + ("s" if count != 1 else "")


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A table; columns of whole numbers stand to the right. Cells are escaped already."""
    right = [all(isinstance(row[i], int) for row in rows) for i in range(len(head))]
    rule = ["---:" if numbers else "---" for numbers in right]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows))
