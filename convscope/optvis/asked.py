"""What an address asks for: units of a layer, a neuron, classes, as an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from convscope.errors import UsageError
from convscope.instrument.address import LOGITS, Address, parse_address
from convscope.instrument.layers import resolve, resolve_one
from convscope.instrument.target import class_names, classes_listed
from convscope.instrument.trace import trace
from convscope.models.classifier import Classifier
from convscope.optvis import plan
from convscope.optvis.objectives import Objective, Units, channel, logit, neuron


def layers_of(classifier: Classifier, pattern: str) -> list[str]:
    """The layers that an address, glob or alias means; of those that give the same maps the one that made them, or
    what is built around it.
    """
    image = classifier.blank()
    found = resolve(classifier.network, pattern, image, through=classifier)
    taken = trace(classifier.network, image, through=classifier)
    same: dict[object, Address] = {}
    for address in found:
        event = taken.event(address.key)
        value = address.key if event is None or event.value is None else event.value
        before = same.get(value)
        if before is None or f"{before.path}.".startswith(f"{address.path}."):
            same[value] = address
    return [str(address) for address in same.values()]


def merged(addresses: Sequence[str]) -> list[str]:
    """Units of a layer that are named apart as one address, so that they are one sheet; a neuron stays alone."""
    found: dict[str, Address] = {}
    for one in map(parse_address, addresses):
        key = str(replace(one, units=None))
        before = found.setdefault(key, one)
        if before.units is None or one.units is None:
            found[key] = replace(before, units=None)
        else:
            found[key] = replace(before, units=tuple(dict.fromkeys((*before.units, *one.units))))
    return [str(address) for address in found.values()]


def objective_of(classifier: Classifier, what: str, units: Units | None, negative: bool) -> tuple[Objective, list[str]]:
    """An address's objective: ``layer``, ``layer:0-63``, ``layer:12@7,4``, ``@logits`` or ``@logits:tench,goldfish``.

    And what its user should know of it. ``units`` may be given apart; none are all of the layer.
    """
    if what == LOGITS or what.startswith(f"{LOGITS}:"):
        return _classes(classifier, what, units, negative), []
    image = classifier.blank()
    address = resolve_one(classifier.network, what, image, through=classifier)
    notes: list[str] = []
    if negative:
        before = plan.unrectified(classifier, address)
        if before != address:
            notes.append(f"{address.key} is rectified: what its units want least is read before that, at {before.key}")
        address = before
    chosen = _units(classifier, address, units)
    if address.position is not None:
        found = neuron(address.key, chosen, *address.position)
    else:
        found = channel(address.key, chosen)
    return (-found if negative else found), notes


def _units(classifier: Classifier, address: Address, units: Units | None) -> Units:
    if units is None:
        return address.units if address.units is not None else range(_width(classifier, address))
    if address.units is not None:
        raise UsageError(f"{address} names units already: leave out units=, or name the layer alone")
    return units


def _width(classifier: Classifier, address: Address) -> int:
    shape = plan.shapes(classifier, [address.key], classifier.canvas)[address.key]
    return shape[1] if len(shape) > 1 else 1


def _classes(classifier: Classifier, what: str, units: Units | None, negative: bool) -> Objective:
    classes = class_names(classifier)
    names = what.removeprefix(LOGITS).removeprefix(":")
    if names and units is not None:
        raise UsageError(f"{what} names classes already: leave out units=")
    if names:
        found = list(dict.fromkeys(classes_listed(classes, names)))  # synonyms are one class
    elif units is None:
        found = list(range(len(classes)))
    else:
        found = [classes.find(unit) for unit in logit(units).needs[0].units]
    objective = replace(logit(found), names=tuple(classes.short(index) for index in found))
    return -objective if negative else objective
