"""The values that pass between the steps. Plain, frozen, and without I/O.

facts -> snapshots (one a source) -> merged tree -> run config -> renderings -> plan -> results -> generation
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

from agent import tomltext

MASK = "********"

KeyPath = tuple[str, ...]
"""A key as its segments: ("db", "password"). Settings, templates and messages write it "db.password"."""

Leaf = str | int | float | bool | bytes | list[Any] | None
Tree = Mapping[str, Any]
"""Nested mappings with `Leaf` or `Secret` at the ends; lists are leaves."""


class Secret:
    """A value that only `reveal()` gives away: repr, str, format, pickle and deepcopy all give the mask.

    Equality and hash are those of the value, so that a rotated secret counts as changed.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value.reveal() if isinstance(value, Secret) else value

    def reveal(self) -> Any:
        """The value itself. Call it only where the value leaves for its target, its store or its peer."""
        return self._value

    def text(self) -> str:
        """The value as text, for masking and for credentials."""
        value = self._value
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def texts(self) -> Iterator[str]:
        """Every text that gives the value away: itself, each part of a list or table and the whole as JSON and TOML, of bytes
        their base64. Bytes that are no UTF-8 stand in it as templates take them, as surrogates."""
        yield self.text()
        yield from _parts(self._value)

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = self._value, other._value
        if isinstance(mine, str) and isinstance(theirs, str):
            return hmac.compare_digest(mine.encode("utf-8", "surrogatepass"), theirs.encode("utf-8", "surrogatepass"))
        return same(mine, theirs)

    def __hash__(self) -> int:
        return hash(repr(self._value))

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return (Secret, (MASK,))

    def __iter__(self) -> NoReturn:
        raise TypeError("a Secret has no parts; reveal() it where it is used")


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, bytes):
        yield value.decode("utf-8", "surrogateescape")
        yield base64.b64encode(value).decode("ascii")
    elif isinstance(value, (list, tuple, Mapping)):
        yield from _wholes(value)
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from Secret(part).texts()


def _wholes(value: Any) -> Iterator[str]:
    """A list or table as templates write it in one line: its parts may be too short to be masked by themselves."""
    for separators in (None, (",", ":")):
        yield json.dumps(value, ensure_ascii=False, sort_keys=True, separators=separators, default=_as_text)
    with contextlib.suppress(ValueError):  # TOML has no null
        yield tomltext.inline(value)


def _as_text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else dict(value)


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


_ABSENT = object()


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


FactValue = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One provider's try, for `parbake facts -v`."""

    provider: str
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about the instance, and who said so. `values` holds strings, and tables for `tags` and `userdata`."""

    values: Mapping[str, FactValue] = field(default_factory=dict)
    providers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    attempts: tuple[Attempt, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        object.__setattr__(self, "providers", MappingProxyType(dict(self.providers)))


@dataclass(frozen=True, slots=True)
class Layer:
    """What one read of one layer gave. `tree` is None where the store does not have the layer."""

    name: str
    tree: Tree | None
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one source holds: its layers in overlay order, read at one moment.

    `revision` is the store's own word for the state (an index, an ETag, a digest), opaque to everyone else.
    """

    layers: tuple[Layer, ...]
    revision: str = ""
    secret: bool = False
    """Whether it comes from a store of secrets: then what the contract says nothing of is one, too, when it is kept."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """How a source fared, for status.json. `state`: ok, stale (its last good is used), absent (not required), failed."""

    name: str
    backend: str
    state: str
    revision: str = ""
    fetched: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from, and what it overrode, nearest first."""

    source: str
    layer: str
    revision: str = ""
    overrode: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class Merged:
    """All layers of all sources overlaid: the raw tree, and the origin of each of its ends."""

    tree: Tree
    origins: Mapping[KeyPath, Origin]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The merged tree under the contract: types converted, defaults filled in, secrets wrapped in `Secret`."""

    tree: Tree
    origins: Mapping[KeyPath, Origin]
    secrets: frozenset[KeyPath] = frozenset()

    def secret_texts(self) -> tuple[str, ...]:
        """The texts to mask wherever foreign output is shown."""
        return tuple(text for _, value in leaves(self.tree) if isinstance(value, Secret) for text in value.texts())


@dataclass(frozen=True, slots=True)
class Rendering:
    """A template's result. `reads` are the run-config keys it read, `tables` the tables on the way to them, `facts` the facts;
    together they decide on re-rendering."""

    template: str
    content: bytes = field(repr=False)
    reads: frozenset[KeyPath]
    facts: frozenset[str]
    secret: bool
    tables: frozenset[KeyPath] = frozenset()


@dataclass(frozen=True, slots=True)
class TargetFile:
    """A target as it stands on the disk. `content` is None where there is no file."""

    content: bytes | None = field(repr=False)
    mode: int = 0
    uid: int = 0
    gid: int = 0


ACTIONS = ("none", "start", "reload", "reload-or-restart", "restart")
"""Unit actions, weakest first: where several templates ask for one unit, the strongest is done, once."""


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one target. `kind`: create, content, attributes, unchanged, or drifted (edited by hand, left so)."""

    template: str
    target: str
    kind: str
    group: str
    mode: int
    uid: int
    gid: int
    secret: bool
    content: bytes = field(repr=False)
    old: TargetFile | None = field(repr=False, default=None)

    @property
    def pending(self) -> bool:
        return self.kind not in ("unchanged", "drifted")


@dataclass(frozen=True, slots=True)
class UnitStep:
    """One action on one unit, and the templates that ask for it. With a `command`, that is run instead."""

    unit: str
    action: str
    templates: tuple[str, ...]
    command: tuple[str, ...] = ()
    timeout_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class UnitResult:
    """`result`: ok; failed; queued (asked for before READY, without waiting); inactive (not running before READY: systemd
    starts it with the new config); stopped (not running, and a reload starts nothing); skipped (below --root)."""

    unit: str
    action: str
    result: str
    detail: str = ""
