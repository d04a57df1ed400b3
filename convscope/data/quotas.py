"""Dividing photos by quotas of their classes without parting groups: the order, what belongs together, the counts."""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter

import numpy as np

from convscope.data.listing import NONE, TEST, TRAIN, VAL
from convscope.data.mixing import mixed

# --- what belongs together, and the order


def seeded(seed: int, hashes: np.ndarray | None, count: int) -> tuple[np.ndarray, np.ndarray]:
    """An order that the seed and the contents (without hashes the positions) alone determine, and each photo's
    content as a number, equal for duplicates."""
    if hashes is None:
        hashes = np.stack([np.zeros(count, np.uint64), np.arange(count, dtype=np.uint64)], axis=1)
    first, second = hashes[:, 0], hashes[:, 1]
    key = mixed(mixed(mixed(np.array([seed % 2**64], np.uint64)) ^ first) ^ second)
    order = np.lexsort((second, first, key))
    new = (np.diff(first[order]) != 0) | (np.diff(second[order]) != 0)
    content = np.empty(count, np.int64)
    content[order] = np.concatenate([[0], np.cumsum(new)])
    return order, content


def dense(groups: np.ndarray) -> np.ndarray:
    """Group numbers from 0 without gaps; every photo of a negative one is its own group."""
    _, numbers = np.unique(groups, return_inverse=True)
    alone = groups < 0
    numbers[alone] = len(groups) + np.arange(alone.sum())
    return numbers


def units(content: np.ndarray, groups: np.ndarray | None) -> np.ndarray:
    """The number of what may not be parted, for each photo: what groups and duplicates join, through any chain."""
    if groups is None:
        return content
    by_group = np.lexsort((content, groups))
    same = np.diff(groups[by_group]) == 0
    one, other = content[by_group[:-1]][same], content[by_group[1:]][same]
    parent = np.arange(content.max() + 1)
    while True:  # hook each root to a lower one, then point everything at its root
        low, high = np.minimum(parent[one], parent[other]), np.maximum(parent[one], parent[other])
        apart = low != high
        if not apart.any():
            return parent[content]
        one, other = one[apart], other[apart]
        np.minimum.at(parent, high[apart], low[apart])
        while not np.array_equal(parent, further := parent[parent]):
            parent = further


# --- the counts


def apportion(totals: np.ndarray, weights: np.ndarray, must: np.ndarray) -> np.ndarray:
    """Largest remainders: ``totals`` "c" divided in proportion to ``weights`` "c 3", at least one wherever ``must``
    "c 3" says so; where there are too few for that, the first of those get one each."""
    scale = np.maximum(weights.sum(1, keepdims=True), 1)
    quotas, rest = np.divmod(totals[:, None] * weights, scale)
    seats = totals - quotas.sum(1)
    ranks = np.argsort(np.argsort(-rest, axis=1, kind="stable"), axis=1)  # ties in the order train, val, test
    quotas += ranks < seats[:, None]
    few = totals < must.sum(1)
    quotas[few] = (must & (must.cumsum(1) <= totals[:, None]))[few]
    for kind in (TRAIN, VAL, TEST):
        lacks = np.flatnonzero(must[:, kind] & (quotas[:, kind] == 0) & ~few)
        donor = np.argmax((quotas - must)[lacks], axis=1)
        quotas[lacks, donor] -= 1
        quotas[lacks, kind] += 1
    return quotas


def divide(labels: np.ndarray, units: np.ndarray, quotas: np.ndarray, exact: bool) -> np.ndarray:
    """The split of photos, which come in seeded order: first the groups, then single photos fill what is left of the
    ``quotas`` "classes 3". ``exact``: no split may have more, and what is more of a group is not used."""
    of = np.full(len(labels), NONE, np.int8)
    alone = np.bincount(units)[units] == 1 if len(units) else np.ones(0, bool)
    singles = np.bincount(labels[alone], minlength=len(quotas))
    if not alone.all():
        of[~alone] = _place(labels[~alone], units[~alone], quotas, singles, exact)
    placed = np.bincount(labels[of >= 0] * 3 + of[of >= 0], minlength=quotas.size).reshape(quotas.shape)
    room = np.maximum(quotas - placed, 0)
    fill = apportion(np.minimum(singles, room.sum(1)), room, (room > 0) & (placed == 0))
    rank = _rank(labels[alone])
    to = (rank[:, None] >= fill.cumsum(1)[labels[alone]]).sum(1)
    of[alone] = np.where(to > TEST, NONE, to)
    return of


def _rank(keys: np.ndarray) -> np.ndarray:
    """How many of the same key come before each."""
    order = np.argsort(keys, kind="stable")
    counts = np.bincount(keys)
    rank = np.empty(len(keys), np.int64)
    rank[order] = np.arange(len(keys)) - (np.cumsum(counts) - counts)[keys[order]]
    return rank


def _place(labels: np.ndarray, units: np.ndarray, quotas: np.ndarray, singles: np.ndarray, exact: bool) -> np.ndarray:
    """The split of photos in groups: larger groups first, each where its classes lack the most of their quotas.

    What lacks counts by the size of the class, so that a rare class is divided as evenly as a frequent one. A split
    that a class has not reached yet comes first when only so many of its groups and single photos are left.
    """
    _, first, inverse, sizes = np.unique(units, return_index=True, return_inverse=True, return_counts=True)
    turns = np.empty(len(sizes), np.int64)
    turns[np.lexsort((first, -sizes))] = np.arange(len(sizes))
    turn = turns[inverse]
    pairs, counts = np.unique(turn * len(quotas) + labels, return_counts=True)
    turn_of, class_of = np.divmod(pairs, len(quotas))
    left = (singles + np.bincount(class_of, minlength=len(quotas))).tolist()
    room, scale = quotas.tolist(), (1.0 / np.maximum(quotas.sum(1), 1) ** 2).tolist()
    empty = [[kind for kind in (TRAIN, VAL, TEST) if lacks[kind]] for lacks in room]
    chosen = []
    for _, members in groupby(zip(turn_of.tolist(), class_of.tolist(), counts.tolist(), strict=True), itemgetter(0)):
        held = [(label, count) for _, label, count in members]
        wanted = [kind for kind in (TRAIN, VAL, TEST) if any(room[label][kind] > 0 for label, _ in held)]
        last = {kind for c, _ in held if left[c] <= len(empty[c]) for kind in empty[c][: left[c]]}
        need = {kind: sum(n * room[c][kind] * scale[c] for c, n in held) for kind in wanted}
        kind = max([k for k in wanted if k in last] or wanted, key=need.__getitem__, default=NONE)
        chosen.append(kind)
        for c, n in held:
            left[c] -= 1
            if kind != NONE:
                room[c][kind] -= n
                empty[c] = [other for other in empty[c] if other != kind]
    of = np.array(chosen, np.int8)[turn]
    if exact:
        used = np.argsort(turn, kind="stable")
        used = used[of[used] != NONE]
        cells = labels[used] * 3 + of[used]
        of[used[_rank(cells) >= quotas.ravel()[cells]]] = NONE
    return of
