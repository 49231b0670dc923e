"""The tables of the settings as frozen dataclasses: one record per setting drives parsing, checking and reference docs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.keypath import KeyPath
from agent.settings import urls
from agent.settings.quantities import duration_text
from agent.settings.schema import Seconds, raise_problems, setting
from agent.settings.shipping_models import DRAIN_MAX_SECONDS, PRIORITIES, Journal, LogFile, PriorityName, Ship, Sink
from agent.settings.template_models import OTHER_CANDIDATE, ActionName, Template, TemplateSyntax, TemplateUnit

__all__ = [
    "DRAIN_MAX_SECONDS",
    "FREE_TABLES",
    "ITEMS",
    "OTHER_CANDIDATE",
    "PRIORITIES",
    "RUN_TIME_TABLES",
    "TABLES",
    "ActionName",
    "Component",
    "Discovery",
    "Journal",
    "Key",
    "KeyType",
    "Log",
    "LogFile",
    "PriorityName",
    "Settings",
    "Ship",
    "Sink",
    "Source",
    "State",
    "Template",
    "TemplateSyntax",
    "TemplateUnit",
    "Units",
    "Watch",
]

KeyType = Literal["string", "integer", "number", "boolean", "list", "table", "bytes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """[component]"""

    name: str = setting("the name of the image, such as the role of its instances; templates read it as `build.component`")
    version: str = setting("the version of the image; templates read it as `build.version`", "")

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name in (".", ".."):
            raise ValueError(
                f'name "{self.name}" must not be empty, contain a slash, or be "." or ".."; it becomes part of layer paths'
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """[discovery]"""

    providers: tuple[str, ...] = setting(
        "the providers that are asked, in this order; the first answer to a fact wins",
        ("kernel", "credentials", "cloud-init", "imds", "file", "host"),
    )
    timeout: Seconds = setting("how long the whole of discovery may take", Seconds(5.0))
    imds: str = setting(
        'the metadata service by name; "auto" chooses it from DMI and never probes blindly, "off" asks no service', "auto"
    )
    imds_url: str = setting("another address of the metadata service, http://ADDRESS[:PORT][/PATH]", "")

    def __post_init__(self) -> None:
        urls.check_metadata_url(self.imds_url)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """[[source]], without the options of its backend, which are in `options`."""

    backend: str = setting("the kind of the source")
    name: str = setting("the source's name in messages and provenance; default: the backend's name", "")
    layers: tuple[str, ...] = setting(
        "the paths that are overlaid, with placeholders; a later path overrides an earlier one; default: the top of the source",
        ("",),
    )
    required: bool = setting("whether run config without this source is unavailable", True)
    poll: Seconds = setting("how often to fetch a source that cannot be watched", Seconds(60.0))
    timeout: Seconds = setting("how long one pull may take, with its retries", Seconds(10.0))
    allow_empty: bool = setting("accept a layer that had keys and is empty now", False)
    options: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """[keys."a.b"], one key of the contract."""

    type: KeyType = setting("the type; text from a store is converted to it", "string")
    required: bool = setting("whether run config without the key is broken", False)
    secret: bool = setting("masked in everything that parbake shows, and never world-readable", False)
    default: Any = setting("the value if no layer has the key", None)
    description: str = setting("a text for messages and `parbake explain`", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """[units]"""

    timeout: Seconds = setting("how long one action on one unit may take", Seconds(90.0))
    settle_active: Seconds = setting("how long a unit must stay active after its action to count as up", Seconds(2.0))
    retries: int = setting("how often a failed action is repeated, with back-off, on a unit that still runs", 3)
    on_first_failure: Literal["stop", "leave"] = setting(
        "how a failing unit is treated if there is no earlier generation to roll back to", "stop"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """[watch]"""

    settle: Seconds = setting(
        "changes closer together than this are one generation; it starts one and a half times this after the last change",
        Seconds(0.2),
    )
    settle_max: Seconds = setting("the longest that a change waits for others; at least `settle`", Seconds(5.0))
    splay: Seconds = setting(
        "a random delay up to this before a convergence, so that instances do not converge at the same moment", Seconds(0.0)
    )

    @property
    def settle_poll_seconds(self) -> float:
        """The interval at which a source that has changed is polled while its changes settle."""
        return self.settle / 2

    @property
    def calm_seconds(self) -> float:
        """The time without a change after which changes have settled. The last one may be one poll older than it was seen."""
        return self.settle + self.settle_poll_seconds

    def __post_init__(self) -> None:
        raise_problems(self._problems())

    def _problems(self) -> Iterator[str]:
        if self.settle_max < self.settle:
            yield (
                f"settle_max is {duration_text(self.settle_max)}, which is shorter than settle, "
                f"{duration_text(self.settle)}; make it at least as long"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """[state]"""

    cache: Literal["encrypted", "plain", "none"] = setting(
        "how the last good run config is kept if it holds secrets: encrypted by systemd-creds, plain (0600), or not at all",
        "encrypted",
    )
    generations: int = setting("how many generations are kept for `history` and `rollback`, at least 1", 10)

    def __post_init__(self) -> None:
        if self.generations < 1:
            raise ValueError(f"generations must be at least 1; found {self.generations}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """[log]"""

    level: Literal["debug", "info", "warning", "error"] = setting("the least urgent message that is logged", "info")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings: those baked into the image, and the additions of /run/parbake/conf.d."""

    component: Component
    discovery: Discovery = field(default_factory=Discovery)
    facts: dict[str, Any] = field(default_factory=dict)
    facts_from: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    keys: dict[KeyPath, Key] = field(default_factory=dict)
    templates: tuple[Template, ...] = ()
    units: Units = field(default_factory=Units)
    watch: Watch = field(default_factory=Watch)
    ship: Ship = field(default_factory=Ship)
    sinks: tuple[Sink, ...] = ()
    state: State = field(default_factory=State)
    log: Log = field(default_factory=Log)
    files: tuple[str, ...] = ()


TABLES: dict[str, type] = {
    "component": Component,
    "discovery": Discovery,
    "units": Units,
    "watch": Watch,
    "ship": Ship,
    "state": State,
    "log": Log,
}
"""The tables that are one record."""
ITEMS: dict[str, type] = {"source": Source, "sink": Sink, "template": Template}
"""The lists of tables."""
FREE_TABLES = ("facts", "facts_from", "keys")
"""The tables whose keys are names that the operator chooses."""
RUN_TIME_TABLES = ("facts", "source", "sink", "log")
"""The tables that /run/parbake/conf.d may set."""
