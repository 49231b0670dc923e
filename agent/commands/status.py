"""`parbake status`"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import Any

from agent.commands import say, say_json, table
from agent.errors import StateError
from agent.places import Places
from agent.settings.tables import Settings

NEEDS_SETTINGS = False


def add_arguments(parser: ArgumentParser) -> None:
    """No options of its own."""


def run(arguments: Namespace, settings: Settings | None, places: Places) -> int:
    status = _read(places)
    shipping = _shipping(places)
    if arguments.json:
        say_json({**status, "shipping": shipping} if shipping else status)
        return 0
    component = status["component"]
    image = f"{component['name']} {component['version']}".strip()
    say(f"{image}: {status['state']} since {status['since']}, generation {status['generation']}")
    if status.get("hold") is not None:
        say(f"held at generation {status['hold']}; `parbake resume` ends it")
    if status["error"]:
        say(f"error: {status['error']}")
    _section("sources", [(s["name"], s["backend"], s["state"], s["revision"], s["error"] or "") for s in status["sources"]])
    _section("templates", [(t["name"], t["target"], t["state"], f"generation {t['generation']}") for t in status["templates"]])
    _section("units", [(u["name"], u["action"], u["result"], u.get("detail", "")) for u in status["units"]])
    _section(
        "sinks",
        [
            (name, *(f"{k} {v}" for k, v in sorted(row.items()) if isinstance(v, (int, float, str))))
            for name, row in sorted(shipping.items())
        ],
    )
    return 0


def _section(title: str, rows: list[tuple[str, ...]]) -> None:
    if rows:
        width = max(len(row) for row in rows)
        say(f"{title}:")
        for line in table([row + ("",) * (width - len(row)) for row in rows]).splitlines():
            say(f"  {line}")


def _read(places: Places) -> dict[str, Any]:
    try:
        status = json.loads(places.status.read_bytes())
    except FileNotFoundError:
        raise StateError(
            f"{places.status} does not exist: parbake has not converged since this boot",
            hint="`systemctl status parbake` tells why, `parbake debug` tries by hand",
        ) from None
    except (OSError, ValueError) as error:
        raise StateError(f"{places.status} cannot be read: {error}") from None
    if not isinstance(status, dict) or status.get("schema") != 1:
        raise StateError(f"{places.status} is of another version of parbake", hint="restart parbake.service")
    return status


def _shipping(places: Places) -> dict[str, dict[str, Any]]:
    """The shipper's own word, by sink; {} where it does not run or this user may not read it."""
    try:
        record = json.loads((places.ship / "status.json").read_bytes())
    except (OSError, ValueError):
        return {}
    sinks = record.get("sinks", {}) if isinstance(record, dict) else {}
    return sinks if isinstance(sinks, dict) else {}
