"""Key paths, and the trees of values that they lead through. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

KeyPath = tuple[str, ...]
"""A key as its segments: ("db", "password"). Settings, templates and messages write it "db.password"."""

Tree = Mapping[str, Any]
"""Nested mappings. The ends are str, int, float, bool, bytes, list, None or `Secret`; a list is an end."""

_ABSENT = object()


def dotted(path: KeyPath) -> str:
    """A key path as operators write it; a segment with a dot in it is quoted."""
    return ".".join(f'"{segment}"' if "." in segment or not segment else segment for segment in path)


def segments(key: str) -> KeyPath:
    """The reverse of `dotted`."""
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
    """Every end of a tree with its path; an empty table is an end too."""
    for key, value in tree.items():
        path = (*prefix, key)
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path)
        else:
            yield path, value


def same(one: Any, two: Any) -> bool:
    """Whether two values are written alike wherever they go: 1, 1.0 and true are equal to Python, and differ in a file."""
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        return one.keys() == two.keys() and all(same(value, two[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return type(one) is type(two) and (repr(one) == repr(two) if isinstance(one, float) else bool(one == two))


def lookup(tree: Tree, path: KeyPath, default: Any = None) -> Any:
    """The value or table at `path`, or `default`."""
    found: Any = tree
    for segment in path:
        if not isinstance(found, Mapping):
            return default
        found = found.get(segment, _ABSENT)
        if found is _ABSENT:
            return default
    return found
