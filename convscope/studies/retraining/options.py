"""Options of an architecture or of a training, as a study is told them: ``fc=2048 conv=512,1024,512``."""

from __future__ import annotations

import ast
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

from convscope.errors import UsageError

WORDS = {"true": True, "false": False, "none": None}


def options_of(text: Any) -> Any:
    """``name=value`` pairs between spaces; a value with commas is a list. What is no text stays."""
    if not isinstance(text, str):
        return text
    found = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not name or not equals or not value:
            raise UsageError(f"{part!r} is not of the form name=value, with spaces between one and the next")
        values = [_value(one) for one in value.split(",") if one]
        found[name] = values if "," in value else values[0]
    return found


def _value(text: str) -> Any:
    if text.lower() in WORDS:
        return WORDS[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def variants_of(text: Any) -> Any:
    """Variants between semicolons, each of options, called by its own text."""
    if not isinstance(text, str):
        return text
    parts = [" ".join(part.split()) for part in text.split(";")]
    return {part: options_of(part) for part in parts if part}


Options: TypeAlias = Annotated[dict[str, Any], BeforeValidator(options_of)]
Variants: TypeAlias = Annotated[dict[str, dict[str, Any]], BeforeValidator(variants_of)]
TRAINING_HELP = "more settings of every training, as in config.yaml: augment=light lr=.001"


def training_settings(given: dict[str, Any] | None, own: set[str]) -> dict[str, Any]:
    """Settings of convscope.train, of its section training; ``own``: those that the study itself decides."""
    from convscope.training.config import Training, resolve_config

    found = dict(given or {})
    for name in sorted(own & found.keys()):
        raise UsageError(f"training: {name} is the study's to decide: leave it out")
    for name, field in Training.model_fields.items():
        if name in found and "list" in str(field.annotation) and not isinstance(found[name], list):
            found[name] = [found[name]]
    if isinstance(found.get("augment"), list):  # rotation=10,flip has commas of its own
        found["augment"] = ",".join(map(str, found["augment"]))
    resolve_config({"training": found}, {})  # what is wrong is said now
    return found
