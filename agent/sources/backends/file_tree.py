"""Reads one layer of the `file` source from disk, in whichever form it has."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.sources import decoding, key_tree

MAX_BYTES = 32 << 20
_MAX_DEPTH = 16
_ATTEMPTS = 3

Contents = list[tuple[str, bytes]]
"""(path below the layer, content), sorted. For the one document of a layer the path is its suffix."""


def read_layer(top: Path, layer: str, layers: Sequence[str]) -> Contents | None:
    """Read the files of a layer below `top`; None if the layer does not exist.

    `layers` are all layers of the source: a layer inside this one keeps its files. Raises SourceInvalid if the layer has
    two forms at once or points out of `top`, SourceDenied and SourceUnreachable for what the system refuses.
    """
    if layer and any(part in ("", ".", "..") for part in layer.split("/")):
        raise SourceInvalid(f'layer "{layer}" is not a path below {top}', hint="a fact in it may hold a slash or be empty")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _read_layer(top, layer, layers)
        except FileNotFoundError as error:  # replaced while it was read
            if attempt == _ATTEMPTS:
                raise SourceUnreachable(f"{error.filename} disappeared while it was read") from None
        except PermissionError as error:
            raise SourceDenied(f"{error.filename} may not be read", hint="parbake runs as root; check the mount") from None
        except OSError as error:
            raise SourceUnreachable(f"{error.filename or top}: {error.strerror}") from None
    return None


def _read_layer(top: Path, layer: str, layers: Sequence[str]) -> Contents | None:
    directory = top / layer if layer else top
    documents = [path for suffix in decoding.FORMATS if (path := directory.with_name(directory.name + suffix)).is_file()]
    if not layer and top.is_file():
        documents.append(top)
    files: Contents = []
    if directory.is_dir():
        files = _read_directory(directory, key_tree.nested_layers(layer, layers))
    if len(documents) + bool(files) > 1:
        paths = ", ".join(str(path) for path in [*documents, *([directory] if files else [])])
        raise SourceInvalid(
            f'layer "{layer}" exists in two forms: {paths}', hint="keep one of them; which one wins would be a guess"
        )
    if documents:
        return [(documents[0].suffix, _read(documents[0]))]
    return files or ([] if directory.is_dir() and not any(_visible(directory)) else None)


def _read_directory(directory: Path, exclude_prefixes: list[str]) -> Contents:
    # The files of a mounted Kubernetes secret are links through `..data`, which is replaced as a whole.
    version = directory / "..data"
    start = version.resolve() if version.is_symlink() else directory
    excluded = tuple(exclude_prefixes)
    files: Contents = []
    total = 0
    for name, path in _walk(start, "", 0):
        if excluded and name.startswith(excluded):
            continue
        content = _read(path)
        files.append((name, content))
        total += len(content)
        if total > MAX_BYTES:
            raise SourceInvalid(f"{directory} holds more than {MAX_BYTES} bytes")
    return files


def _visible(directory: Path) -> list[os.DirEntry[str]]:
    with os.scandir(directory) as entries:
        return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)


def _walk(directory: Path, prefix: str, depth: int) -> Iterator[tuple[str, Path]]:
    if depth > _MAX_DEPTH:
        raise SourceInvalid(f"{directory} is nested too deeply; look for a link to a directory above it")
    for entry in _visible(directory):
        name = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{name}/", depth + 1)
        elif entry.is_file() and Path(entry.name).suffix not in decoding.FORMATS:
            yield name, Path(entry.path)


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise SourceInvalid(f"{path} is larger than {MAX_BYTES} bytes")
    return content


def parse(contents: Contents, where: str) -> dict[str, Any]:
    """Return the tables of a layer's contents. `where` is its path, for messages. Raises SourceInvalid."""
    if len(contents) == 1 and contents[0][0] in decoding.FORMATS:
        suffix, content = contents[0]
        return decoding.parse(content, decoding.FORMATS[suffix], f"{where}{suffix}")
    pairs = ((name, _value(content, f"{where}/{name}")) for name, content in contents)
    return key_tree.build_tree(pairs, "/", where)


def _value(content: bytes, where: str) -> str:
    return key_tree.decode_text(content, where).removesuffix("\n").removesuffix("\r")
