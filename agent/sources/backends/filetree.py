"""Reads one layer of the `file` source from disk, whichever form it has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.sources import decoding, key_tree

MOST_BYTES = 32 << 20
_DEEPEST = 16

Contents = list[tuple[str, bytes]]
"""(path below the layer, content), sorted; "" for the one document of a layer, with its suffix."""


def contents(top: Path, layer: str, layers: Sequence[str]) -> Contents | None:
    """The files of a layer with what they hold, None where there is no such layer.

    Raises SourceInvalid where the layer has two forms at once or points out of `top`, SourceDenied and
    SourceUnreachable for what the system refuses.
    """
    if layer and any(part in ("", ".", "..") for part in layer.split("/")):
        raise SourceInvalid(f'layer "{layer}" is no path below {top}', hint="a fact in it may hold a slash or be empty")
    for attempt in range(3):
        try:
            return _contents(top, layer, layers)
        except FileNotFoundError as error:  # replaced while being read: look again
            if attempt == 2:
                raise SourceUnreachable(f"{error.filename} comes and goes") from None
        except PermissionError as error:
            raise SourceDenied(f"{error.filename} may not be read", hint="parbake runs as root; check the mount") from None
        except OSError as error:
            raise SourceUnreachable(f"{error.filename or top}: {error.strerror}") from None
    return None


def _contents(top: Path, layer: str, layers: Sequence[str]) -> Contents | None:
    place = top / layer if layer else top
    forms = [path for suffix in decoding.FORMS if (path := place.with_name(place.name + suffix)).is_file()]
    if not layer and top.is_file():
        forms.append(top)
    found: Contents = []
    if place.is_dir():
        found = _directory(place, key_tree.nested_layers(layer, layers))
    if len(forms) + bool(found) > 1:
        names = ", ".join(str(path) for path in [*forms, *([place] if found else [])])
        raise SourceInvalid(
            f'layer "{layer}" is there in two forms: {names}', hint="keep one of them; which one wins would be a guess"
        )
    if forms:
        return [(forms[0].suffix, _read(forms[0]))]
    return found or ([] if place.is_dir() and not any(_visible(place)) else None)


def _directory(place: Path, exclude_prefixes: list[str]) -> Contents:
    # The files of a mounted Kubernetes secret are links through `..data`, which is swapped as a whole.
    version = place / "..data"
    start = version.resolve() if version.is_symlink() else place
    found: Contents = []
    total = 0
    for name, path in _walk(start, "", 0):
        if name.startswith(tuple(exclude_prefixes)) and exclude_prefixes:
            continue
        found.append((name, _read(path)))
        total += len(found[-1][1])
        if total > MOST_BYTES:
            raise SourceInvalid(f"{place} holds more than {MOST_BYTES} bytes")
    return found


def _visible(place: Path) -> list[os.DirEntry[str]]:
    with os.scandir(place) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _walk(place: Path, prefix: str, depth: int) -> Iterator[tuple[str, Path]]:
    if depth > _DEEPEST:
        raise SourceInvalid(f"{place} is nested too deeply; look for a link to a directory above it")
    for entry in _visible(place):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{name}/", depth + 1)
        elif entry.is_file() and Path(entry.name).suffix not in decoding.FORMS:
            yield name, Path(entry.path)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise SourceInvalid(f"{path} is larger than {MOST_BYTES} bytes")
    return content


def tree(found: Contents, where: str) -> dict[str, Any]:
    """The tables that the contents of a layer are. Raises SourceInvalid."""
    if len(found) == 1 and found[0][0] in decoding.FORMS:
        suffix, content = found[0]
        return decoding.parse(content, decoding.FORMS[suffix], f"{where}{suffix}")
    pairs = ((name, _value(content, f"{where}/{name}")) for name, content in found)
    return key_tree.tree(pairs, "/", where)


def _value(content: bytes, where: str) -> str:
    text = key_tree.text(content, where)
    return text.removesuffix("\n").removesuffix("\r")
