"""WebDataset shards: tar files of samples, each a photo and its label under one name, read in place."""

from __future__ import annotations

import glob
import json
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from convscope.data.listing import SPLITS, WORDS, Listing, Refused
from convscope.data.sources.entries import cannot_read, hidden, is_photo, natural, some
from convscope.data.sources.options import PLAIN, SourceOptions, by_index, decoded, listed
from convscope.data.store import members
from convscope.errors import ImageError, UsageError
from convscope.images.read import printable

PACKED = re.compile(r"\.(?:tar\.(gz|bz2|xz|zst)|(tgz|tbz2?|txz|tzst))$", re.IGNORECASE)
UNPACK = {
    b"\x1f\x8b": "gzip -d",
    b"BZh": "bzip2 -d",
    b"\xfd7zXZ": "xz -d",
    b"(\xb5/\xfd": "zstd -d",
}  # by a file's head
BRACES = re.compile(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}")
MOST = 100_000  # shards
LARGEST = {".cls": 1 << 12, ".json": 1 << 20}  # bytes of a label's member
KEYS = ("label", "class", "cls")  # of a .json member
BLOCK = tarfile.BLOCKSIZE
SEVERAL = "holds several photos"


class Found(NamedTuple):
    """A photo in a shard, and what its sample says it is."""

    shard: str
    name: str
    start: int
    size: int
    label: str | None
    split: str | None


@dataclass(slots=True)
class _Sample:
    """Members of one name. Photos by what follows the name, as (member, start, size)."""

    photos: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)  # by the member they came from, .cls or .json
    others: list[str] = field(default_factory=list)
    problem: str = ""

    def chosen(self) -> str:
        """The photo's suffix: the only one, or the only one that follows the name at once; "" if that says nothing."""
        simple = [end for end in self.photos if "." not in end[1:]]
        return next(iter(simple if len(simple) == 1 else self.photos)) if len(simple) < 2 and self.photos else ""


def is_packed(name: str) -> bool:
    """Whether a name is that of a compressed tar file."""
    return PACKED.search(name) is not None


def is_pattern(source: str) -> bool:
    """Whether a source that is no file names several shards."""
    return (source.lower().endswith(".tar") or is_packed(source)) and (
        BRACES.search(source) is not None or glob.has_magic(source)
    )


def read_shards(source: str, options: SourceOptions = PLAIN) -> Listing:
    """Plain tar files: one, a folder of them or with train/val/test folders, a glob, or a range ``data-{00..12}.tar``.

    A sample is what shares a name up to the first dot of its last part; its label is in ``.cls``, or in ``.json`` as
    "label", "class" or "cls". The split is said by the shard's folder, or by the word its name begins with.
    """
    found: list[Found] = []
    refused: list[Refused] = []
    passed: list[str] = []
    base, shards = find_shards(source)
    for shard in shards:
        path = os.path.join(base, shard)
        try:
            with open(path, "rb") as file:
                photos = _photos(file, path, shard, refused, passed)
        except OSError as error:
            raise cannot_read(path, error) from None
        found += [photo._replace(split=_split(shard)) for photo in photos]
    remarks = [f"of several pictures in a sample the plainest was taken, not {some(passed, 3)}"] if passed else []
    if any(photo.label is not None for photo in found):
        reason = "has no label: no .cls, nor a label in .json"
        refused += [Refused(photo.name, reason) for photo in found if photo.label is None]
        found = [photo for photo in found if photo.label is not None]
    words, notes = by_index(source, [photo.label for photo in found], options)
    return listed(
        source, "shards", members([photo[:4] for photo in found]), words, options,
        splits=[photo.split for photo in found], refused=refused, remarks=remarks + notes,
    )  # fmt: skip


def find_shards(source: str) -> tuple[str, list[str]]:
    """The folder that a source's shards have in common, and their names below it, in natural order."""
    source = os.path.expanduser(source)
    if os.path.isdir(source):
        base, names = source, shards_in(source)
    elif os.path.lexists(source):
        base, name = os.path.split(source)
        names = [name]
    else:
        base, names = _matching(source)
    if packed := [name for name in names if is_packed(name)]:
        raise _compressed(os.path.join(base, packed[0]))
    if not names:
        raise UsageError(f"{printable(source)}: no such shards; a shard is a file ending in .tar")
    return base, names


def shards_in(folder: str) -> list[str]:
    """The shards right in a folder and in its train/val/test folders; compressed ones too, to be refused."""
    inner = [""]
    try:
        inner += [f"{name}/" for name in os.listdir(folder) if name.strip().casefold() in WORDS]
        names = [
            home + name
            for home in inner
            if os.path.isdir(os.path.join(folder, home))
            for name in os.listdir(os.path.join(folder, home))
            if not hidden(name) and (name.lower().endswith(".tar") or is_packed(name))
        ]
    except OSError as error:
        raise cannot_read(folder, error) from None
    return sorted(names, key=natural)


def _matching(pattern: str) -> tuple[str, list[str]]:
    """What a pattern of braces and globs names. All that braces name must be there."""
    names = _expanded(pattern)
    if gone := [name for name in names if not glob.has_magic(name) and not os.path.isfile(name)]:
        raise UsageError(f"{printable(pattern)}: {len(gone):,} of {len(names):,} shards are missing: {some(gone, 3)}")
    parts = re.split(r"[*?\[{]", pattern)
    base = os.path.dirname(parts[0])
    found = {match for name in names for match in (glob.glob(name, recursive=True) if glob.has_magic(name) else [name])}
    return base, sorted((os.path.relpath(name, base or ".").replace(os.sep, "/") for name in found), key=natural)


def _expanded(pattern: str) -> list[str]:
    """A pattern's braces written out, the inner ones first: ``{00..12}`` counts with its zeros, ``{a,b}`` lists."""
    names = [pattern]
    while found := [match for name in names if (match := BRACES.search(name))]:
        first, last, words = found[0].groups()
        if words is None and not int(first) <= int(last) < int(first) + MOST:
            raise UsageError(f"{printable(pattern)}: {found[0][0]} counts down, or to more than {MOST:,} shards")
        count = len(names) * (len(words.split(",")) if words is not None else int(last) - int(first) + 1)
        if count > MOST:
            raise UsageError(f"{printable(pattern)} names {count:,} shards; at most {MOST:,}")
        names = [choice for match in found for choice in _choices(match)]
    return list(dict.fromkeys(names))


def _choices(match: re.Match[str]) -> list[str]:
    """What one pair of braces in a name stands for, each within the name."""
    first, last, words = match.groups()
    counted = words.split(",") if words is not None else _counted(first, last)
    return [match.string[: match.start()] + choice + match.string[match.end() :] for choice in counted]


def _counted(first: str, last: str) -> list[str]:
    return [f"{i:0{len(first)}d}" for i in range(int(first), int(last) + 1)]


def _compressed(path: str, tool: str = "") -> UsageError:
    match = PACKED.search(path)
    ends = (match[1] or match[2]).lower() if match else ""
    tool = tool or next((t for e, t in (("gz", "gzip -d"), ("b", "bzip2 -d"), ("x", "xz -d")) if e in ends), "zstd -d")
    return UsageError(
        f"{printable(path)} is compressed; photos are read in place, which a plain tar allows: unpack it with "
        f"{tool} {printable(os.path.basename(path))}"
    )


def _split(shard: str) -> str | None:
    """The split that a shard's first folder is called by, or its name begins with."""
    *folders, name = shard.casefold().split("/")
    words = [*(folder.strip() for folder in folders[:1]), *re.findall(r"^[a-z]+", name)]
    return next((SPLITS[WORDS[word]] for word in words if word in WORDS), None)


def _photos(file: BinaryIO, path: str, shard: str, refused: list[Refused], passed: list[str]) -> list[Found]:
    """The photos of one shard. What is left out is noted."""
    samples: dict[str, _Sample] = {}
    for member in _members(file, path, shard, refused):
        folder, slash, name = member.name.rpartition("/")
        if member.isdir() or any(map(hidden, member.name.removeprefix("./").split("/"))):
            continue
        stem, dot, end = name.partition(".")
        _note(samples.setdefault(folder + slash + stem, _Sample()), member, (dot + end).lower(), file)
    photos = []
    for key, sample in samples.items():
        end = sample.chosen()
        problem = sample.problem
        if not problem and not sample.photos:
            problem = f"holds no photo ({some(sample.others)})"
        elif not problem and not end:
            problem = f"{SEVERAL} ({some(list(sample.photos))})"
        label = sample.labels.get(".cls", sample.labels.get(".json"))
        if problem:
            refused.append(Refused(f"{shard}/{key}", problem, label or ""))
            continue
        passed += [f"{shard}/{name}" for other, (name, _, _) in sample.photos.items() if other != end]
        name, start, size = sample.photos[end]
        photos.append(Found(path, f"{shard}/{name}", start, size, label, None))
    return photos


def _note(sample: _Sample, member: tarfile.TarInfo, end: str, file: BinaryIO) -> None:
    """Add a member to its sample."""
    photo = is_photo(end)
    if not photo:
        sample.others.append(end or "no suffix")
    if not photo and end not in LARGEST:
        return
    if not member.isreg() or member.issparse():
        what = "a sparse file" if member.issparse() else "a link" if member.islnk() or member.issym() else "no file"
        sample.problem = f"{end} is {what} in the tar, which cannot be read in place"
    elif end in sample.photos or end in sample.labels:
        sample.problem = f"{end} is in the shard twice"
    elif photo:
        sample.photos[end] = member.name, member.offset_data, member.size
    else:
        file.seek(member.offset_data)
        label = _label(file.read(min(member.size, LARGEST[end])), end)
        if label is None and end == ".cls":
            sample.problem = ".cls is no text that names a class"
        elif label is not None:
            sample.labels[end] = label


def _label(content: bytes, end: str) -> str | None:
    """What a member says of its sample's class."""
    try:
        text = content.decode("utf-8-sig")
        found = text.strip()
        if end == ".json":
            record = json.loads(text)
            said = [record[key] for key in KEYS if record.get(key) is not None] if isinstance(record, dict) else []
            named = said and isinstance(said[0], str | int) and not isinstance(said[0], bool)
            found = str(said[0]).strip() if named else ""
    except (ValueError, RecursionError):
        return None
    return found if found and decoded(found) and "\n" not in found else None


def _members(file: BinaryIO, path: str, shard: str, refused: list[Refused]) -> Iterator[tarfile.TarInfo]:
    """The whole members of a tar file, in order; where it is cut off or damaged, that is noted and is the end."""
    length = os.fstat(file.fileno()).st_size
    count = 0
    try:
        tar = tarfile.TarFile(fileobj=file)
        while (member := tar.next()) is not None:
            vars(tar)["members"].clear()  # it would keep them all
            if member.isreg() and not member.issparse() and not 0 <= member.size <= length - member.offset_data:
                raise tarfile.ReadError("it ends in the middle of a file")
            count += 1
            yield member
        file.seek(tar.offset)
        block = file.read(BLOCK)
        if block.strip(b"\0") or len(block) < BLOCK:
            raise tarfile.ReadError("it has no end mark" if not block else "what follows is no file's header")
    except (tarfile.TarError, ValueError, EOFError) as error:
        if not count:
            file.seek(0)
            head = file.read(8)
            if tools := [tool for begin, tool in UNPACK.items() if head.startswith(begin)]:
                raise _compressed(path, tools[0]) from None
            raise ImageError(f"{printable(path)} is no tar file, or is damaged from its beginning ({error})") from None
        refused.append(Refused(shard, f"truncated or damaged after {count:,} members: {error}"))
