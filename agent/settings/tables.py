"""The tables of the settings as frozen dataclasses: one record a setting drives parsing, checking and reference docs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from agent.schema import Mode, Seconds, setting

ActionName = Literal["none", "start", "reload", "reload-or-restart", "restart"]
PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
PriorityName = Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """[component]"""

    name: str = setting("what this image is, such as the role of its instances; templates read it as build.component")
    version: str = setting("the version of the image; templates read it as build.version", "")

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name in (".", ".."):
            raise ValueError(f'name "{self.name}" is empty or holds a slash; it becomes part of layer paths')


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """[discovery]"""

    providers: tuple[str, ...] = setting(
        "the providers asked, in order; the first answer to a fact wins",
        ("kernel", "credentials", "cloud-init", "imds", "file", "host"),
    )
    timeout: Seconds = setting("the whole of discovery", Seconds(5.0))
    imds: str = setting('the metadata service: "auto" chooses by DMI and never probes blindly, "off" asks none', "auto")
    imds_url: str = setting("another address for the metadata service", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """[[source]], less the options of its backend, which are in `options`."""

    backend: str = setting("the kind of the source")
    name: str = setting("how the source is called in messages and provenance; default: the backend's name", "")
    layers: tuple[str, ...] = setting("the paths overlaid in order, with placeholders; a later one overrides", ("",))
    required: bool = setting("whether run config without this source is unavailable", True)
    poll: Seconds = setting("how often to look where the backend cannot be watched", Seconds(60.0))
    timeout: Seconds = setting("how long one pull may take, with its retries", Seconds(10.0))
    allow_empty: bool = setting("believe a layer that had keys and has none now", False)
    options: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """[keys."a.b"], one key of the contract."""

    type: Literal["string", "integer", "number", "boolean", "list", "table", "bytes"] = setting(
        "the type; text from a store is converted to it", "string"
    )
    required: bool = setting("whether run config without it is broken", False)
    secret: bool = setting("masked wherever parbake shows values, and never world-readable", False)
    default: Any = setting("the value where no layer has the key", None)
    description: str = setting("what it is, for people", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateUnit:
    """An entry of a template's `units`."""

    name: str = setting("the systemd unit, with its suffix")
    action: ActionName = setting("what it needs to pick the target up", "reload-or-restart")

    def __post_init__(self) -> None:
        if "." not in self.name:
            raise ValueError(f'unit "{self.name}" has no suffix; write "{self.name}.service"')
        if self.name.startswith("-") or "/" in self.name or self.name.split(".")[0] == "parbake":
            raise ValueError(f'unit "{self.name}" cannot be acted on by a template')


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """[[template]]"""

    source: str = setting("the Jinja2 file; relative: below /etc/parbake/templates")
    target: str = setting("the file it renders to")
    name: str = setting("default: the target's file name", "")
    owner: str = setting("name or id; default: kept, root for a new file", "")
    group: str = setting("name or id; default: kept, root for a new file", "")
    mode: Mode | None = setting('default "0644", and "0600" where the template reads a secret key', None)
    check: tuple[str, ...] = setting("runs on the candidate, as {candidate}, before anything is replaced", ())
    check_timeout: Seconds = setting("how long a check may take", Seconds(30.0))
    units: tuple[TemplateUnit, ...] = setting("the units that must pick the target up", ())
    verify: tuple[str, ...] = setting("runs after the action; failing it rolls back", ())
    verify_timeout: Seconds = setting("how long verify may take, tries included", Seconds(30.0))
    required: bool = setting("whether the units' start waits for parbake (drop-ins of `parbake bake`)", True)
    group_name: str = setting("a group is one transaction; templates with none are together one group", "")
    trim_blocks: bool = setting("Jinja2's trim_blocks", True)
    lstrip_blocks: bool = setting("Jinja2's lstrip_blocks", False)

    def __post_init__(self) -> None:
        if not self.target.startswith("/") or ".." in self.target.split("/") or self.target.endswith("/"):
            raise ValueError(f'target "{self.target}" must be an absolute path of a file, without ".."')
        if not self.source or "\0" in self.source + self.target:
            raise ValueError("source and target must be paths")


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """[units]"""

    timeout: Seconds = setting("how long one action on one unit may take", Seconds(90.0))
    settle_active: Seconds = setting("how long a unit must stay active after its action to count as up", Seconds(2.0))
    retries: int = setting("how often a failed action on a unit that still runs is done again, with back-off", 3)
    on_first_failure: Literal["stop", "leave"] = setting(
        "what becomes of a failing unit where there is no earlier generation to go back to", "stop"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """[watch]"""

    settle: Seconds = setting("changes closer together than this are one generation", Seconds(0.2))
    settle_max: Seconds = setting("but nothing waits longer than this to settle", Seconds(5.0))
    splay: Seconds = setting("a random delay up to this before acting, so that a swarm does not move at once", Seconds(0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """[ship.journal]"""

    units: tuple[str, ...] = setting("only these units; none: all", ())
    priority: PriorityName = setting("nothing less urgent than this", "debug")
    match: tuple[str, ...] = setting("journal matches FIELD=value; of one field any, of several fields all", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Ship:
    """[ship]"""

    journal: bool | Journal = setting("whether the journal is shipped, or which part of it", True)
    files: tuple[str, ...] = setting("log files to tail, with globs", ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """[[sink]], less the options of its type, which are in `options`."""

    type: str = setting("the kind of the sink")
    name: str = setting("default: the type", "")
    labels: dict[str, str] = setting("what every entry carries, with placeholders", factory=dict)
    options: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """[state]"""

    cache: Literal["encrypted", "plain", "none"] = setting(
        "how the last good run config is kept when it holds secrets: encrypted by systemd-creds, plain (0600), or not",
        "encrypted",
    )
    generations: int = setting("how many generations are kept for `history` and `rollback`", 10)

    def __post_init__(self) -> None:
        if self.generations < 1:
            raise ValueError("generations must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """[log]"""

    level: Literal["debug", "info", "warning", "error"] = setting("the least urgent message that is logged", "info")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything the image was baked with, plus what /run/parbake/conf.d added."""

    component: Component
    discovery: Discovery = field(default_factory=Discovery)
    facts: dict[str, Any] = field(default_factory=dict)
    facts_from: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sources: tuple[Source, ...] = ()
    keys: dict[tuple[str, ...], Key] = field(default_factory=dict)
    templates: tuple[Template, ...] = ()
    units: Units = field(default_factory=Units)
    watch: Watch = field(default_factory=Watch)
    ship: Ship = field(default_factory=Ship)
    sinks: tuple[Sink, ...] = ()
    state: State = field(default_factory=State)
    log: Log = field(default_factory=Log)
    files: tuple[str, ...] = ()
