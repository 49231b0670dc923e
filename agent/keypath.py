"""Key paths, and the trees of values that they address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

KeyPath = tuple[str, ...]
"""The segments of a key: ("db", "password") for "db.password" in settings, templates and messages."""

Tree = Mapping[str, Any]
"""Nested mappings. The leaves are str, int, float, bool, bytes, list, None or `Secret`."""

_ABSENT = object()


def dotted(path: KeyPath) -> str:
    """Return a key path as text. A segment that contains a dot is quoted."""
    return ".".join(f'"{segment}"' if "." in segment or not segment else segment for segment in path)


def segments(key: str) -> KeyPath:
    """Parse a key. The inverse of `dotted`."""
    path: list[str] = []
    rest = key
    while rest:
        if rest.startswith('"') and '"' in rest[1:]:
            segment, _, rest = rest[1:].partition('"')
            rest = rest.removeprefix(".")
        else:
            segment, _, rest = rest.partition(".")
        path.append(segment)
    return tuple(path)


def leaves(tree: Tree, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Iterate over the leaves of a tree with their paths. An empty table is a leaf."""
    for key, value in tree.items():
        path = (*prefix, key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def same(one: Any, two: Any) -> bool:
    """Return whether two values look the same in a file. 1, 1.0 and true are equal in Python, but do not look the same."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(same(value, two[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and (repr(one) == repr(two) if isinstance(one, float) else bool(one == two))


def lookup(tree: Tree, path: KeyPath, default: Any = None) -> Any:
    """Return the value or table at `path`, or `default`."""
    node: Any = tree
    for segment in path:
        if not isinstance(node, Mapping):
            return default
        node = node.get(segment, _ABSENT)
        if node is _ABSENT:
            return default
    return node
