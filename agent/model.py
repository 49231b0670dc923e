"""The values that pass between the steps. Plain, frozen, and without I/O.

facts -> snapshots (one a source) -> merged tree -> run config -> renderings -> plan -> results -> generation
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from agent.keypath import KeyPath, Tree, leaves
from agent.secret import Secret

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
