"""The tables of the settings as frozen dataclasses: one record a setting drives parsing, checking and reference docs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from agent.settings import urls
from agent.settings.schema import Mode, Seconds, Size, setting

ActionName = Literal["none", "start", "reload", "reload-or-restart", "restart"]
PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
DRAIN_MAX_SECONDS = 75.0
"""Below the TimeoutStopSec of parbake-ship.service."""
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
    imds_url: str = setting("another address for the metadata service, http://ADDRESS[:PORT][/PATH]", "")

    def __post_init__(self) -> None:
        urls.check_metadata_url(self.imds_url)


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
    """An entry of a template's `units`: a systemd unit, or a command for what is no unit."""

    name: str = setting("the systemd unit, with its suffix; with `command`: how it is called, default the command", "")
    action: ActionName = setting("what the unit needs to pick the target up", "reload-or-restart")
    command: tuple[str, ...] = setting("run instead of acting on a unit; it must end by itself", ())
    timeout: Seconds = setting("how long the command may take", Seconds(30.0))

    @property
    def label(self) -> str:
        """How the action is called in status and messages, and by which several templates share it."""
        return self.name or " ".join(self.command)

    def __post_init__(self) -> None:
        if self.command:
            if self.timeout <= 0:
                raise ValueError("timeout must be above zero")
            return
        if not self.name:
            raise ValueError("it needs a name, or a command")
        if "." not in self.name:
            raise ValueError(f'unit "{self.name}" has no suffix; write "{self.name}.service"')
        if not _UNIT.fullmatch(self.name) or self.name.split(".")[0] == "parbake":
            raise ValueError(f'unit "{self.name}" cannot be acted on by a template')


_UNIT = re.compile(r"[A-Za-z0-9:_.\\@][A-Za-z0-9:_.\\@-]*")  # systemd.unit(5)


class TemplateSyntax(NamedTuple):
    """What of a template's settings decides how its text is compiled."""

    trim_blocks: bool
    lstrip_blocks: bool
    variable_start: str
    variable_end: str
    block_start: str
    block_end: str
    comment_start: str
    comment_end: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """[[template]]"""

    source: str = setting("the Jinja2 file; relative: below /etc/parbake/templates")
    target: str = setting("the file it renders to")
    name: str = setting("default: the target's file name", "")
    owner: str = setting("name or id; default: kept, root for a new file", "")
    group: str = setting("name or id; default: kept, root for a new file", "")
    mode: Mode | None = setting('default "0644", and "0600" where the template reads a secret key', None)
    directory_mode: Mode = setting("the mode of a parent directory that is made", Mode(0o755))
    directory_owner: str = setting("the owner of a parent directory that is made; default: root", "")
    directory_group: str = setting("the group of a parent directory that is made; default: root", "")
    check: tuple[str, ...] = setting(
        "runs on the candidate, as {candidate}, before anything is replaced; {candidate:NAME} is another template's. "
        "The same command in several templates of a group runs once",
        (),
    )
    check_timeout: Seconds = setting("how long a check may take", Seconds(30.0))
    units: tuple[TemplateUnit, ...] = setting("the units that must pick the target up", ())
    verify: tuple[str, ...] = setting("runs after the action; failing it rolls back", ())
    verify_timeout: Seconds = setting("how long verify may take, tries included", Seconds(30.0))
    required: bool = setting("whether the units' start waits for parbake (drop-ins of `parbake bake`)", True)
    after: tuple[str, ...] = setting("templates whose targets are in place before this one's, by name", ())
    drift: Literal["report", "repair"] = setting("what the daemon does about a target that was edited by hand", "report")
    group_name: str = setting("a group is one transaction; templates with none are together one group", "")
    trim_blocks: bool = setting("Jinja2's trim_blocks", True)
    lstrip_blocks: bool = setting("Jinja2's lstrip_blocks", False)
    variable_delimiters: tuple[str, ...] = setting(
        "what stands around an expression, where the target's own format uses braces", ("{{", "}}")
    )
    block_delimiters: tuple[str, ...] = setting("what stands around a statement", ("{%", "%}"))
    comment_delimiters: tuple[str, ...] = setting("what stands around a comment", ("{#", "#}"))

    @property
    def flavour(self) -> TemplateSyntax:
        """How its text is to be read: templates of one flavour share a Jinja2 environment."""
        pairs = (self.variable_delimiters, self.block_delimiters, self.comment_delimiters)
        return TemplateSyntax(self.trim_blocks, self.lstrip_blocks, *(text for pair in pairs for text in pair))

    def __post_init__(self) -> None:
        pairs = (self.variable_delimiters, self.block_delimiters, self.comment_delimiters)
        for name, pair in zip(("variable", "block", "comment"), pairs, strict=True):
            if len(pair) != 2 or not all(text and text == text.strip() for text in pair):
                raise ValueError(f'{name}_delimiters must be two strings without blanks around, such as ["[[", "]]"]')
        if len({pair[0] for pair in pairs}) < 3:
            raise ValueError("variable_delimiters, block_delimiters and comment_delimiters must begin differently")
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

    settle: Seconds = setting(
        "changes closer together than this are one generation; it starts one and a half times this after the last", Seconds(0.2)
    )
    settle_max: Seconds = setting("but nothing waits longer than this to settle", Seconds(5.0))
    splay: Seconds = setting("a random delay up to this before acting, so that a swarm does not move at once", Seconds(0.0))

    @property
    def look_seconds(self) -> float:
        """How often a source that has changed is looked at while its changes settle."""
        return self.settle / 2

    @property
    def calm_seconds(self) -> float:
        """How long without news of a change is calm: a change within `settle` may have come just after a look."""
        return self.settle + self.look_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """[ship.journal]"""

    units: tuple[str, ...] = setting("only these units, and what systemd says about them; none: all", ())
    priority: PriorityName = setting("nothing less urgent than this", "debug")
    match: tuple[str, ...] = setting("journal matches FIELD=value; of one field any, of several fields all", ())

    def __post_init__(self) -> None:
        for match in self.match:
            name, equals, _ = match.partition("=")
            if name.startswith("__"):
                raise ValueError(f'match "{match}": fields with two underscores are the journal\'s own, and cannot be matched')
            if not equals or not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
                raise ValueError(f'match "{match}" is not FIELD=value with an upper-case journal field')


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """An entry of [ship] `files` that needs more than its path."""

    path: str = setting("a log file, or a glob of several")
    start: str = setting("a regular expression that the first line of an entry matches; the lines between belong to it", "")
    pause: Seconds = setting("an entry of several lines is whole after this long without another line", Seconds(1.0))

    def __post_init__(self) -> None:
        if not self.path.startswith("/"):
            raise ValueError(f'path "{self.path}" must be absolute')
        try:
            re.compile(self.start.encode())
        except re.error as error:
            raise ValueError(f'start "{self.start}" is not a regular expression: {error}') from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ship:
    """[ship]"""

    journal: bool | Journal = setting("whether the journal is shipped, or which part of it", True)
    files: tuple[str | LogFile, ...] = setting("log files to tail, with globs", ())
    mask: tuple[str, ...] = setting(
        "regular expressions masked besides the secrets; where one has groups, only they are masked", ()
    )
    mask_wait: Seconds = setting("how long lines are held at a start until it is known what to mask", Seconds(60.0))
    mask_for: Seconds = setting("how long a value that was secret stays masked after it was rotated out", Seconds(7 * 86400.0))
    line_max: Size = setting("a longer line or field is cut there, with a mark", Size(100_000))
    drain: Seconds = setting("how long a stop may take to ship what is there, 75 s at most", Seconds(10.0))

    def __post_init__(self) -> None:
        for pattern in self.mask:
            try:
                re.compile(pattern.encode())
            except re.error as error:
                raise ValueError(f'mask "{pattern}" is not a regular expression: {error}') from None
        if not 256 <= self.line_max <= 16 * 2**20:
            raise ValueError("line_max must be between 256 bytes and 16 MiB")
        if self.drain > DRAIN_MAX_SECONDS:
            most = f"{DRAIN_MAX_SECONDS:.0f}s"
            raise ValueError(f"drain must be {most} at most: parbake-ship.service is killed at the end of its TimeoutStopSec")
        if any(isinstance(file, str) and not file.startswith("/") for file in self.files):
            raise ValueError("files must be absolute paths")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """[[sink]], less the options of its type, which are in `options`."""

    type: str = setting("the kind of the sink")
    name: str = setting("default: the type", "")
    labels: dict[str, str] = setting("what every entry carries, with placeholders", factory=dict)
    fields: tuple[str, ...] = setting(
        'the fields of an entry that are shipped; ["*"]: all of them',
        (
            "MESSAGE",
            "PRIORITY",
            "SYSLOG_IDENTIFIER",
            "_SYSTEMD_UNIT",
            "UNIT",
            "_PID",
            "_UID",
            "_COMM",
            "_HOSTNAME",
            "_TRANSPORT",
            "_BOOT_ID",
            "MESSAGE_ID",
            "PARBAKE_GENERATION",
            "FILE",
        ),
    )
    batch_entries: int = setting("the most entries that go at once", 2000)
    batch_bytes: Size = setting("about the most bytes that go at once, before compression", Size(1024 * 1024))
    batch_age: Seconds = setting("how long an entry may wait for others to go with", Seconds(1.0))
    options: Any = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_entries <= 10_000:
            raise ValueError("batch_entries must be between 1 and 10000")
        if not 1024 <= self.batch_bytes <= 16 * 2**20:
            raise ValueError("batch_bytes must be between 1 KiB and 16 MiB")
        if "MESSAGE" not in self.fields and "*" not in self.fields:
            raise ValueError('fields must hold "MESSAGE"')
        if self.name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", self.name):
            raise ValueError(f'name "{self.name}" becomes a file name; use letters, digits, "_", "." and "-"')


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
