"""Flat keys of a store -> the tables of a layer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from agent.errors import SourceInvalid
from agent.model import Layer


def tree(
    pairs: Iterable[tuple[str, Any]], separator: str, where: str, *, exclude_prefixes: Iterable[str] = ()
) -> dict[str, Any]:
    """Nested tables from (key below the layer, value).

    Keys below one of `exclude_prefixes` are left out: they belong to another layer. Raises SourceInvalid, naming the keys,
    where one is both a value and the beginning of others, comes twice, or has an empty segment.
    """
    top: dict[str, Any] = {}
    others = tuple(exclude_prefixes)
    problems = []
    for key, value in sorted(pairs, key=lambda pair: pair[0]):
        if key.startswith(others) and others:
            continue
        path = key.split(separator)
        if "" in path:
            problems.append(f"{key!r} has an empty segment")
        elif clash := _put(top, path, value):
            problems.append(f"{separator.join(clash)!r} is a value and has keys below it, or is there twice")
    if problems:
        raise SourceInvalid(f"{where}: {'; '.join(sorted(set(problems)))}", hint="rename one of the two in the store")
    return top


def _put(top: dict[str, Any], path: list[str], value: Any) -> list[str] | None:
    table = top
    for depth, segment in enumerate(path[:-1], 1):
        table = table.setdefault(segment, {})
        if not isinstance(table, dict):
            return path[:depth]
    if path[-1] in table:
        return path
    table[path[-1]] = value
    return None


def nested_layers(layer: str, layers: Sequence[str], separator: str = "/") -> list[str]:
    """The other layers that lie inside `layer`, as prefixes of its keys: "web/" for "env/dev" and "env/dev/web"."""
    start = f"{layer}{separator}" if layer else ""
    return [other.removeprefix(start) + separator for other in layers if other != layer and other.startswith(start)]


def joined(*parts: str, separator: str = "/") -> str:
    """A store's path from prefix and layer, with no separator doubled, before or behind."""
    return separator.join(filter(None, (part.strip(separator) for part in parts)))


def text(value: bytes, key: str) -> str:
    """A store's value as text. Raises SourceInvalid, naming the key, where it is not UTF-8."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise SourceInvalid(
            f"the value of {key!r} is not UTF-8 text", hint="store binary values in base64 and declare the key as bytes"
        ) from None


def digest(content: bytes | str) -> str:
    """A word for a content, where the store has none of its own."""
    return f"sha256:{hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]}"


def combined(layers: Iterable[Layer]) -> str:
    """The revision of several layers read one by one: another one whenever any of theirs is."""
    return digest(repr([(layer.name, layer.tree is None, layer.revision) for layer in layers]))
