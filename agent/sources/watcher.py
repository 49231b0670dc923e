"""One thread a source that waits for changes, so that the daemon's loop only ever waits for its queue."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence

from agent.discovery.watcher import Watcher as PlatformWatcher
from agent.errors import DiscoveryError, SourceError
from agent.model import Facts, Snapshot
from agent.settings.models import Watch
from agent.sources import Source, Watching

log = logging.getLogger("parbake.watch")
_WATCH_SECONDS = 300.0
_FIRST_DELAY, _LAST_DELAY = 0.5, 30.0
_EARLY = 0.85
"""The part of a poll within which an alarm is none of the poll's: less than what its jitter leaves."""


class UnexpectedErrorLog:
    """Says each bug once, by its type and place alone: an unexpected error's text may hold a value."""

    def __init__(self, whose: str, source: str = "") -> None:
        self._whose = whose
        self._extra = {"PARBAKE_SOURCE": source} if source else {}
        self._told: set[str] = set()

    def tell(self, error: BaseException) -> None:
        """Log it, unless it was."""
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "an unknown place"
        kind = type(error)
        text = f"{kind.__module__}.{kind.__qualname__} at {place}".removeprefix("builtins.")
        if text not in self._told:
            self._told.add(text)
            log.error("%s: a bug: %s; it is watched on, with pauses", self._whose, text, extra=self._extra)


class Watcher:
    """Waits on one source; calls `changed` when it holds something new or fails, and when it is back after an absence: it
    asks that source alone until then, since a convergence asks all the others too.

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
        self._looked = float("-inf")
        self._bugs = UnexpectedErrorLog(f"source {name}", name)
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
        if self._thread.ident is None and not self._stopping.is_set():
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        with self._told:
            self._told.notify_all()

    def _work(self) -> None:
        delay = _FIRST_DELAY
        while not self._stopping.is_set():
            try:
                delay = self._turn(delay)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - one backend's bug must not end the watch, nor the daemon
                self._bugs.tell(error)
                delay = self._pause(delay)

    def _turn(self, delay: float) -> float:
        """One wait and what follows from it; returns the next back-off's delay."""
        seen, version = self._latest()
        alarmed, healthy = self._wait(seen)
        if self._stopping.is_set():
            return delay
        if not alarmed:
            return _FIRST_DELAY if healthy else self._pause(delay)
        found: Snapshot | None = None
        early = False
        if seen is not None:
            early = isinstance(self.source, Watching) and time.monotonic() - self._looked < self._poll * _EARLY
            seen, version = self._latest()  # the loop may have pulled during the wait
            found = self._look()
            if found is not None and found == seen:
                return self._pause(delay) if early or not healthy else _FIRST_DELAY
        self._changed(self._name)
        if healthy and found is not None and isinstance(self.source, Watching):
            self._follow(found, version)
        now = self._pulled(version)
        return self._pause(delay) if now is None or (now == seen and (early or not healthy)) else _FIRST_DELAY

    def _latest(self) -> tuple[Snapshot | None, int]:
        with self._told:
            return self._seen, self._version

    def _wait(self, seen: Snapshot | None) -> tuple[bool, bool]:
        """(whether there may be something new, whether the source is well)."""
        if seen is None:
            return self._is_back(), False
        if not isinstance(self.source, Watching):
            self._stopping.wait(self._poll * random.uniform(0.9, 1.1))  # noqa: S311 - jitter, not a secret
            return True, True
        try:
            return self.source.watch(seen, _WATCH_SECONDS), True
        except SourceError as error:
            log.info("source %s: its watch ended: %s", self._name, error, extra={"PARBAKE_SOURCE": self._name})
        except (Exception, SystemExit) as error:  # noqa: BLE001 - what cannot be watched can still be looked at
            self._bugs.tell(error)
        return True, False

    def _look(self) -> Snapshot | None:
        """What the source holds, so that an alarm or a poll without news costs one fetch of this source and no convergence.
        None where that is the loop's to find out: it knows the layers, and reports why a source fails."""
        layers = self._layers
        try:
            return self.source.fetch(layers) if layers is not None else None
        except SourceError:
            return None
        finally:
            self._looked = time.monotonic()

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

    def _follow(self, last: Snapshot, version: int) -> None:
        """Say `changed` again as long as the source goes on changing, so that the loop waits until it is calm; for no
        longer than the loop waits."""
        layers = self._layers
        end = time.monotonic() + self._settling.settle_max
        calm_at = time.monotonic() + self._settling.calm_seconds
        while layers is not None and time.monotonic() < min(calm_at, end):
            with self._told:
                if self._told.wait_for(lambda: self._is_past(version), self._settling.look_seconds):
                    return
            try:
                now = self.source.fetch(layers)
            except SourceError:
                return  # the loop finds out by itself, when it pulls
            if now != last:
                self._changed(self._name)
                calm_at = time.monotonic() + self._settling.calm_seconds
            last = now

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
        self._bugs = UnexpectedErrorLog("the watch of the platform's facts")
        self._thread = threading.Thread(target=self._work, name="watch facts", daemon=True)

    def saw(self, facts: Facts) -> None:
        """The facts that the loop works with now. The thread starts with the first that name a platform to watch."""
        self._facts = facts
        if self._thread.ident is None and not self._stopping.is_set() and self.platform.watches(facts):
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self.platform.close()

    def _work(self) -> None:
        delay = _FIRST_DELAY
        while not self._stopping.is_set() and self._facts is not None:
            try:
                changed = self.platform.wait(self._facts, _WATCH_SECONDS)
                if changed:
                    self._changed()
            except DiscoveryError as error:
                log.debug("the metadata service: %s", error)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a provider's bug must not end the watch, nor the daemon
                self._bugs.tell(error)
            else:
                delay = _FIRST_DELAY
                continue
            self._stopping.wait(random.uniform(0, delay))  # noqa: S311 - jitter, not a secret
            delay = min(delay * 2, _LAST_DELAY)
