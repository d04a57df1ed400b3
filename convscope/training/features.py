"""Features of a frozen base, computed once: what learns is then trained on them alone, in seconds.

They are kept in the cache under everything that they depend on: the base's weights and structure, where it is cut, how
photos are framed and normalised, and each photo's content. Another run with the same base finds them there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from convscope.data.cache import cache_folder, key_of, replacing
from convscope.data.listing import Refused
from convscope.data.loading import Batch, Loader, Photos, cut, pixels_of, workers_for
from convscope.errors import UsageError
from convscope.instrument.state import undisturbed
from convscope.instrument.weights import raw_bytes, weights_key
from convscope.models.classifier import Classifier
from convscope.progress import track
from convscope.training.chance import seed_dropout
from convscope.training.freeze import DROPOUTS, set_modes
from convscope.types import Logits

SHARD = 1024  # photos a file: what a kill can cost
AT_ONCE = 32
LARGEST = 4 * 2**30  # bytes of features that are still reasonable to keep


@dataclass(frozen=True, eq=False)
class Cut:
    """A network in two: all that learns is in ``tail``, whose input the base computes."""

    classifier: Classifier
    path: str  # of the tail's first module
    tail: nn.Module

    def features(self, images: Tensor) -> Tensor:
        """What the base makes of pixels "b c h w" in [0, 1]."""
        return self.both(images)[0]

    def both(self, images: Tensor) -> tuple[Tensor, Logits]:
        first = self.classifier.network.get_submodule(self.path)
        kept: list[Tensor] = []
        with _before(first, kept):
            logits = self.classifier(images)
        if len(kept) != 1:
            raise _NotInTwo
        return kept[0], logits

    def logits(self, features: Tensor) -> Logits:
        return self.classifier.logits(self.tail(features), len(features))


class _NotInTwo(Exception):
    """The module runs more than once, or is not given one tensor."""


@contextmanager
def _before(module: nn.Module, kept: list[Tensor]) -> Iterator[None]:
    """Keep what a module is given."""

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
            raise _NotInTwo
        kept.append(args[0].clone())

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def cut_network(classifier: Classifier, chosen: set[str], image: Tensor) -> Cut | None:
    """Cut a network before the first module that learns; None where it cannot be cut in two there.

    Sequential networks, and those whose learning part is one module at their end, can. That the two halves give what
    the whole gives, in use and in training, is proved on images, not assumed.
    """
    parts = _from_first(classifier.network, "", chosen)
    if not parts or parts[0][0] == "":
        return None
    modules = [module for _, module in parts]
    dropped = [_DropoutOf(module) for module in classifier.network.modules() if getattr(module, "drop_rate", 0)]
    for before in ([], *([each] for each in dropped)):
        inside = [*before, *modules]
        found = Cut(classifier, parts[0][0], inside[0] if len(inside) == 1 else nn.Sequential(*inside))
        if _proved(found, chosen, probe_of(image)):
            return found
    return None


def probe_of(image: Tensor) -> Tensor:
    """Two images of noise, the same at any time."""
    return torch.rand(2, *image.shape[1:], generator=torch.Generator().manual_seed(0)).to(image)


class _DropoutOf(nn.Module):
    """The dropout that a network calls as a function before its head, as timm's do: between what is cut."""

    def __init__(self, owner: nn.Module) -> None:
        super().__init__()
        self._owner = (owner,)  # not a part of this one

    def forward(self, features: Tensor) -> Tensor:
        (owner,) = self._owner
        return F.dropout(features, float(owner.drop_rate), owner.training)  # type: ignore[arg-type]


def _proved(found: Cut, chosen: set[str], probe: Tensor) -> bool:
    """Whether the halves give what the whole gives, whatever the tail's weights are, also where dropout is on."""
    network = found.classifier.network
    held = [(tensor, tensor.detach().clone()) for tensor in (*found.tail.parameters(), *network.buffers())]
    generator = torch.Generator().manual_seed(0)
    try:
        with undisturbed(found.classifier, grad=False):
            features, _ = found.both(probe)
            if len(features) != 2 or not features.is_floating_point():
                return False
            for weight in found.tail.parameters():  # a head that is all zeros would agree with anything
                weight.add_(torch.randn(weight.shape, generator=generator).to(weight), alpha=0.1)
            for training in (False, True):
                if training:
                    set_modes(network, chosen)
                seed_dropout(probe.device, 0)  # ``undisturbed`` restores it
                _, whole = found.both(probe)
                seed_dropout(probe.device, 0)
                if not _close(found.logits(features), whole):
                    return False
    except (_NotInTwo, RuntimeError, TypeError, ValueError):  # the last of BatchNorm that has nothing to average
        return False
    finally:
        with torch.no_grad():
            for tensor, before in held:
                tensor.copy_(before)
    return True


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def _from_first(module: nn.Module, path: str, chosen: set[str]) -> list[tuple[str, nn.Module]]:
    """The modules that run from the first learning one on, or from the dropout before it."""
    own = any(f"{path}.{name}".lstrip(".") in chosen for name in module._parameters)
    children = list(module.named_children())
    paths = [f"{path}.{name}".lstrip(".") for name, _ in children]
    learns = [any(name.startswith(f"{p}.") for name in chosen) for p in paths]
    if own or not any(learns):
        return [(path, module)]
    first = learns.index(True)
    inside = _from_first(children[first][1], paths[first], chosen)
    if type(module).forward is nn.Sequential.forward:
        every = [(p, child) for p, (_, child) in zip(paths, children, strict=True)]
        begin = first
        while inside[0][0] == paths[first] and begin and isinstance(every[begin - 1][1], DROPOUTS):
            begin -= 1
        return every[begin:first] + inside + every[first + 1 :]
    return inside if sum(learns) == 1 else [(path, module)]


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features of all photos of a catalog, in its order, as batches like a loader's."""

    values: Tensor  # "n ..."
    labels: np.ndarray
    absent: tuple[Refused | None, ...]
    computed: int  # the others were in the cache

    def __getitem__(self, rows: np.ndarray) -> Batch:
        lost = tuple(why for row in rows.tolist() if self.absent and (why := self.absent[row]) is not None)
        if lost:
            rows = np.array([row for row in rows.tolist() if self.absent[row] is None], np.int64)
        labels = torch.from_numpy(self.labels[rows].astype(np.int64))
        return Batch(self.values[torch.from_numpy(rows)], labels, rows, lost)


def features(
    cut_at: Cut, photos: Photos, *, largest: int = LARGEST, folder: Path | None = None, workers: int | None = None
) -> FeatureSet:
    """The base's features of every photo, from the cache as far as they are there.

    Told of and resumable: what is computed is kept by the thousand. Raises UsageError where they would take more than
    ``largest`` bytes.
    """
    classifier = cut_at.classifier
    assert photos.framing.size is not None
    probe = probe_of(torch.zeros(1, classifier.channels, *photos.framing.size, device=classifier.device))
    with undisturbed(classifier, grad=False):
        probed = cut_at.features(probe)
    shape, count = tuple(probed.shape[1:]), len(photos.catalog)
    _check_size(count, shape, probed.element_size(), largest)
    place = (folder or cache_folder("features")) / base_key(cut_at, photos, probed)
    values = torch.zeros(count, *shape, dtype=probed.dtype)
    known = _recall(place, photos.catalog.hashes, values)
    missing = np.flatnonzero(~known)
    absent: list[Refused | None] = [None] * count
    loader = Loader(photos, workers_for(photos, workers))
    shard: list[int] = []
    with undisturbed(classifier, grad=False), closing(loader):
        parts = cut(missing, AT_ONCE)
        told = track(parts, "features of the frozen base", weigh=len)
        for part, batch in zip(told, loader.batches(parts), strict=True):
            if len(batch.rows):
                pixels = pixels_of(batch.images.to(classifier.device))
                values[torch.from_numpy(batch.rows)] = cut_at.features(pixels).cpu()
            lost = np.setdiff1d(part, batch.rows)
            for row, why in zip(lost.tolist(), batch.lost, strict=True):
                absent[row] = why
            shard += batch.rows.tolist()
            if len(shard) >= SHARD or part is parts[-1]:
                _keep(place, photos.catalog.hashes[shard], values[shard])
                shard = []
    return FeatureSet(values, photos.catalog.labels, tuple(absent) if any(absent) else (), len(missing))


def _check_size(count: int, shape: tuple[int, ...], each: int, largest: int) -> None:
    needed = each * count * int(np.prod(shape))
    if needed > largest:
        raise UsageError(
            f"features of {count:,} photos, {'x'.join(map(str, shape))} numbers each, take {needed / 2**30:.1f} GiB, "
            f"more than {largest / 2**30:.1f}: run the base in every epoch (--no-cache), or raise the limit "
            f"(--cache-limit {needed / 2**30 + 1:.0f})"
        )


def base_key(cut_at: Cut, photos: Photos, probed: Tensor) -> str:
    """What features depend on, photos aside: any change of it is another key.

    ``probed``: the features of images of noise, in which a change of the base's code shows.
    """
    classifier = cut_at.classifier
    digest = weights_key(classifier.network, without=[*cut_at.tail.parameters(), *cut_at.tail.buffers()])
    look = (photos.framing, photos.channels, photos.background, classifier.mean, classifier.std)
    return key_of(digest, raw_bytes(probed), str(classifier.network), cut_at.path, look)


def _recall(place: Path, hashes: np.ndarray, values: Tensor) -> np.ndarray:
    """Fill in the features that are kept: which rows are known then."""
    known = np.zeros(len(hashes), bool)
    wanted: dict[tuple[int, int], list[int]] = {}
    for row, (high, low) in enumerate(hashes.tolist()):
        wanted.setdefault((high, low), []).append(row)
    for file in sorted(place.glob("*.safetensors")):
        try:
            found = load_file(file)
            kept, kept_values = found["hashes"].view(torch.uint64).numpy(), found["values"]
        except Exception:  # damaged: computed again. safetensors has errors of its own
            continue
        if kept_values.shape[1:] != values.shape[1:] or kept_values.dtype != values.dtype:
            continue
        pairs = [(i, row) for i, (high, low) in enumerate(kept.tolist()) for row in wanted.get((high, low), ())]
        if pairs:
            sources, rows = map(list, zip(*pairs, strict=True))
            values[rows] = kept_values[sources]
            known[rows] = True
    return known


def _keep(place: Path, hashes: np.ndarray, values: Tensor) -> None:
    """Add a file to what is kept, named by what is in it. A disk that refuses makes no cache, and no error."""
    try:
        with replacing(place / f"{key_of(hashes.tobytes())}.safetensors") as draft:
            signed = torch.from_numpy(np.ascontiguousarray(hashes).view(np.int64))
            save_file({"hashes": signed, "values": values.contiguous()}, draft)
    except Exception:  # safetensors has errors of its own
        return
