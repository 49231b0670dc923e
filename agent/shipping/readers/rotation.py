"""Finds log files and their rotated generations by name, device and inode."""

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
_LISTINGS_MAX = 10


@dataclass(frozen=True, slots=True)
class Sibling:
    """A regular file in the directory of a log, as of one listing."""

    path: Path
    key: Key
    modified_ns: int
    changed_ns: int


def matching(pattern: Path) -> Iterator[Path]:
    """Yield the files of a glob, except compressed ones, which were read before their compression."""
    for name in sorted(glob.glob(str(pattern), recursive=True)):
        if not name.endswith(_PACKED):
            yield Path(name)


def key_of(path: Path) -> Key | None:
    """Return device and inode of the file at `path`; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino)


def siblings(path: Path, *, compressed: bool = False) -> dict[Key, Sibling]:
    """Return the regular files in the directory of `path`, without compressed ones, or compressed ones only.

    A rotation renames a chain of files, and a listing at that moment can miss any of them. So the directory is read until
    two listings agree. The last name of each file counts.
    """
    files: dict[Key, Sibling] = {}
    for _ in range(_LISTINGS_MAX):
        before = len(files)
        files |= {sibling.key: sibling for sibling in _listing(path.parent, compressed)}
        if before == len(files):
            break
    return files


def _listing(directory: Path, compressed: bool) -> Iterator[Sibling]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    if entry.is_file(follow_symlinks=False) and entry.name.endswith(_PACKED) == compressed:
                        status = entry.stat(follow_symlinks=False)
                        key = (status.st_dev, status.st_ino)
                        yield Sibling(Path(entry.path), key, status.st_mtime_ns, status.st_ctime_ns)
                except FileNotFoundError:  # renamed meanwhile: the next listing has it
                    continue
    except OSError:
        return


def generations_since(path: Path, modified_ns: int, exclude: Container[Key]) -> list[Sibling]:
    """Return the generations of `path` that were last written after `modified_ns`, oldest first, except `exclude`.

    These files were at `path` and were moved before they could be opened there.
    """
    generations = [
        sibling
        for sibling in siblings(path).values()
        if sibling.modified_ns > modified_ns and sibling.key not in exclude and _descends(sibling.path, path)
    ]
    return sorted(generations, key=lambda sibling: sibling.modified_ns)


def packed(path: Path) -> list[Sibling]:
    """Return the compressed generations of `path`, oldest first."""
    generations = [s for s in siblings(path, compressed=True).values() if _descends(unpacked(s.path), path)]
    return sorted(generations, key=lambda sibling: sibling.modified_ns)


def unpacked(path: Path) -> Path:
    """Return the path of a compressed file before its compression."""
    return path.with_suffix("")


def without_generation(path: Path) -> Path:
    """Return `path` without the number or the date that a rotation appended."""
    return path.with_name(_GENERATION.sub("", path.name) or path.name)


def follows(older: Sibling, path: Path, removed_ns: int) -> bool:
    """Return whether `older` directly follows the generation of `path` that was removed at `removed_ns`.

    If each rotation renames all generations, `older` was not renamed since. Names with dates prove nothing, because they
    are given once.
    """
    numbered = re.fullmatch(re.escape(path.name) + r"(?:[.-][0-9]{1,3}|\.old|\.bak|\.prev)", older.path.name)
    return numbered is not None and older.changed_ns <= removed_ns


def copies(path: Path) -> list[Sibling]:
    """Return the files that may be copies of the file at `path`, newest first."""
    candidates = [s for s in siblings(path).values() if s.path.name.startswith(path.name) or _descends(s.path, path)]
    return sorted(candidates, key=lambda sibling: -sibling.modified_ns)


def _descends(path: Path, base: Path) -> bool:
    """Return whether `path` is a name of a generation of `base`: app.log.1, app.log-20260131, app-20260131.log."""
    stem, dot, suffix = base.name.partition(".")
    shape = f"{re.escape(stem)}{_NUMBER}{re.escape(dot + suffix)}{_NUMBER}" + r"(?:\.old|\.bak|\.prev)?"
    return path.name != base.name and re.fullmatch(shape, path.name) is not None


def is_generation(path: Path, others: Container[Path]) -> bool:
    """Return whether a match of a glob such as "app.log*" is a generation of another one of its matches, `others`."""
    bases = {shape.sub("", path.name) for shape in (_GENERATION, _DATED)} - {path.name, ""}
    return any(path.with_name(base) in others for base in bases)
