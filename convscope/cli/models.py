"""``convscope models``: where models come from, and the zoo."""

from __future__ import annotations

from typing import Any

from convscope.cli.options import Json
from convscope.cli.output import emit, say, table


def models(json: Json = False) -> None:
    """Where models come from, how they are written, and the networks of convscope's own zoo."""
    import convscope.models.sources  # noqa: F401  (registers them)
    from convscope.models.registry import SOURCES
    from convscope.models.zoo import ARCHITECTURES

    sources = [{"source": name, "summary": _first_line(function)} for name, function in SOURCES.items()]
    zoo = [_about(entry) for entry in ARCHITECTURES.values()]
    if json:
        emit({"sources": sources, "zoo": zoo})
        return
    table(("source", "what it is"), [(s["source"], s["summary"]) for s in sources])
    say("\nAdd @random for an untrained network, --weights FILE for a checkpoint of your own.\n")
    head = ("convscope:NAME", "input", "parameters", "trained", "what it is")
    rows = [(e["name"], e["input"], f"{e['parameters']:,}", "yes" if e["trained"] else "no", e["summary"]) for e in zoo]
    table(head, rows, right=("parameters",))


def _about(entry: Any) -> dict[str, Any]:
    import torch

    with torch.device("meta"):  # counted without making them
        parameters = sum(p.numel() for p in entry.build().parameters())
    height, width = (entry.size, entry.size) if isinstance(entry.size, int) else entry.size
    return {
        "name": entry.name,
        "input": f"{entry.channels}x{height}x{width}",
        "parameters": parameters,
        "trained": entry.pretrained is not None,
        "summary": entry.summary.replace("``", ""),
    }


def _first_line(function: Any) -> str:
    return (function.__doc__ or "").strip().splitlines()[0].replace("``", "")
