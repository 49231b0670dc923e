"""Merge the layers of all sources into one tree, with the origin of every value. Pure.

Tables merge deeply. Every other value, lists too, is replaced by the later layer's. A null removes an earlier value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.errors import MergeError
from agent.keypath import KeyPath, dotted
from agent.model import Merged, Origin, Snapshot


def merge(snapshots: Iterable[tuple[str, Snapshot]]) -> Merged:
    """Return the overlay of (source name, snapshot) pairs, in order.

    Raises MergeError if keys are a table in one layer and a value in another; it names both layers of each such key.
    """
    overlay = _Overlay()
    for source, snapshot in snapshots:
        for layer in snapshot.layers:
            if layer.tree is not None:
                overlay.add(layer.tree, (), Origin(source, layer.name, layer.revision or snapshot.revision))
    if overlay.clashes:
        raise MergeError(
            f"{len(overlay.clashes)} key(s) are a table in one layer and a value in another",
            overlay.clashes,
            hint="nothing was changed; rename one of the two keys in the store",
        )
    return Merged(overlay.tree(), overlay.origins())


class _Overlay:
    """The tree so far: values and tables by path, each with its origin. A removed value is None."""

    def __init__(self) -> None:
        self._values: dict[KeyPath, tuple[Any, Origin]] = {}
        self._tables: dict[KeyPath, Origin] = {}
        self.clashes: list[str] = []

    def add(self, tree: Mapping[str, Any], prefix: KeyPath, origin: Origin) -> None:
        """Overlay `tree`, which is at `prefix` in a layer. A key that clashes is recorded and left out."""
        for key in tree:
            path, value = (*prefix, str(key)), tree[key]
            if isinstance(value, Mapping):
                if path in self._values and self._values[path][0] is not None:
                    self._clash(path, table=origin, value=self._values[path][1])
                    continue
                self._values.pop(path, None)
                self._tables.setdefault(path, origin)
                self.add(value, path, origin)
            elif path in self._tables and value is not None:
                self._clash(path, table=self._tables[path], value=origin)
            elif path in self._tables:
                self._remove(path)
            else:
                self._set(path, value, origin)

    def _set(self, path: KeyPath, value: Any, origin: Origin) -> None:
        overrode: tuple[Origin, ...] = ()
        if path in self._values:
            _, earlier = self._values[path]
            overrode = (Origin(earlier.source, earlier.layer, earlier.revision), *earlier.overrode)
        self._values[path] = (_sorted(value), Origin(origin.source, origin.layer, origin.revision, overrode))

    def _remove(self, path: KeyPath) -> None:
        """Remove a table and everything below it."""
        depth = len(path)
        for entries in (self._tables, self._values):
            for other in [other for other in entries if other[:depth] == path]:
                del entries[other]

    def _clash(self, path: KeyPath, *, table: Origin, value: Origin) -> None:
        self.clashes.append(
            f"{dotted(path)}: a table in source {table.source}, layer {table.layer or '(top)'}; "
            f"a value in source {value.source}, layer {value.layer or '(top)'}"
        )

    def tree(self) -> dict[str, Any]:
        """Return the merged tree, in sorted order."""
        root: dict[str, Any] = {}
        for path in sorted(self._tables):
            _table(root, path)
        for path, (value, _) in sorted(self._values.items()):
            if value is not None:
                _table(root, path[:-1])[path[-1]] = value
        return root

    def origins(self) -> dict[KeyPath, Origin]:
        """Return the origin of every value of the tree."""
        return {path: origin for path, (value, origin) in self._values.items() if value is not None}


def _sorted(value: Any) -> Any:
    """Return a value with all its tables in sorted order, so that a render does not depend on the order of the store."""
    if isinstance(value, Mapping):
        return {str(key): _sorted(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]
    return value


def _table(root: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    for segment in path:
        root = root.setdefault(segment, {})
    return root
