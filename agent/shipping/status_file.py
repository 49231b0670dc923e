"""How each sink fares: counted by its lanes, written to ship/status.json. `agent.status.shipper` reads it for the others."""

from __future__ import annotations

import functools
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from agent.errors import ParbakeError
from agent.shipping.checkpoint import give_to_owner
from agent.system.safe_files import write_atomic

log = logging.getLogger("parbake")
_REMIND_SECONDS = 300.0
_RATE_SECONDS = 30.0


class Progress:
    """The counters of one lane, a reader's way to a sink. `lag_seconds`: the age of the oldest entry that is not
    acknowledged, 0 where the reader's end is reached. What a sink says of its refusal passes through `mask`."""

    def __init__(self, sink: str, kind: str, reader: str, mask: Callable[[str], str] = str) -> None:
        self.sink, self.kind, self.reader = sink, kind, reader
        self._mask = mask
        self.state = "starting"
        self.error = ""
        self.counts = {"sent": 0, "retries": 0, "lost": 0, "set_aside": 0, "skipped": 0}
        self._oldest_us: int | None = None
        self._rate = 0.0
        self._rated = time.monotonic()
        self._reminded = 0.0

    def sent(self, entries: int) -> None:
        self.counts["sent"] += entries
        now = time.monotonic()
        passed = max(now - self._rated, 1e-6)
        weight = min(1.0, passed / _RATE_SECONDS)
        self._rate += weight * (entries / passed - self._rate)
        self._rated = now

    def pending(self, oldest_us: int) -> None:
        self._oldest_us = oldest_us

    def caught_up(self) -> None:
        self._oldest_us = None
        if self.state == "starting":
            self.state = "ok"

    def waiting(self, why: str) -> None:
        self.state, self.error = "waiting", why

    def failing(self, error: ParbakeError) -> None:
        """A try that has to be repeated. Logged when it begins, and every five minutes."""
        self.counts["retries"] += 1
        now = time.monotonic()
        if self.state != "failing" or now - self._reminded > _REMIND_SECONDS:
            hint = f" ({error.hint})" if error.hint else ""
            said = self._mask(f"{error}{hint}")
            log.warning("sink %s: %s; %s entries wait in their place", self.sink, said, self.reader)
            self._reminded = now
        self.state, self.error = "failing", self._mask(str(error))

    def recovered(self) -> None:
        if self.state == "failing":
            log.info("sink %s takes %s entries again", self.sink, self.reader)
        self.state, self.error = "ok", ""

    def lost(self, entries: int, why: str) -> None:
        self.counts["lost"] += entries
        log.error("sink %s: %d %s entries are lost: %s", self.sink, entries, self.reader, self._mask(why))

    def skipped(self, entries: int) -> None:
        self.counts["skipped"] += entries
        log.warning("sink %s: %d damaged places of the %s skipped", self.sink, entries, self.reader)

    def set_aside(self, entries: int, why: str) -> None:
        first = not self.counts["set_aside"]
        self.counts["set_aside"] += entries
        now = time.monotonic()
        if first or now - self._reminded > _REMIND_SECONDS:
            said = self._mask(why)
            log.warning("sink %s refuses %d %s entries; they are set aside: %s", self.sink, entries, self.reader, said)
            self._reminded = now

    def row(self) -> dict[str, Any]:
        oldest = self._oldest_us
        lag = max(0.0, time.time() - oldest / 1e6) if oldest is not None else 0.0
        rate = self._rate * max(0.0, 1 - (time.monotonic() - self._rated) / (4 * _RATE_SECONDS))
        return {"state": self.state, "error": self.error, "lag_seconds": round(lag, 1), "rate": round(rate, 1), **self.counts}


_WORST = ("failing", "waiting", "starting", "ok")


def as_status(lanes: Iterable[Progress], *, draining: bool = False) -> dict[str, Any]:
    """By sink, the sum of its lanes; `lag_seconds` is the greatest. `draining`: whether the end is near, and nothing waits."""
    sinks: dict[str, dict[str, Any]] = {}
    for lane in lanes:
        row = lane.row()
        total = sinks.setdefault(lane.sink, {"type": lane.kind, "state": "ok", "error": "", "lag_seconds": 0.0, "rate": 0.0})
        if _WORST.index(row["state"]) < _WORST.index(total["state"]):
            total["state"], total["error"] = row["state"], row["error"]
        total["lag_seconds"] = max(total["lag_seconds"], row["lag_seconds"])
        for name in ("rate", *lane.counts):
            total[name] = round(total.get(name, 0) + row[name], 1)
        total.setdefault("readers", {})[lane.reader] = row
    return {"schema": 1, "time": round(time.time(), 3), "draining": draining, "sinks": sinks}


class StatusFile:
    """Writes ship/status.json now and then, from a thread of its own."""

    def __init__(
        self,
        path: Path,
        lanes: Iterable[Progress],
        every_seconds: float = 2.0,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path = path
        self._draining = draining
        self._lanes = tuple(lanes)
        self._every_seconds = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        self.write()
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(5)
        self.write()

    def _run(self) -> None:
        while not self._ended.wait(self._every_seconds):
            self.write()

    def write(self) -> None:
        content = json.dumps(as_status(self._lanes, draining=self._draining())).encode()
        give = functools.partial(give_to_owner, directory=self._path.parent)
        try:
            write_atomic(self._path, content, 0o644, sync=False, on_created=give)
        except OSError as error:
            log.debug("%s cannot be written: %s", self._path, error.strerror)
