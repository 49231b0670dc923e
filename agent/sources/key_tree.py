"""Turn a store's flat keys into the nested tables of a layer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

from agent.errors import SourceInvalid
from agent.model import Layer


def build_tree(
    pairs: Iterable[tuple[str, Any]], separator: str, where: str, *, exclude_prefixes: Iterable[str] = ()
) -> dict[str, Any]:
    """Return nested tables from (key below the layer, value).

    Keys that begin with one of `exclude_prefixes` are left out, because they belong to another layer. `where` names the
    layer in messages. Raises SourceInvalid naming the keys if a key is both a value and the beginning of others, occurs
    twice, or has an empty segment.
    """
    tree: dict[str, Any] = {}
    excluded = tuple(exclude_prefixes)
    problems = set()
    for key, value in sorted(pairs, key=lambda pair: pair[0]):
        if excluded and key.startswith(excluded):
            continue
        path = key.split(separator)
        if "" in path:
            problems.add(f"{key!r} has an empty segment")
        elif clash := _insert(tree, path, value):
            problems.add(f"{separator.join(clash)!r} is a value and has keys below it, or occurs twice")
    if problems:
        raise SourceInvalid(f"{where}: {'; '.join(sorted(problems))}", hint="rename one of the two in the store")
    return tree


def _insert(tree: dict[str, Any], path: list[str], value: Any) -> list[str] | None:
    """Insert a value, and return the path of the key that it clashes with, or None."""
    table = tree
    for depth, segment in enumerate(path[:-1], 1):
        table = table.setdefault(segment, {})
        if not isinstance(table, dict):
            return path[:depth]
    if path[-1] in table:
        return path
    table[path[-1]] = value
    return None


def nested_layers(layer: str, layers: Sequence[str], separator: str = "/") -> list[str]:
    """Return the layers that lie inside `layer`, as prefixes of its keys: "web/" for "env/dev" and "env/dev/web"."""
    prefix = f"{layer}{separator}" if layer else ""
    return [other.removeprefix(prefix) + separator for other in layers if other != layer and other.startswith(prefix)]


def join_path(*parts: str, separator: str = "/") -> str:
    """Join a prefix and a layer to a path in the store, without empty parts, and without separators at the ends."""
    return separator.join(filter(None, (part.strip(separator) for part in parts)))


def decode_text(value: bytes, key: str) -> str:
    """Return a store's value as text. Raises SourceInvalid naming the key if it is not UTF-8."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise SourceInvalid(
            f"the value of {key!r} is not UTF-8 text", hint="store binary values in base64 and declare the key as bytes"
        ) from None


def digest(content: bytes | str) -> str:
    """Return a revision for content from a store that has no revisions."""
    return f"sha256:{hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]}"


def combined_revision(layers: Iterable[Layer]) -> str:
    """Return the revision of a snapshot whose layers were read one by one. It changes with each layer's revision."""
    return digest(repr([(layer.name, layer.tree is None, layer.revision) for layer in layers]))
