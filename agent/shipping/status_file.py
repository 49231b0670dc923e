"""The status of the pipelines, written to ship/status.json. `agent.status.shipper` has its fields and reads it."""

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
from agent.status.shipper import COUNTERS, NUMBERS, SCHEMA, STATES, SinkState
from agent.system.safe_files import write_atomic

log = logging.getLogger("parbake")
_REMIND_SECONDS = 300.0
_RATE_SECONDS = 30.0


class PipelineStatus:
    """The state and the counters of one pipeline, that is of one reader for one sink.

    `mask` is applied to texts that may quote the answer of a sink.
    """

    def __init__(self, sink: str, kind: str, reader: str, mask: Callable[[str], str] = str) -> None:
        self.sink, self.kind, self.reader = sink, kind, reader
        self._mask = mask
        self.state = SinkState.STARTING
        self.error = ""
        self.counts = dict.fromkeys(COUNTERS, 0)
        self._oldest_us: int | None = None
        self._rate = 0.0
        self._rate_time = time.monotonic()
        self._reminded = 0.0

    def add_sent(self, entries: int) -> None:
        self.counts["sent"] += entries
        now = time.monotonic()
        elapsed = max(now - self._rate_time, 1e-6)
        weight = min(1.0, elapsed / _RATE_SECONDS)
        self._rate += weight * (entries / elapsed - self._rate)
        self._rate_time = now

    def set_oldest(self, time_us: int) -> None:
        """Record the time of the oldest entry that the sink has not acknowledged."""
        self._oldest_us = time_us

    def set_caught_up(self) -> None:
        """Record that every entry is acknowledged."""
        self._oldest_us = None
        if self.state == SinkState.STARTING:
            self.state = SinkState.OK

    def set_failing(self, error: ParbakeError) -> None:
        """Count a try that has to be repeated. Logged when the failure begins, and every five minutes."""
        self.counts["retries"] += 1
        now = time.monotonic()
        if self.state != SinkState.FAILING or now - self._reminded > _REMIND_SECONDS:
            hint = f" ({error.hint})" if error.hint else ""
            log.warning(
                "sink %s: %s; its %s entries are kept and sent later", self.sink, self._mask(f"{error}{hint}"), self.reader
            )
            self._reminded = now
        self.state, self.error = SinkState.FAILING, self._mask(str(error))

    def set_recovered(self) -> None:
        """Record that the sink has answered for a batch."""
        if self.state == SinkState.FAILING:
            log.info("sink %s accepts %s entries again", self.sink, self.reader)
        self.state, self.error = SinkState.OK, ""

    def add_lost(self, entries: int, reason: str) -> None:
        self.counts["lost"] += entries
        log.error("sink %s: %d %s entries are lost: %s", self.sink, entries, self.reader, self._mask(reason))

    def add_skipped(self, damages: int) -> None:
        self.counts["skipped"] += damages
        log.warning("sink %s: %d damaged entries or files of the %s skipped", self.sink, damages, self.reader)

    def add_set_aside(self, entries: int, reason: str) -> None:
        """Count entries in the dead-letter file. Logged for the first ones, and every five minutes."""
        first = not self.counts["set_aside"]
        self.counts["set_aside"] += entries
        now = time.monotonic()
        if first or now - self._reminded > _REMIND_SECONDS:
            log.warning(
                "sink %s refuses %d %s entries; they are set aside: %s", self.sink, entries, self.reader, self._mask(reason)
            )
            self._reminded = now

    def as_row(self) -> dict[str, Any]:
        """Return state, error and numbers. The rate falls to 0 in two minutes without an acknowledgement."""
        oldest = self._oldest_us
        lag = max(0.0, time.time() - oldest / 1e6) if oldest is not None else 0.0
        rate = self._rate * max(0.0, 1 - (time.monotonic() - self._rate_time) / (4 * _RATE_SECONDS))
        return {"state": self.state, "error": self.error, "lag_seconds": round(lag, 1), "rate": round(rate, 1), **self.counts}


def as_status(pipelines: Iterable[PipelineStatus], *, draining: bool = False) -> dict[str, Any]:
    """Return the document of ship/status.json.

    A sink has the worst state of its pipelines, the sum of their numbers, and the greatest `lag_seconds`; `readers` has the
    row of each pipeline. `draining`: whether entries are sent without waiting for others.
    """
    sinks: dict[str, dict[str, Any]] = {}
    for pipeline in pipelines:
        row = pipeline.as_row()
        empty = {"type": pipeline.kind, "state": SinkState.OK, "error": "", **dict.fromkeys(NUMBERS, 0)}
        total = sinks.setdefault(pipeline.sink, empty)
        if STATES.index(row["state"]) < STATES.index(total["state"]):
            total["state"], total["error"] = row["state"], row["error"]
        for name in NUMBERS:
            combined = max(total[name], row[name]) if name == "lag_seconds" else total[name] + row[name]
            total[name] = round(combined, 1)
        total.setdefault("readers", {})[pipeline.reader] = row
    return {"schema": SCHEMA, "time": round(time.time(), 3), "draining": draining, "sinks": sinks}


class StatusFile:
    """Writes ship/status.json at an interval, in a thread."""

    def __init__(
        self,
        path: Path,
        pipelines: Iterable[PipelineStatus],
        interval_seconds: float = 2.0,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path = path
        self._draining = draining
        self._pipelines = tuple(pipelines)
        self._interval_seconds = interval_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        self.write()
        self._thread.start()

    def end(self) -> None:
        """Stop the thread and write the last status."""
        self._ended.set()
        self._thread.join(5)
        self.write()

    def _run(self) -> None:
        while not self._ended.wait(self._interval_seconds):
            self.write()

    def write(self) -> None:
        """Write the file. A failure is logged at debug level: shipping does not depend on the file."""
        content = json.dumps(as_status(self._pipelines, draining=self._draining())).encode()
        give = functools.partial(give_to_owner, directory=self._path.parent)
        try:
            write_atomic(self._path, content, 0o644, sync=False, on_created=give)
        except OSError as error:
            log.debug("%s cannot be written: %s", self._path, error.strerror)
