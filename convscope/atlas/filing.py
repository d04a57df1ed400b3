"""What a pass has found so far, put away: all figures as tensors in a file, what people ask for in the database.

Each process's figures are a file of their own, which one transaction of the database names together with how many
batches they hold. So an atlas can be read while it is built, and a kill costs what came after the last time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from convscope.atlas.neighbours import duplicates, neighbours
from convscope.atlas.sample import PLACED
from convscope.atlas.statistics import precise
from convscope.atlas.store import Store
from convscope.atlas.streaming import Figures
from convscope.atlas.topk import NOWHERE
from convscope.data.cache import replacing
from convscope.errors import ConvscopeError

QUANTILES = (0.1, 0.5, 0.9)
EXAMPLES = 9  # random images of each unit, and as many about its median


def write_figures(file: Path, layers: Sequence[str], figures: Mapping[str, Figures]) -> None:
    """All figures of the layers that were seen."""
    tensors: dict[str, Tensor] = {}
    for number, layer in enumerate(layers):
        if layer in figures:
            # Clones, because safetensors refuses tensors that share memory.
            own = figures[layer].tensors()
            tensors |= {f"{number}/{name}": value.contiguous().clone() for name, value in own.items()}
    try:
        with replacing(file) as draft:
            save_file(tensors, draft)
    except (OSError, SafetensorError) as error:  # safetensors' own is what a full disk gives
        reason = getattr(error, "strerror", None) or error
        raise ConvscopeError(f"cannot write {file.parent}: {reason}; what is there is kept") from error


def read_figures(file: Path, layers: Sequence[str], device: torch.device) -> dict[str, Figures]:
    """What ``write_figures`` wrote."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConvscopeError(f"{file} cannot be read: {error}; delete the atlas to build it anew") from error
    found = {}
    for number, layer in enumerate(layers):
        own = {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith(f"{number}/")}
        if own:
            found[layer] = Figures.of_tensors(own, device)
    return found


def write_units(store: Store, layers: Sequence[str], figures: Mapping[str, Figures]) -> None:
    """Every unit's numbers, patches and neighbours, over those of before."""
    for number, layer in enumerate(layers):
        own = figures.get(layer)
        if own is None:
            continue
        assert own.statistics is not None
        assert own.sample is not None
        others, correlations = neighbours(own.sample.maxima)
        selectivity, best = own.statistics.selectivity()
        std, mean = own.statistics.std, own.statistics.mean
        dead = std <= 1e-6 * mean.abs()
        best = best.masked_fill(dead, -1)  # it answers to all classes alike
        columns = (
            *(mean, std, own.top.value[:, 0], own.statistics.fraction_active, *_quantiles(own.sample.maxima)),
            *(selectivity, best, dead, duplicates(own.sample.maxima)),
        )
        values = zip(*(column.tolist() for column in columns), strict=True)
        rows = ((unit, *map(_known, row[:8]), *map(_numbered, row[8:])) for unit, row in enumerate(values))
        store.put("units", ((number, *row) for row in rows))
        store.put("patches", ((number, *row) for row in _patches(own)))
        store.put("neighbours", ((number, *row) for row in _pairs(others, correlations)))


def _quantiles(maxima: Tensor) -> Tensor:
    """Of each unit's maxima on the sampled images, "quantiles units"; NaN where none was seen yet."""
    seen = precise(maxima[~maxima.isnan().any(1)])
    if not len(seen):
        return torch.full((len(QUANTILES), maxima.shape[1]), torch.nan)
    return torch.quantile(seen, torch.tensor(QUANTILES, dtype=torch.float64, device=seen.device), dim=0)


def _pairs(others: Tensor, correlations: Tensor) -> Iterator[tuple[int, int, int, float]]:
    for unit, (row, found) in enumerate(zip(others.tolist(), correlations.tolist(), strict=True)):
        for rank, (other, value) in enumerate(zip(row, found, strict=True)):
            if other >= 0:
                yield unit, rank, other, value


def _patches(own: Figures) -> Iterator[tuple[Any, ...]]:
    """Rows of the table: the top ones, random ones, and those nearest to the median of the sample's placed images."""
    top = own.top
    for unit, kind, rank, image, value, flat in _ranked("top", top.value, top.image, top.place):
        if image != NOWHERE:
            yield unit, kind, rank, image, value, *_place(flat, own)
    assert own.sample is not None
    maxima = own.sample.maxima[:PLACED]
    there = (~maxima.isnan().any(1)).nonzero().squeeze(1)
    maxima, places, numbers = maxima[there], own.sample.places[there], own.sample.numbers[there.cpu()]
    if not len(maxima):
        return
    middle = (precise(maxima) - precise(maxima).quantile(0.5, dim=0)).abs().sort(dim=0, stable=True).indices[:EXAMPLES]
    middle = middle.to(maxima.device)
    random = torch.arange(min(EXAMPLES, len(maxima)), device=maxima.device)[:, None].expand(-1, maxima.shape[1])
    for kind, chosen in (("random", random), ("middle", middle)):
        found = maxima.gather(0, chosen).T, numbers.to(chosen.device)[chosen].T, places.gather(0, chosen).T
        for unit, named, rank, image, value, flat in _ranked(kind, *found):
            yield unit, named, rank, image, value, *_place(flat, own)


def _ranked(kind: str, *columns: Tensor) -> Iterable[tuple[Any, ...]]:
    for unit, row in enumerate(zip(*(column.tolist() for column in columns), strict=True)):
        for rank, values in enumerate(zip(*row, strict=True)):
            yield unit, kind, rank, values[1], values[0], values[2]


def _place(flat: int, own: Figures) -> tuple[int | None, int | None]:
    return divmod(flat, own.maps[1]) if own.maps and flat != NOWHERE else (None, None)


def _known(value: float) -> float | None:
    return None if value != value else value  # NaN


def _numbered(value: int | bool) -> int | None:
    return int(value) if value >= 0 else None
