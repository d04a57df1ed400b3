"""Layer and unit addresses.

A layer is its path in the user's own module (``features.28``), with ``#2`` for the second call of a reused one. A
function called directly in a module's ``forward`` is a layer too: ``block/relu#2`` is the second ``relu`` called by
``block`` itself and ``/relu`` one of the root's. ``layer:137`` is a unit, ``layer:137@7,4`` a neuron (row, col),
``layer:0-63`` a range of units. Globs select several layers. Aliases: ``@first``, ``@last_conv``, ``@penultimate``,
``@stages``, ``@stage:-1``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from convscope.errors import UsageError, unknown

LOGITS = "@logits"  # the output: an alias that is no layer
_ADDRESS = re.compile(
    r"(?P<layer>@stage:-?\d+|@\w+|[^:#@]*)(#(?P<call>\d+))?"
    r"(:(?P<units>\d+(-\d+)?(,\d+(-\d+)?)*))?(@(?P<row>-?\d+),(?P<col>-?\d+))?"
)
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Address:
    """One layer (possibly still an alias or a glob), and maybe units of it and a position."""

    layer: str
    call: int = 1
    units: tuple[int, ...] | None = None
    position: tuple[int, int] | None = None

    def __str__(self) -> str:
        units = "" if self.units is None else ":" + ",".join(map(str, self.units))
        position = "" if self.position is None else f"@{self.position[0]},{self.position[1]}"
        return f"{self.key}{units}{position}"

    @property
    def key(self) -> str:
        """The layer alone, as it is recorded under: path, and the call where it is not the first."""
        return self.layer if self.call == 1 else f"{self.layer}#{self.call}"

    @property
    def path(self) -> str:
        """The module: itself, or the one whose ``forward`` calls the function."""
        return self.layer.split("/")[0]

    @property
    def function(self) -> str | None:
        """The function's name for a function call."""
        return self.layer.split("/", 1)[1] if "/" in self.layer else None

    @property
    def selects_many(self) -> bool:
        return self.layer == "@stages" or bool(_GLOB.search(self.layer))


def parse_address(text: str) -> Address:
    """Read an address; what cannot be one is refused with the grammar."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None or not match["layer"]:
        raise UsageError(
            f"{text!r} is not a layer or unit: write path, path#2, path:137, path:0-63 or path:137@row,col"
        )
    units = None if match["units"] is None else tuple(_units(match["units"]))
    position = None if match["row"] is None else (int(match["row"]), int(match["col"]))
    if position is not None and (units is None or len(units) != 1):
        raise UsageError(f"{text!r}: a position needs one unit, as in path:137@7,4")
    call = int(match["call"] or 1)
    if call < 1:
        raise UsageError(f"{text!r}: calls are counted from 1")
    return Address(match["layer"], call, units, position)


def listed_layers(text: str) -> list[str]:
    """Layer patterns between commas; a comma between the units of a layer, ``conv:0,5-7``, does not part them."""
    found: list[str] = []
    for part in (part.strip() for part in text.split(",")):
        with_units = bool(found) and ":" in found[-1] and not found[-1].startswith("@stage:")
        if with_units and re.fullmatch(r"\d+(-\d+)?", part):
            found[-1] += f",{part}"
        elif part:
            found.append(part)
    return found


def _units(text: str) -> Iterable[int]:
    for part in text.split(","):
        first, _, last = part.partition("-")
        if last and int(last) < int(first):
            raise UsageError(f"unit range {part} runs backwards")
        yield from range(int(first), int(last or first) + 1)


def modules_by_path(model: nn.Module) -> dict[str, nn.Module]:
    """Every module under every name it has (aliased modules have several); the root, '', is left out."""
    return {path: module for path, module in model.named_modules(remove_duplicate=False) if path}


def find_module(model: nn.Module, path: str) -> nn.Module:
    """The module at a path, or an error with the nearest ones."""
    if path == "":
        return model
    modules = modules_by_path(model)
    if path not in modules:
        raise unknown("layer", path, modules, "`convscope layers MODEL` lists them")
    return modules[path]


def matching(pattern: str, keys: Sequence[str]) -> list[str]:
    """The keys that a glob selects, in their order; ``*`` also crosses dots."""
    found = [key for key in keys if fnmatchcase(key, pattern)]
    if not found:
        raise unknown("layer", pattern, keys, "no layer matches this pattern")
    return found
