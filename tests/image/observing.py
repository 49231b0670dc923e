"""The state of a booted machine: parbake's status and history, units, the journal. And waiting for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from tests.image.lab import Machine

STARTED = "39f53479d3a045ac8e11786248231fbf"
RELOADED = "7b05ebc668384222baa8881179cfda54"
"""systemd's MESSAGE_IDs for a unit that was started, and for one that was reloaded."""


def until(condition: Callable[[], bool], seconds: float = 60.0, pause_seconds: float = 0.1) -> bool:
    """Return whether `condition` becomes true within `seconds`. The default is for a busy machine."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause_seconds)
    return True


def bake(machine: Machine, files: Mapping[str, str]) -> Machine:
    """Write build config into a machine that has not booted yet, and bake it."""
    for path, text in files.items():
        machine.write(path, text, mode="0755" if text.startswith("#!") else "0644")
    machine.run(["parbake", "bake"])
    return machine


def status(machine: Machine) -> dict[str, Any]:
    report: dict[str, Any] = json.loads(machine.read("/run/parbake/status.json"))
    return report


def state_becomes(machine: Machine, state: str, seconds: float = 60.0) -> bool:
    return until(lambda: machine.exists("/run/parbake/status.json") and status(machine)["state"] == state, seconds)


def history(machine: Machine) -> list[dict[str, Any]]:
    generations: list[dict[str, Any]] = json.loads(machine.run(["parbake", "history", "--json"]).stdout)
    return generations


def events(machine: Machine, message_id: str, *matches: str) -> list[dict[str, Any]]:
    """Return the entries of this boot's journal with a MESSAGE_ID, oldest first, up to the moment of the call."""
    machine.run(["journalctl", "--sync"])
    argv = ["journalctl", "-b", "-q", "-o", "json", f"MESSAGE_ID={message_id}", *matches]
    return [json.loads(line) for line in machine.run(argv).stdout.splitlines()]


def count(machine: Machine, message_id: str, unit: str) -> int:
    """Count the entries with a MESSAGE_ID that systemd logged about a unit since the boot."""
    return len(events(machine, message_id, f"UNIT={unit}"))


def show(machine: Machine, unit: str, name: str) -> str:
    return machine.run(["systemctl", "show", "--value", "-P", name, unit]).stdout.strip()


def leftovers(machine: Machine, *directories: str) -> list[str]:
    """Return candidates, kept old files and journals of a commit. An idle machine has none."""
    names = ["-name", ".*.parbake-*", "-o", "-name", "transaction*"]
    return machine.run(["find", *directories, "/var/lib/parbake", *names]).stdout.split()
