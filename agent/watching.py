"""One thread a source that waits for changes, so that the daemon's loop only ever waits for its queue."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from agent.discovery.changes import Watcher as PlatformWatcher
from agent.errors import DiscoveryError, SourceError
from agent.model import Facts, Snapshot
from agent.settings.tables import Watch
from agent.sources import Source, Watching

log = logging.getLogger("parbake.watch")
_WATCH_SECONDS = 300.0
_FIRST_DELAY, _LAST_DELAY = 0.5, 30.0


class Watcher:
    """Waits on one source; calls `changed` when it may hold something new, and when it is back after an absence: it asks
    that source alone until then, since a convergence asks all the others too.

    After calling `changed` it waits until the loop has pulled (`saw`), so that a source that always claims to have
    changed costs a back-off and no storm. While the loop lets changes settle, it looks whether there are more, and says so.
    """

    def __init__(
        self, name: str, source: Source, poll_seconds: float, changed: Callable[[str], None], settling: Watch | None = None
    ) -> None:
        self.source = source
        self._settling = settling or Watch()
        self._name = name
        self._poll = poll_seconds
        self._changed = changed
        self._stopping = threading.Event()
        self._seen: Snapshot | None = None
        self._layers: Sequence[str] | None = None
        self._disbelieved: Snapshot | None = None
        self._error = ""
        self._version = 0
        self._told = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"watch {name}", daemon=True)

    def saw(
        self,
        snapshot: Snapshot | None,
        layers: Sequence[str] | None = None,
        *,
        believed: bool = True,
        error: str | None = None,
    ) -> None:
        """What the loop pulled last; None where the source did not answer, which the `error` says, or what it said was not
        `believed`. `layers` are those that it is asked for, None where that is not known."""
        with self._told:
            self._seen, self._layers, self._error = snapshot, layers, error or ""
            self._disbelieved = None if believed else self._disbelieved
            self._version += 1
            self._told.notify_all()
        if not self._thread.is_alive() and not self._stopping.is_set():
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        with self._told:
            self._told.notify_all()

    def _work(self) -> None:
        delay = _FIRST_DELAY
        while not self._stopping.is_set():
            with self._told:
                seen, version = self._seen, self._version
            changed, healthy = self._wait(seen)
            if self._stopping.is_set():
                return
            if not changed:
                delay = _FIRST_DELAY if healthy else self._pause(delay)
                continue
            self._changed(self._name)
            if healthy and seen is not None and isinstance(self.source, Watching):
                self._follow(seen, version)
            now = self._pulled(version)
            delay = self._pause(delay) if now is None or now == seen else _FIRST_DELAY

    def _wait(self, seen: Snapshot | None) -> tuple[bool, bool]:
        """(whether to pull, whether the source is well)."""
        if seen is None:
            return self._is_back(), False
        if not isinstance(self.source, Watching):
            self._stopping.wait(self._poll * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, not a secret
            return True, True
        try:
            return self.source.watch(seen, _WATCH_SECONDS), True
        except SourceError as error:
            log.info("source %s: its watch ended: %s", self._name, error, extra={"PARBAKE_SOURCE": self._name})
            return True, False

    def _is_back(self) -> bool:
        """Whether a source that did not answer, or was not believed, now says something else, or is away for another reason,
        which status is to tell."""
        if self._layers is None:
            return True  # the loop tries again: what it lacks is not the source's
        try:
            found = self.source.fetch(self._layers)
        except SourceError as error:
            self._disbelieved = None
            return not self._error.startswith(str(error))
        known, self._disbelieved = self._disbelieved, found
        return found != known

    def _follow(self, seen: Snapshot, version: int) -> None:
        """Say `changed` again as long as the source goes on changing, so that the loop waits until it is calm; for no
        longer than the loop waits."""
        layers = [layer.name for layer in seen.layers]
        end = time.monotonic() + self._settling.settle_max
        calm_at = time.monotonic() + self._settling.settle
        last: Snapshot | None = None
        while time.monotonic() < min(calm_at, end):
            try:
                now = self.source.fetch(layers)
            except SourceError:
                return  # the loop finds out by itself, when it pulls
            if last is not None and now != last:
                self._changed(self._name)
                calm_at = time.monotonic() + self._settling.settle
            last = now
            with self._told:
                if self._told.wait_for(lambda: self._is_past(version), self._settling.settle / 2):
                    return

    def _is_past(self, version: int) -> bool:
        return self._version > version or self._stopping.is_set()

    def _pulled(self, version: int) -> Snapshot | None:
        with self._told:
            self._told.wait_for(lambda: self._is_past(version))
            return self._seen

    def _pause(self, delay: float) -> float:
        """Exponential back-off with full jitter; returns the next delay."""
        self._stopping.wait(random.uniform(0, delay))  # noqa: S311 - jitter, not a secret
        return min(delay * 2, _LAST_DELAY)


class FactsWatcher:
    """Waits on the platform for facts that change while the instance runs; calls `changed` when one has."""

    def __init__(self, platform: PlatformWatcher, changed: Callable[[], None]) -> None:
        self.platform = platform
        self._changed = changed
        self._stopping = threading.Event()
        self._facts: Facts | None = None
        self._thread = threading.Thread(target=self._work, name="watch facts", daemon=True)

    def saw(self, facts: Facts) -> None:
        """The facts that the loop works with now. The thread starts with the first that name a platform to watch."""
        self._facts = facts
        if not self._thread.is_alive() and not self._stopping.is_set() and self.platform.watches(facts):
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self.platform.close()

    def _work(self) -> None:
        delay = _FIRST_DELAY
        while not self._stopping.is_set() and self._facts is not None:
            try:
                changed = self.platform.wait(self._facts, _WATCH_SECONDS)
            except DiscoveryError as error:
                log.debug("the metadata service: %s", error)
                self._stopping.wait(random.uniform(0, delay))  # noqa: S311 - jitter, not a secret
                delay = min(delay * 2, _LAST_DELAY)
                continue
            delay = _FIRST_DELAY
            if changed:
                self._changed()
