"""`parbake status`: shows what is applied now."""

from __future__ import annotations

import json
import logging
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent.cli.output import aligned, print_json, print_line
from agent.errors import StateError
from agent.paths import Paths
from agent.settings.models import Settings
from agent.status import shipper
from agent.status.shipper import ShipStatus

log = logging.getLogger("parbake")
NEEDS_SETTINGS = False
_COUNTERS = {"sent": "sent", "retries": "retries", "lost": "lost", "set_aside": "set aside", "skipped": "skipped"}


def add_arguments(parser: ArgumentParser) -> None:
    """Add nothing: the command has only the options of all commands."""


def run(arguments: Namespace, settings: Settings | None, paths: Paths) -> int:
    status = _read(paths)
    shipping = _shipping(paths)
    silent = shipping is not None and shipping.stale(time.time())
    if arguments.json:
        shipping_fields = {"shipping": shipping.sinks, "shipper": {"time": shipping.time, "silent": silent}} if shipping else {}
        print_json({**status, **shipping_fields})
        return 0
    component = status["component"]
    image = f"{component['name']} {component['version']}".strip()
    print_line(f"{image}: {status['state']} since {status['since']}, generation {status['generation']}")
    if status.get("hold") is not None:
        print_line(f"held at generation {status['hold']}; `parbake resume` ends it")
    if reason := status["facts"].get("terminating"):
        when = f" at {time_text}" if (time_text := status["facts"].get("terminating_at")) else ""
        print_line(f"this instance will be terminated ({reason}{when}): logs are shipped without delay")
    if status["error"]:
        print_line(f"error: {status['error']}")
    _section("sources", [(s["name"], s["backend"], s["state"], s["revision"], s["error"] or "") for s in status["sources"]])
    _section("templates", [(t["name"], t["target"], t["state"], f"generation {t['generation']}") for t in status["templates"]])
    _section("units", [(u["name"], u["action"], u["result"], u.get("detail", "")) for u in status["units"]])
    if shipping:
        if silent:
            print_line(f"the shipper has been silent since {_timestamp(shipping.time)}; see `systemctl status parbake-ship`")
        _section("sinks", [_sink(name, row) for name, row in sorted(shipping.sinks.items())])
    return 0


def _sink(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        row["type"],
        row["state"],
        f"lag {row['lag_seconds']:.0f} s",
        f"{row['rate']:.0f} entries/s",
        *(f"{word} {row[key]:.0f}" for key, word in _COUNTERS.items()),
        row["error"],
    )


def _section(title: str, rows: list[tuple[str, ...]]) -> None:
    if rows:
        width = max(len(row) for row in rows)
        print_line(f"{title}:")
        for line in aligned([row + ("",) * (width - len(row)) for row in rows]).splitlines():
            print_line(f"  {line}")


def _read(paths: Paths) -> dict[str, Any]:
    try:
        status = json.loads(paths.status.read_bytes())
    except FileNotFoundError:
        raise StateError(
            f"{paths.status} does not exist: parbake has not converged since this boot",
            hint="see `systemctl status parbake` for the reason; `parbake debug` shows each step",
        ) from None
    except (OSError, ValueError) as error:
        raise StateError(
            f"{paths.status} cannot be read: {error}", hint="restart parbake.service: it writes the file again"
        ) from None
    if not isinstance(status, dict) or status.get("schema") != 1:
        raise StateError(f"{paths.status} was written by another version of parbake", hint="restart parbake.service")
    return status


def _shipping(paths: Paths) -> ShipStatus | None:
    """Return the shipper's status, or None if the shipper never ran or its status file is not readable."""
    try:
        return shipper.read(paths.ship / "status.json")
    except PermissionError:
        log.info("the state of the sinks is shown to root only; the same numbers are in %s", paths.metrics)
    except (OSError, ValueError) as error:
        log.warning("%s cannot be used: %s", paths.ship / "status.json", error)
    return None


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
