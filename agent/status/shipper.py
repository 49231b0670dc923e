"""What the shipper says of itself, as the rest may use it: read by root, written by a user with fewer rights.

Whoever has taken over the shipper writes ship/status.json. So it is opened without following a link or waiting for a pipe,
read up to a bound, and only known numbers and plain text are taken from it.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.status import metrics

_BYTES_MAX = 256 * 1024
_SINKS_MAX = 64
_TEXT_MAX = 300
_LATEST = 253_402_300_799.0
"""The end of the year 9999, which is as far as a date goes."""
STATES = ("ok", "starting", "waiting", "failing")
STALE_SECONDS = 60.0
"""The shipper writes every two seconds. Older than this, it does not run."""

NUMBERS = {
    "lag_seconds": ("gauge", "Age of the oldest entry that the sink has not acknowledged"),
    "rate": ("gauge", "Entries a second, over half a minute"),
    "sent": ("counter", "Entries acknowledged since the shipper started"),
    "retries": ("counter", "Tries that had to be repeated"),
    "lost": ("counter", "Entries gone before they were shipped, as far as they can be counted"),
    "set_aside": ("counter", "Entries the sink refused, set aside in the dead-letter file"),
    "skipped": ("counter", "Damaged or unreadable places that were skipped"),
}


@dataclass(frozen=True, slots=True)
class ShipStatus:
    """`time` is when the shipper wrote it, in seconds since 1970; `sinks` has `type`, `state`, `error` and NUMBERS of each."""

    time: float
    sinks: Mapping[str, Mapping[str, Any]]

    def stale(self, now: float) -> bool:
        """Whether the shipper has not written for so long that it does not run, or hangs."""
        return now - self.time > STALE_SECONDS


def read(path: Path) -> ShipStatus | None:
    """None where there is none. Raises OSError where it may not be read, ValueError for anything but what a shipper writes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("no regular file")
        content = os.read(descriptor, _BYTES_MAX + 1)
    finally:
        os.close(descriptor)
    if len(content) > _BYTES_MAX:
        raise ValueError(f"more than {_BYTES_MAX} bytes")
    try:
        return _taken(json.loads(content))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _taken(document: Any) -> ShipStatus:
    if not isinstance(document, dict) or document.get("schema") != 1 or not isinstance(document.get("sinks"), dict):
        raise ValueError("not what a shipper of this version writes")
    sinks = document["sinks"]
    if len(sinks) > _SINKS_MAX:
        raise ValueError(f"more than {_SINKS_MAX} sinks")
    rows = {_text(name): _row(row) for name, row in sinks.items() if isinstance(row, dict)}
    return ShipStatus(min(_number(document.get("time")), _LATEST), rows)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    state = row.get("state")
    return {
        "type": _text(row.get("type")),
        "state": state if state in STATES else "unknown",
        "error": _text(row.get("error")),
        **{name: _number(row.get(name)) for name in NUMBERS},
    }


def _number(value: object) -> float:
    """A finite number that is not negative; 0 for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e18 or not math.isfinite(value):
        return 0
    return value


def _text(value: object) -> str:
    """One line of it without what a terminal would obey."""
    text = value[:_TEXT_MAX] if isinstance(value, str) else ""
    return "".join(character if character.isprintable() else "?" for character in text)


def as_metrics(status: ShipStatus, now: float) -> str:
    """For metrics.prom. `now` in seconds since 1970."""
    sinks = sorted(status.sinks.items())
    up = [({"sink": sink, "type": row["type"]}, row["state"] == "ok" and not status.stale(now)) for sink, row in sinks]
    families = [
        metrics.family(
            "ship_status_timestamp_seconds", "gauge", "When the shipper last said how it fares", [({}, status.time)]
        ),
        metrics.family("ship_up", "gauge", "1 where the shipper runs and the sink takes entries", up),
    ]
    for name, (kind, doc) in NUMBERS.items():
        metric = f"ship_{name}_total" if kind == "counter" else f"ship_{name}"
        families.append(metrics.family(metric, kind, doc, [({"sink": sink}, row[name]) for sink, row in sinks]))
    return "".join(families)
