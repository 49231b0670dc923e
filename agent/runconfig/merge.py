"""Layers of sources -> one tree, with the origin of every value. Pure.

Tables merge deeply, every other value (lists too) is replaced by the later layer's; a null takes an earlier value away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.errors import MergeError
from agent.keypath import KeyPath, dotted
from agent.model import Merged, Origin, Snapshot


def merge(snapshots: Iterable[tuple[str, Snapshot]]) -> Merged:
    """Overlay (source name, snapshot) pairs in order.

    Raises MergeError, naming both places of each, for keys that are a table in one layer and a value in another.
    """
    overlay = _Overlay()
    for source, snapshot in snapshots:
        for layer in snapshot.layers:
            if layer.tree is not None:
                overlay.add(layer.tree, (), Origin(source, layer.name, layer.revision or snapshot.revision))
    if overlay.clashes:
        raise MergeError(
            f"{len(overlay.clashes)} key(s) are a table in one place and a value in another",
            overlay.clashes,
            hint="nothing was changed; rename one of the two keys in the store",
        )
    return Merged(overlay.tree(), overlay.origins())


class _Overlay:
    def __init__(self) -> None:
        self._values: dict[KeyPath, tuple[Any, Origin]] = {}
        self._tables: dict[KeyPath, Origin] = {}
        self.clashes: list[str] = []

    def add(self, tree: Mapping[str, Any], prefix: KeyPath, origin: Origin) -> None:
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
                self._drop(path)
            else:
                self._set(path, value, origin)

    def _set(self, path: KeyPath, value: Any, origin: Origin) -> None:
        earlier = self._values.get(path)
        overrode = (Origin(earlier[1].source, earlier[1].layer, earlier[1].revision), *earlier[1].overrode) if earlier else ()
        self._values[path] = (_sorted(value), Origin(origin.source, origin.layer, origin.revision, overrode))

    def _drop(self, path: KeyPath) -> None:
        below = len(path)
        for table in [p for p in self._tables if p[:below] == path]:
            del self._tables[table]
        for value in [p for p in self._values if p[:below] == path]:
            del self._values[value]

    def _clash(self, path: KeyPath, *, table: Origin, value: Origin) -> None:
        self.clashes.append(
            f"{dotted(path)}: a table in source {table.source}, layer {table.layer or '(top)'}; "
            f"a value in source {value.source}, layer {value.layer or '(top)'}"
        )

    def tree(self) -> dict[str, Any]:
        root: dict[str, Any] = {}
        for path in sorted(self._tables):
            _table(root, path)
        for path, (value, _) in sorted(self._values.items()):
            if value is not None:
                _table(root, path[:-1])[path[-1]] = value
        return root

    def origins(self) -> dict[KeyPath, Origin]:
        return {path: origin for path, (value, origin) in self._values.items() if value is not None}


def _sorted(value: Any) -> Any:
    """Tables inside lists in sorted order too, so that a render is the same whatever order the store answers in."""
    if isinstance(value, Mapping):
        return {str(key): _sorted(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]
    return value


def _table(root: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    for segment in path:
        root = root.setdefault(segment, {})
    return root
