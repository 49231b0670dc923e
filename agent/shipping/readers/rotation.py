"""Which files on the disk are to be tailed, and where a file went that is not in its place any more."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

_PACKED = (".gz", ".xz", ".bz2", ".zst", ".lz4", ".zip", ".Z")
_GENERATION = re.compile(r"(?:[.-][0-9][0-9T.:_-]*|\.old|\.bak|\.prev)$")
_NUMBER = r"(?:[.-][0-9][0-9T.:_-]*)?"


def matching(pattern: Path) -> Iterator[Path]:
    """The files of a glob; what a rotation has compressed was read before that."""
    for name in sorted(glob.glob(str(pattern), recursive=True)):
        if not name.endswith(_PACKED):
            yield Path(name)


def siblings(path: Path) -> Iterator[os.DirEntry[str]]:
    """The regular files beside `path`, without what is compressed."""
    try:
        with os.scandir(path.parent) as entries:
            yield from [e for e in entries if e.is_file(follow_symlinks=False) and not e.name.endswith(_PACKED)]
    except OSError:
        return


def by_inode(path: Path, key: tuple[object, object]) -> Path | None:
    """Where the file that was at `path` is now."""
    for entry in siblings(path):
        found = entry.stat(follow_symlinks=False)
        if (found.st_dev, found.st_ino) == key:
            return Path(entry.path)
    return None


def generations_since(path: Path, modified_ns: int, known: Iterable[tuple[int, int]]) -> list[Path]:
    """The files that a rotation put beside `path` after the one last written at `modified_ns`, oldest first: what was
    at `path` and moved away before anybody looked."""
    stem, dot, suffix = path.name.partition(".")
    shape = re.compile(re.escape(stem) + _NUMBER + re.escape(dot + suffix) + _NUMBER + r"(?:\.old|\.bak|\.prev)?")
    seen, found = set(known), []
    for entry in siblings(path):
        status = entry.stat(follow_symlinks=False)
        rotated = entry.name != path.name and shape.fullmatch(entry.name)
        if rotated and status.st_mtime_ns > modified_ns and (status.st_dev, status.st_ino) not in seen:
            found.append((status.st_mtime_ns, Path(entry.path)))
    return [candidate for _, candidate in sorted(found)]


def is_generation(path: Path, others: Container[Path]) -> bool:
    """Whether a file that a glob such as "app.log*" matches is an older one of another that it matches."""
    base = _GENERATION.sub("", path.name)
    return base != path.name and path.with_name(base) in others
