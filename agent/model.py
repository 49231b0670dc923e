"""The values that pass between the steps of a convergence. They are frozen and do no I/O.

facts -> snapshots (one for each source) -> merged tree -> run config -> renderings -> plan -> results -> generation
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from agent.keypath import KeyPath, Tree, leaves
from agent.secret import Secret

FactValue = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt of a provider, for `parbake facts -v`. `outcome` is text for people."""

    provider: str
    outcome: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of the instance.

    `values` maps names to strings, and `tags` and `userdata` to tables. `providers` maps names to the provider of each value.
    """

    values: Mapping[str, FactValue] = field(default_factory=dict)
    providers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    attempts: tuple[Attempt, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(self.values)))
        object.__setattr__(self, "providers", MappingProxyType(dict(self.providers)))


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a source. `tree` is None if the store does not have the layer."""

    name: str
    tree: Tree | None
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The content of one source: its layers in overlay order, read at one moment.

    `revision` identifies the state of the store (an index, an ETag, a digest). Only the source can interpret it.
    """

    layers: tuple[Layer, ...]
    revision: str = ""
    secret: bool = False
    """Whether the source is a store of secrets. Keys that the contract does not declare are then secret as well."""


class SourceState(StrEnum):
    """The result of reading one source, as written to status.json."""

    OK = "ok"
    STALE = "stale"
    """Unavailable; its snapshot in the last good run config is used."""
    ABSENT = "absent"
    """Unavailable, and not required."""
    FAILED = "failed"
    """Unavailable and required, and there is no last good snapshot."""


@dataclass(frozen=True, slots=True)
class SourceReport:
    """The result of reading one source, for status.json. `fetched` is a time in ISO 8601."""

    name: str
    backend: str
    state: SourceState
    revision: str = ""
    fetched: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of a value. `overrode` are the origins of the values that it overrode, nearest first."""

    source: str
    layer: str
    revision: str = ""
    overrode: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True)
class Merged:
    """All layers of all sources, merged. `origins` has the origin of each leaf of `tree`."""

    tree: Tree
    origins: Mapping[KeyPath, Origin]


@dataclass(frozen=True, slots=True)
class RunConfig:
    """The merged tree after the contract: types are converted, defaults filled in, secrets wrapped in `Secret`."""

    tree: Tree
    origins: Mapping[KeyPath, Origin]
    secrets: frozenset[KeyPath] = frozenset()

    def secret_texts(self) -> tuple[str, ...]:
        """Return the texts to mask in output of other programs."""
        return tuple(text for _, value in leaves(self.tree) if isinstance(value, Secret) for text in value.texts())


@dataclass(frozen=True, slots=True)
class Rendering:
    """The result of a template. The template is rendered again if one of its inputs changed.

    The inputs are `reads` (the run-config keys that it read), `tables` (the tables that contain them) and `facts`.
    """

    template: str
    content: bytes = field(repr=False)
    reads: frozenset[KeyPath]
    facts: frozenset[str]
    secret: bool
    tables: frozenset[KeyPath] = frozenset()


@dataclass(frozen=True, slots=True)
class TargetFile:
    """A target on the disk. `content` is None if there is no file."""

    content: bytes | None = field(repr=False)
    mode: int = 0
    uid: int = 0
    gid: int = 0


class ChangeKind(StrEnum):
    """How a target differs from its rendering."""

    CREATE = "create"
    CONTENT = "content"
    ATTRIBUTES = "attributes"
    """Only mode, owner or group differ."""
    UNCHANGED = "unchanged"
    DRIFTED = "drifted"
    """Edited since parbake wrote it, and left alone because the template has `drift = "report"`."""


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one target. `uid` and `gid` are numeric, `old` is the file that is replaced."""

    template: str
    target: str
    kind: ChangeKind
    group: str
    mode: int
    uid: int
    gid: int
    secret: bool
    content: bytes = field(repr=False)
    old: TargetFile | None = field(repr=False, default=None)

    @property
    def pending(self) -> bool:
        """Whether the target is to be replaced."""
        return self.kind not in (ChangeKind.UNCHANGED, ChangeKind.DRIFTED)


class UnitAction(StrEnum):
    """An action on a unit, weakest first: if several templates name one unit, the strongest of their actions is done once."""

    NONE = "none"
    START = "start"
    RELOAD = "reload"
    RELOAD_OR_RESTART = "reload-or-restart"
    RESTART = "restart"
    COMMAND = "command"
    """A command of the settings runs instead of an action of systemd."""

    @property
    def strength(self) -> int:
        """The position in the order of the members, for `max`."""
        return list(UnitAction).index(self)


class UnitOutcome(StrEnum):
    """The result of an action on a unit."""

    OK = "ok"
    FAILED = "failed"
    QUEUED = "queued"
    """Requested before READY, without waiting for the job."""
    INACTIVE = "inactive"
    """Not running before READY; systemd starts it with the new config."""
    STOPPED = "stopped"
    """Not running, and a reload does not start a unit."""
    SKIPPED = "skipped"
    """Not acted on, because parbake works below --root or nothing starts the unit."""


@dataclass(frozen=True, slots=True)
class UnitStep:
    """One action on one unit, and the names of the templates that ask for it. `command` is set if the action is COMMAND."""

    unit: str
    action: UnitAction
    templates: tuple[str, ...]
    command: tuple[str, ...] = ()
    timeout_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class UnitResult:
    """The result of one step. `detail` explains a result other than OK."""

    unit: str
    action: UnitAction
    result: UnitOutcome
    detail: str = ""
