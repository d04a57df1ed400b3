"""Where photos come from: one file a kind of source, and the one door to them all."""

from __future__ import annotations

import difflib
import glob
import os
from collections.abc import Callable, Mapping
from dataclasses import fields, replace

from convscope.data.listing import Listing
from convscope.data.sources.entries import cannot_read, is_photo, suffix
from convscope.data.sources.folder import has_class_folder, read_folder
from convscope.data.sources.idx import holds_images, is_images, read_idx
from convscope.data.sources.named import SETS, read_named
from convscope.data.sources.options import PLAIN, SourceOptions
from convscope.data.sources.shards import is_packed, is_pattern, read_shards, shards_in
from convscope.data.sources.table import read_csv, read_json_lines, read_list
from convscope.errors import UsageError, unknown
from convscope.images.read import printable

__all__ = ["SETS", "SourceOptions", "open_source"]

Reader = Callable[[str, SourceOptions], Listing]
TABLES: dict[str, Reader] = {
    **dict.fromkeys((".csv", ".tsv"), read_csv),
    **dict.fromkeys((".jsonl", ".ndjson"), read_json_lines),
    **dict.fromkeys((".txt", ".lst", ".list", ""), read_list),
}
USES: dict[Reader, set[str]] = {  # the options that mean something for each kind; others are refused
    read_folder: {"group", "classes"},
    read_list: {"group", "classes", "root"},
    read_csv: {"group", "classes", "root", "columns"},
    read_json_lines: {"group", "classes", "root", "columns"},
    read_idx: {"group", "classes"},
    read_shards: {"group", "classes"},
    read_named: {"group", "classes", "root", "download"},
}
FORMS = "a folder of photos, a list (.txt, .csv, .jsonl), IDX files or tar shards"


def open_source(source: str, options: SourceOptions = PLAIN) -> Listing:
    """The photos that a source names: a folder, a list, IDX files, tar shards, or a set that is known by name.

    What is there wins over a set of the same name. UsageError or ImageError, one line, if it is none of these.
    """
    source = str(source)
    path = os.path.expanduser(source)
    if not source.strip():
        raise UsageError(f"no source is named; it is {FORMS}")
    if os.path.exists(path):
        read = _kind(path)
    elif source in SETS or source.startswith("torchvision:"):
        path, read = source, read_named
    elif is_pattern(source):
        read = read_shards
    else:
        raise _missing(source)
    for option in fields(options):
        if getattr(options, option.name) != getattr(PLAIN, option.name) and option.name not in USES[read]:
            raise UsageError(f"{printable(source)}: --{option.name} is of no use for this kind of source; leave it out")
    found = replace(read(path, options), source=printable(source))
    if read is not read_named and source in SETS:
        return replace(found, remarks=(*found.remarks, f"{source} is read from here, not the set of that name"))
    return found


def _kind(path: str) -> Reader:
    """What reads a file or folder that is there."""
    name = os.path.basename(path)
    if os.path.isdir(path):
        return _kind_of_folder(path)
    if not os.path.isfile(path):
        raise UsageError(f"{printable(path)} is neither a file nor a folder; a source is {FORMS}")
    if is_images(name):
        return read_idx
    if suffix(name) == ".tar" or is_packed(name):
        return read_shards
    if suffix(name) in TABLES:
        return TABLES[suffix(name)]
    if is_photo(name):
        raise UsageError(f"{printable(path)} is a single photo; a source of photos is {FORMS}")
    if suffix(name) in (".zip", ".7z", ".rar", ".gz"):
        raise UsageError(f"{printable(path)} is an archive: unpack it and name the folder")
    raise UsageError(f"{printable(path)}: a file ending in {suffix(name)} is no source of photos; give {FORMS}")


def _kind_of_folder(path: str) -> Reader:
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if not is_photo(entry.name)]
    except OSError as error:
        raise cannot_read(path, error) from None
    if holds_images(names):
        return read_idx
    # An unpacked archive may lie beside its tar: photos in folders are what was meant.
    return read_shards if shards_in(path) and not has_class_folder(path) else read_folder


def _nearest(wanted: str, known: Mapping[str, str]) -> list[str]:
    """What is called nearly so, the nearest first; hyphens and capitals aside, as people write MNIST and CIFAR-10."""
    alike = {key: difflib.SequenceMatcher(None, _bare(wanted), _bare(word)).ratio() for key, word in known.items()}
    return sorted((key for key, ratio in alike.items() if ratio > 0.7), key=lambda key: -alike[key])


def _bare(name: str) -> str:
    return name.casefold().replace("-", "").replace("_", "")


def _missing(source: str) -> UsageError:
    """That there is no such source, with what is called nearly so."""
    if ":" in source and source.partition(":")[0].isidentifier() and len(source.partition(":")[0]) > 1:
        return unknown("set", source, SETS, "no such file or folder either")
    if glob.has_magic(source):
        return UsageError(f"{printable(source)}: a pattern may name tar shards only; name the folder of the photos")
    folder, name = os.path.split(os.path.expanduser(source).rstrip("/"))
    try:
        there = {os.path.join(folder, other): other for other in os.listdir(folder or ".")}
    except OSError:
        there = {}
    near = _nearest(name, there)
    if name == source:  # a set is named without a folder
        near += _nearest(name, {other: other.removeprefix("torchvision:") for other in SETS})
    where = "" if os.path.isabs(os.path.expanduser(source)) else f" in {printable(os.getcwd())}"
    hint = f"; nearest: {', '.join(map(printable, near[:4]))}" if near else f"; a source is {FORMS}"
    return UsageError(f"{printable(source)}: no such file or folder{where}{hint}")
