"""Which files on the disk are to be tailed, and where a file went that is not in its place any more."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

Key = tuple[int, int]
"""Device and inode."""
_PACKED = (".gz", ".xz", ".bz2", ".zst", ".lz4", ".zip", ".Z")
_GENERATION = re.compile(r"(?:[.-][0-9][0-9T.:_-]*|\.old|\.bak|\.prev)$")
_DATED = re.compile(r"[.-][0-9]{8}[0-9T:_-]*(?=\.)")
_NUMBER = r"(?:[.-][0-9][0-9T.:_-]*)?"
_LOOKS_MAX = 10


@dataclass(frozen=True, slots=True)
class Sibling:
    """A regular file in the directory of a log, as a listing saw it."""

    path: Path
    key: Key
    modified_ns: int
    changed_ns: int


def matching(pattern: Path) -> Iterator[Path]:
    """The files of a glob; what a rotation has compressed was read before that."""
    for name in sorted(glob.glob(str(pattern), recursive=True)):
        if not name.endswith(_PACKED):
            yield Path(name)


def key_of(path: Path) -> Key | None:
    """Which file is at `path` now; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def siblings(path: Path, *, compressed: bool = False) -> dict[Key, Sibling]:
    """The regular files beside `path` and at it, without what is compressed, or that alone.

    A rotation renames a whole chain of files, and a listing taken meanwhile can miss any of them: the directory is read
    until two readings agree. The last name seen of each file counts.
    """
    found: dict[Key, Sibling] = {}
    for _ in range(_LOOKS_MAX):
        before = len(found)
        found |= {sibling.key: sibling for sibling in _listing(path.parent, compressed)}
        if before == len(found):
            break
    return found


def _listing(directory: Path, compressed: bool) -> Iterator[Sibling]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    if entry.is_file(follow_symlinks=False) and entry.name.endswith(_PACKED) == compressed:
                        status = entry.stat(follow_symlinks=False)
                        key = (status.st_dev, status.st_ino)
                        yield Sibling(Path(entry.path), key, status.st_mtime_ns, status.st_ctime_ns)
                except FileNotFoundError:  # renamed meanwhile: the next reading has it
                    continue
    except OSError:
        return


def generations_since(path: Path, modified_ns: int, known: Container[Key]) -> list[Sibling]:
    """The files that a rotation put beside `path` after the one last written at `modified_ns`, oldest first: what was
    at `path` and moved away before anybody looked."""
    found = [
        sibling
        for sibling in siblings(path).values()
        if sibling.modified_ns > modified_ns and sibling.key not in known and _descends(sibling.path, path)
    ]
    return sorted(found, key=lambda sibling: sibling.modified_ns)


def packed(path: Path) -> list[Sibling]:
    """The compressed generations of `path`, oldest first."""
    found = [s for s in siblings(path, compressed=True).values() if _descends(unpacked(s.path), path)]
    return sorted(found, key=lambda sibling: sibling.modified_ns)


def unpacked(path: Path) -> Path:
    """What a compressed file was called before."""
    return path.with_suffix("")


def without_generation(path: Path) -> Path:
    """What `path` was called before a rotation put a number or a date behind its name."""
    return path.with_name(_GENERATION.sub("", path.name) or path.name)


def follows(older: Sibling, path: Path, removed_ns: int) -> bool:
    """Whether `older` came directly after the generation of `path` that was removed at `removed_ns`: where each rotation
    renames all of them, it has stood in its place since. Names with dates do not tell, they are given once."""
    numbered = re.fullmatch(re.escape(path.name) + r"(?:[.-][0-9]{1,3}|\.old|\.bak|\.prev)", older.path.name)
    return numbered is not None and older.changed_ns <= removed_ns


def copies(path: Path) -> list[Sibling]:
    """What may be a copy of the file at `path`, newest first."""
    found = [s for s in siblings(path).values() if s.path.name.startswith(path.name) or _descends(s.path, path)]
    return sorted(found, key=lambda sibling: -sibling.modified_ns)


def _descends(path: Path, base: Path) -> bool:
    """Whether `path` is named as rotations name an older file of `base`: app.log.1, app.log-20260131, app-20260131.log."""
    stem, dot, suffix = base.name.partition(".")
    shape = f"{re.escape(stem)}{_NUMBER}{re.escape(dot + suffix)}{_NUMBER}" + r"(?:\.old|\.bak|\.prev)?"
    return path.name != base.name and re.fullmatch(shape, path.name) is not None


def is_generation(path: Path, others: Container[Path]) -> bool:
    """Whether a file that a glob such as "app.log*" matches is an older one of another that it matches."""
    bases = {shape.sub("", path.name) for shape in (_GENERATION, _DATED)} - {path.name, ""}
    return any(path.with_name(base) in others for base in bases)
