"""[ship] and [[sink]] as frozen dataclasses: one record per setting drives parsing, checking and reference docs."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from agent.settings.quantities import duration_text, size_text
from agent.settings.schema import Seconds, Size, raise_problems, setting

PriorityName = Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]
PRIORITIES: tuple[str, ...] = typing.get_args(PriorityName)
DRAIN_MAX_SECONDS = 75.0
"""Below the TimeoutStopSec of parbake-ship.service."""
_MASK_FOR_MAX_SECONDS = 365 * 86400.0
_LINE_MAX_RANGE = (256, 16 * 2**20)
_BATCH_BYTES_RANGE = (1024, 16 * 2**20)
_BATCH_ENTRIES_RANGE = (1, 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """[ship.journal]"""

    units: tuple[str, ...] = setting("only these units, with systemd's messages about them; empty: all units", ())
    priority: PriorityName = setting("the least urgent priority that is shipped", "debug")
    match: tuple[str, ...] = setting(
        "journal matches FIELD=value; matches of one field are alternatives, those of several fields must all hold", ()
    )

    def __post_init__(self) -> None:
        raise_problems(self._problems())

    def _problems(self) -> Iterator[str]:
        for match in self.match:
            name, equals, _ = match.partition("=")
            if name.startswith("__"):
                yield f'match "{match}": fields that begin with "__" are internal to the journal and cannot be matched'
            elif not equals or not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", name):
                yield f'match "{match}" is not FIELD=value with an upper-case journal field'


@dataclass(frozen=True, slots=True, kw_only=True)
class LogFile:
    """An entry of [ship] `files` that needs more than its path."""

    path: str = setting("a log file, or a glob of several")
    start: str = setting("a regular expression for the first line of an entry; the lines up to the next match belong to it", "")
    pause: Seconds = setting("an entry of several lines is complete after this long without another line", Seconds(1.0))

    def __post_init__(self) -> None:
        raise_problems(self._problems())

    def _problems(self) -> Iterator[str]:
        if not self.path.startswith("/"):
            yield f'path "{self.path}" must be absolute'
        yield from _pattern_problems("start", self.start)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ship:
    """[ship]"""

    journal: bool | Journal = setting("whether the journal is shipped, or which part of it: see [ship.journal]", True)
    files: tuple[str | LogFile, ...] = setting("log files to tail, with globs; a table for an entry of several lines", ())
    mask: tuple[str, ...] = setting(
        "regular expressions that are masked in addition to the secrets; if one has groups, only the groups are masked",
        (),
    )
    mask_wait: Seconds = setting("how long a start holds lines back if the texts to mask are unknown", Seconds(60.0))
    mask_for: Seconds = setting(
        "how long a value that was secret stays masked in shipped lines after it was rotated out, 365d at most",
        Seconds(7 * 86400.0),
    )
    line_max: Size = setting("a longer line or field is cut there and marked; 256B to 16MiB", Size(100_000))
    drain: Seconds = setting("how long a stop may take to ship the entries that are left, 75s at most", Seconds(10.0))

    def __post_init__(self) -> None:
        raise_problems(self._problems())

    def _problems(self) -> Iterator[str]:
        for pattern in self.mask:
            yield from _pattern_problems("mask", pattern)
        if not 0 <= self.mask_for <= _MASK_FOR_MAX_SECONDS:
            yield f"mask_for must be 0s to {duration_text(_MASK_FOR_MAX_SECONDS)}; found {duration_text(self.mask_for)}"
        yield from _size_problems("line_max", self.line_max, _LINE_MAX_RANGE)
        if self.drain > DRAIN_MAX_SECONDS:
            yield (
                f"drain must be {duration_text(DRAIN_MAX_SECONDS)} at most; found {duration_text(self.drain)}: "
                "parbake-ship.service is killed at the end of its TimeoutStopSec"
            )
        for file in self.files:
            if isinstance(file, str) and not file.startswith("/"):
                yield f'files must be absolute paths; found "{file}"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Sink:
    """[[sink]], without the options of its type, which are in `options`."""

    type: str = setting("the kind of the sink")
    name: str = setting("the sink's name in messages and status; default: the type", "")
    labels: dict[str, str] = setting("labels that every entry carries, with placeholders", factory=dict)
    fields: tuple[str, ...] = setting(
        'the fields of an entry that are shipped; ["*"]: all fields',
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
    batch_entries: int = setting("the maximum of entries in one batch, 1 to 10000", 2000)
    batch_bytes: Size = setting(
        "the approximate maximum of bytes in one batch, before compression; 1KiB to 16MiB", Size(1024 * 1024)
    )
    batch_age: Seconds = setting("how long an entry may wait for others of its batch", Seconds(1.0))
    options: Any = None

    def __post_init__(self) -> None:
        raise_problems(self._problems())

    def _problems(self) -> Iterator[str]:
        least, most = _BATCH_ENTRIES_RANGE
        if not least <= self.batch_entries <= most:
            yield f"batch_entries must be between {least} and {most}; found {self.batch_entries}"
        yield from _size_problems("batch_bytes", self.batch_bytes, _BATCH_BYTES_RANGE)
        if "MESSAGE" not in self.fields and "*" not in self.fields:
            yield 'fields must contain "MESSAGE"'
        if self.name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", self.name):
            yield f'name "{self.name}" becomes a file name; use at most 64 letters, digits, "_", "." and "-"'


def _size_problems(key: str, count: int, limits: tuple[int, int]) -> Iterator[str]:
    least, most = limits
    if not least <= count <= most:
        yield f"{key} must be between {size_text(least)} and {size_text(most)}; found {size_text(count)}"


def _pattern_problems(key: str, pattern: str) -> Iterator[str]:
    try:
        re.compile(pattern.encode())
    except re.error as error:
        yield f'{key} "{pattern}" is not a regular expression: {error}'
