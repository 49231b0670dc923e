"""Threads that wait for changes of the sources and of the platform, so that the daemon's loop only waits for its queue."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.discovery.watcher import Watcher as PlatformWatcher
from agent.errors import DiscoveryError, SourceError
from agent.model import Facts, Snapshot
from agent.net.backoff import Backoff, jittered
from agent.settings.models import Watch
from agent.sources import Source, Watchable, containment
from agent.sources.containment import UnexpectedErrorLog
from agent.sources.waiting import wait_for_any

log = logging.getLogger("parbake.watch")
_WATCH_SECONDS = 300.0
_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.5, 30.0
_SLICE_SECONDS = 0.5
_EARLY_SHARE = 0.85
"""Alarms earlier than this fraction of `poll` cannot come from the poll timer, whose jitter is smaller."""


@dataclass(frozen=True, slots=True)
class WatchResult:
    """The end of one wait. `alarmed`: there may be something new. `healthy`: the source works."""

    alarmed: bool
    healthy: bool


class Watcher:
    """Waits for changes of one source, in a thread.

    It calls `changed` with the source's name if the source holds something new, if it fails, and when it is back. While a
    source is unavailable the watcher fetches that source alone, because a convergence fetches all of them.

    After `changed` it waits for `on_converged`, so that a source that always reports a change costs a back-off and no storm.
    While the loop lets changes settle, it looks for more of them and calls `changed` again.
    """

    def __init__(
        self,
        name: str,
        source: Source[object],
        poll_seconds: float,
        changed: Callable[[str], None],
        settling: Watch | None = None,
        *,
        stopping: threading.Event | None = None,
    ) -> None:
        """Prepare the thread, which `on_converged` starts. `stopping` is the event that all sources share."""
        self.source = source
        self._settling = settling or Watch()
        self._name = name
        self._poll_seconds = poll_seconds
        self._changed = changed
        self._stop = threading.Event()
        self._stopping = stopping or threading.Event()
        self._seen: Snapshot | None = None
        self._layers: Sequence[str] | None = None
        self._implausible: Snapshot | None = None
        self._error = ""
        self._version = 0
        self._fetched_at = float("-inf")
        self._backoff = Backoff(_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS)
        self._unexpected = UnexpectedErrorLog(f"source {name}", name)
        self._converged = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"watch {name}", daemon=True)

    def on_converged(
        self,
        snapshot: Snapshot | None,
        layers: Sequence[str] | None = None,
        *,
        accepted: bool = True,
        error: str | None = None,
    ) -> None:
        """Take over the result of a convergence, and start the thread with the first one.

        `snapshot` is None if the source failed with `error`, or if its answer was implausible and not `accepted`. `layers`
        are the names that it is asked for, or None if a fact for them is missing.
        """
        with self._converged:
            self._seen, self._layers, self._error = snapshot, layers, error or ""
            self._implausible = None if accepted else self._implausible
            self._version += 1
            self._converged.notify_all()
        if self._thread.ident is None and not self._is_stopped():
            self._thread.start()

    def stop(self) -> None:
        """End the thread soon, without waiting for it."""
        self._stop.set()
        with self._converged:
            self._converged.notify_all()

    def _is_stopped(self) -> bool:
        return self._stop.is_set() or self._stopping.is_set()

    def _sleep(self, seconds: float) -> None:
        wait_for_any(seconds, self._stop, self._stopping)

    def _work(self) -> None:
        while not self._is_stopped():
            try:
                back_off = self._poll_once()
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a bug must end neither the watch nor the daemon
                self._unexpected.report(error)
                back_off = True
            if back_off:
                self._sleep(self._backoff.next_seconds())
            else:
                self._backoff.reset()

    def _poll_once(self) -> bool:
        """Wait once, and call `changed` if there is something new. Return whether to back off before the next wait."""
        seen, version = self._latest()
        result = self._wait(seen)
        if self._is_stopped():
            return False
        if not result.alarmed:
            return not result.healthy
        snapshot: Snapshot | None = None
        suspicious = not result.healthy
        if seen is not None:
            early = time.monotonic() - self._fetched_at < self._poll_seconds * _EARLY_SHARE
            suspicious |= early and isinstance(self.source, Watchable)
            seen, version = self._latest()  # the loop may have converged during the wait
            snapshot = self._fetch_alone()
            if snapshot is not None and snapshot == seen:
                return suspicious
        self._changed(self._name)
        if result.healthy and snapshot is not None and isinstance(self.source, Watchable):
            self._follow(snapshot, version)
        pulled = self._wait_for_convergence(version)
        return pulled is None or (pulled == seen and suspicious)

    def _latest(self) -> tuple[Snapshot | None, int]:
        """Return the snapshot of the last convergence, and the number of that convergence."""
        with self._converged:
            return self._seen, self._version

    def _wait(self, seen: Snapshot | None) -> WatchResult:
        """Wait for a sign that the source holds something other than `seen`, by its watch or by its poll."""
        if seen is None:
            return WatchResult(alarmed=self._is_back(), healthy=False)
        if not isinstance(self.source, Watchable):
            self._sleep(jittered(self._poll_seconds))
            return WatchResult(alarmed=True, healthy=True)
        try:
            return WatchResult(alarmed=self.source.watch(seen, _WATCH_SECONDS), healthy=True)
        except SourceError as error:
            log.info("source %s: its watch ended: %s", self._name, error, extra={"PARBAKE_SOURCE": self._name})
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a source that cannot be watched can still be fetched
            self._unexpected.report(error)
        return WatchResult(alarmed=True, healthy=False)

    def _fetch_alone(self) -> Snapshot | None:
        """Fetch this source, so that an alarm or a poll without changes triggers no convergence.

        Return None if only the loop can find out: it resolves the layers, and reports the reason of a failure.
        """
        layers = self._layers
        try:
            return containment.fetch(self.source, self._name, layers) if layers is not None else None
        except (SourceError, DiscoveryError):
            return None
        finally:
            self._fetched_at = time.monotonic()

    def _is_back(self) -> bool:
        """Fetch an unavailable source. Return whether its answer is new, or its failure has another reason for the status."""
        if self._layers is None:
            return True  # the loop must try again: a fact is missing, and not the source
        try:
            snapshot = containment.fetch(self.source, self._name, self._layers)
        except (SourceError, DiscoveryError) as error:
            self._implausible = None
            return not self._error.startswith(str(error))
        previous, self._implausible = self._implausible, snapshot
        return snapshot != previous

    def _follow(self, last: Snapshot, version: int) -> None:
        """Call `changed` again while the source goes on changing, so that the loop waits until it is calm.

        End with the convergence after `version`, and no later than the loop's own limit.
        """
        layers = self._layers
        end = time.monotonic() + self._settling.settle_max
        calm_at = time.monotonic() + self._settling.calm_seconds
        while layers is not None and time.monotonic() < min(calm_at, end):
            with self._converged:
                if self._converged.wait_for(lambda: self._is_past(version), self._settling.look_seconds):
                    return
            try:
                snapshot = containment.fetch(self.source, self._name, layers)
            except (SourceError, DiscoveryError):
                return  # the convergence meets the same error, and reports it
            if snapshot != last:
                self._changed(self._name)
                calm_at = time.monotonic() + self._settling.calm_seconds
            last = snapshot

    def _is_past(self, version: int) -> bool:
        return self._version > version or self._is_stopped()

    def _wait_for_convergence(self, version: int) -> Snapshot | None:
        """Wait for the convergence after `version`, and return its snapshot of this source."""
        with self._converged:
            while not self._converged.wait_for(lambda: self._is_past(version), _SLICE_SECONDS):
                pass
            return self._seen


class FactsWatcher:
    """Waits for facts that the platform changes while the instance runs, in a thread, and calls `changed`."""

    def __init__(
        self, platform: PlatformWatcher, changed: Callable[[], None], *, stopping: threading.Event | None = None
    ) -> None:
        """Prepare the thread, which `on_converged` starts. `stopping` is the event that all sources share."""
        self.platform = platform
        self._changed = changed
        self._stop = threading.Event()
        self._stopping = stopping or threading.Event()
        self._facts: Facts | None = None
        self._unexpected = UnexpectedErrorLog("the watch of the platform's facts")
        self._thread = threading.Thread(target=self._work, name="watch facts", daemon=True)

    def on_converged(self, facts: Facts) -> None:
        """Take over the facts of a convergence, and start the thread with the first that name a platform to watch."""
        self._facts = facts
        if self._thread.ident is None and not self._is_stopped() and self.platform.watches(facts):
            self._thread.start()

    def stop(self) -> None:
        """End the thread soon, without waiting for it."""
        self._stop.set()
        self.platform.close()

    def _is_stopped(self) -> bool:
        return self._stop.is_set() or self._stopping.is_set()

    def _work(self) -> None:
        backoff = Backoff(_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS)
        while not self._is_stopped() and self._facts is not None:
            try:
                changed = self.platform.wait(self._facts, _WATCH_SECONDS)
                if changed:
                    self._changed()
            except DiscoveryError as error:
                log.debug("the metadata service: %s", error)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a bug must end neither the watch nor the daemon
                self._unexpected.report(error)
            else:
                backoff.reset()
                continue
            wait_for_any(backoff.next_seconds(), self._stop, self._stopping)
