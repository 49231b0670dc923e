"""The status of the log shipper, ship/status.json: its states and numbers, a safe reader, and its metrics.

A process with fewer rights writes the file and root reads it. An attacker who controls the shipper controls the file, so
the reader follows no link, waits for no pipe, reads a bounded size, and keeps only known numbers and printable text.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from agent.status import metrics

_BYTES_MAX = 256 * 1024
_SINKS_MAX = 64
_TEXT_MAX = 300
_LATEST = 253_402_300_799.0
"""The end of the year 9999, the last date that datetime can show."""
STALE_SECONDS = 60.0
"""The shipper writes every two seconds. A status older than this means that the shipper does not run."""


class SinkState(StrEnum):
    """The state of a sink, worst first."""

    FAILING = "failing"
    STARTING = "starting"
    OK = "ok"


STATES = tuple(SinkState)
UNKNOWN = "unknown"
"""The state of a sink if its status has a state that this version does not have."""
SCHEMA = 1

NUMBERS = {
    "lag_seconds": ("gauge", "Age of the oldest entry that the sink has not acknowledged"),
    "rate": ("gauge", "Entries per second, over half a minute"),
    "sent": ("counter", "Entries acknowledged since the shipper started"),
    "retries": ("counter", "Requests that had to be repeated"),
    "lost": ("counter", "Entries gone before they were shipped, as far as they can be counted"),
    "set_aside": ("counter", "Entries the sink refused, set aside in the dead-letter file"),
    "skipped": ("counter", "Damaged or unreadable entries and files that were skipped"),
}
"""The numbers of a sink, in ship/status.json and in the metrics: name to metric type and description."""
COUNTERS = tuple(name for name, (kind, _) in NUMBERS.items() if kind == "counter")


@dataclass(frozen=True, slots=True)
class ShipStatus:
    """A status that has been checked.

    `time`: when the shipper wrote it, in seconds since 1970.
    `sinks`: for each sink, by name, its `type`, `state`, `error` and the NUMBERS.
    """

    time: float
    sinks: Mapping[str, Mapping[str, Any]]

    def stale(self, now: float) -> bool:
        """Return whether the status is so old at `now` that the shipper does not run, or hangs."""
        return now - self.time > STALE_SECONDS


def read(path: Path) -> ShipStatus | None:
    """Read the status; None if the file does not exist.

    Raises OSError if the file cannot be read, and ValueError if it is not the status of a shipper.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        content = os.read(descriptor, _BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(content) > _BYTES_MAX:
        raise ValueError(f"more than {_BYTES_MAX} bytes")
    try:
        return _checked(json.loads(content))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _checked(document: Any) -> ShipStatus:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or not isinstance(document.get("sinks"), dict):
        raise ValueError("not the status of a shipper of this version")
    sinks = document["sinks"]
    if len(sinks) > _SINKS_MAX:
        raise ValueError(f"more than {_SINKS_MAX} sinks")
    rows = {_text(name): _row(row) for name, row in sinks.items() if isinstance(row, dict)}
    return ShipStatus(min(_number(document.get("time")), _LATEST), rows)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    state = row.get("state")
    return {
        "type": _text(row.get("type")),
        "state": state if state in STATES else UNKNOWN,
        "error": _text(row.get("error")),
        **{name: _number(row.get(name)) for name in NUMBERS},
    }


def _number(value: object) -> float:
    """Return `value` if it is a finite number that is not negative, else 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18 or not math.isfinite(value):
        return 0
    return value


def _text(value: object) -> str:
    """Return the beginning of a text, with "?" for each character that a terminal would not print."""
    text = value[:_TEXT_MAX] if isinstance(value, str) else ""
    return "".join(character if character.isprintable() else "?" for character in text)


def as_metrics(status: ShipStatus, now: float) -> str:
    """Return the part of metrics.prom for the shipper. `now` is in seconds since 1970."""
    sinks = sorted(status.sinks.items())
    stale = status.stale(now)
    up = [({"sink": sink, "type": row["type"]}, row["state"] == SinkState.OK and not stale) for sink, row in sinks]
    families = [
        metrics.family("ship_status_timestamp_seconds", "gauge", "When the shipper last wrote its status", [({}, status.time)]),
        metrics.family("ship_up", "gauge", "1 if the shipper runs and the sink accepts entries", up),
    ]
    for name, (kind, doc) in NUMBERS.items():
        metric = f"ship_{name}_total" if kind == "counter" else f"ship_{name}"
        families.append(metrics.family(metric, kind, doc, [({"sink": sink}, row[name]) for sink, row in sinks]))
    return "".join(families)
