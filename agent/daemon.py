"""`parbake run`: converge, say READY, then wait for changes, settle, converge again.

Signal handlers and watch threads only put a word in the queue; this loop reads it. The watchdog is fed here and nowhere
else, so that a loop that hangs is a daemon that is restarted.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent import converge, logs, report
from agent.effect import RolledBack, confirm_started
from agent.errors import ParbakeError
from agent.watching import Watcher
from agent.world import World

log = logging.getLogger("parbake")
_RETRY_FIRST, _RETRY_LAST = 1.0, 60.0
_TICK_SECONDS = 5.0
_START_USEC = 180_000_000
STOP, CONVERGE, CHANGED = "stop", "converge", "changed"

Reload = Callable[[World], World]


class Notifier:
    """What systemd is told. Nothing where it did not ask (no NOTIFY_SOCKET)."""

    def __init__(self) -> None:
        self._asked = "NOTIFY_SOCKET" in os.environ
        self.starting = True
        self._watchdog_seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6

    def tell(self, text: str) -> None:
        if self._asked:
            from systemd import daemon

            daemon.notify(text)

    def alive(self) -> None:
        """The loop moves. Before READY that also extends the start: waiting for a store is no hang."""
        self.tell(f"EXTEND_TIMEOUT_USEC={_START_USEC}\nWATCHDOG=1" if self.starting else "WATCHDOG=1")

    def alive_for(self, seconds: float) -> None:
        """Before a program that may rightly run longer than the watchdog allows."""
        self.alive()
        if self._watchdog_seconds:
            self.tell(f"WATCHDOG_USEC={int(max(self._watchdog_seconds, seconds + 30) * 1e6)}\nWATCHDOG=1")


@dataclass(slots=True)
class Daemon:
    """The loop's own state, and nothing of the convergence's."""

    world: World
    reload: Reload
    notifier: Notifier = field(default_factory=Notifier)
    events: queue.SimpleQueue[tuple[str, str]] = field(default_factory=queue.SimpleQueue)
    watchers: dict[str, Watcher] = field(default_factory=dict)
    ready: bool = False
    retry_seconds: float = 0.0
    retry_at: float = float("inf")
    said: tuple[str, int] = ("", 0)
    said_error: str = ""

    def run(self) -> int:
        """Until SIGTERM. Returns the exit code."""
        self._handle_signals()
        self._attach()
        self._publish()
        self._converge("start")
        while True:
            kind, cause = self._next_event()
            if kind == STOP:
                return self._stop()
            if kind == CONVERGE:
                self._reload_settings()
            if kind == CHANGED and not self._settle():
                return self._stop()
            if kind:
                self._converge(cause)

    def _handle_signals(self) -> None:
        signal.signal(signal.SIGTERM, lambda *_: self.events.put((STOP, "SIGTERM")))
        signal.signal(signal.SIGINT, lambda *_: self.events.put((STOP, "SIGINT")))
        signal.signal(signal.SIGHUP, lambda *_: self.events.put((CONVERGE, "SIGHUP")))

    def _attach(self) -> None:
        """Let the world's own waits feed the watchdog, since they are this loop's."""
        world, run = self.world, self.world.run

        def fed_run(argv: object, seconds: float) -> object:
            self.notifier.alive_for(seconds)
            return run(argv, seconds)  # type: ignore[arg-type]

        def narrate(step: str, seconds: float, text: str) -> None:
            self.notifier.alive()
            log.debug("%s: %s (%.0f ms)", step, text, seconds * 1000)

        world.run = fed_run  # type: ignore[assignment]
        world.narrate = narrate
        world.pause = self._pause

    def _pause(self, seconds: float) -> None:
        self.notifier.alive()
        time.sleep(seconds)

    def _next_event(self) -> tuple[str, str]:
        """The next word in the queue, or a retry that is due, or ("", "") after a tick."""
        self.notifier.alive()
        wait = min(_TICK_SECONDS, max(0.0, self.retry_at - time.monotonic()))
        try:
            return self.events.get(timeout=wait)
        except queue.Empty:
            return (CHANGED, "retry") if time.monotonic() >= self.retry_at else ("", "")

    def _settle(self) -> bool:
        """Wait until changes have calmed down, and for this instance's share of the splay. False when told to stop."""
        watch = self.world.settings.watch
        end = time.monotonic() + watch.settle_max
        quiet = watch.settle
        while (left := min(quiet, end - time.monotonic())) > 0:
            try:
                kind, _ = self.events.get(timeout=left)
            except queue.Empty:
                break
            if kind == STOP:
                return False
            if kind == CONVERGE:
                self._reload_settings()
        if not self.ready or not watch.splay:
            return True
        end = time.monotonic() + random.uniform(0, watch.splay)  # noqa: S311 - spreads a swarm, guards nothing
        while (left := min(_TICK_SECONDS, end - time.monotonic())) > 0:
            self.notifier.alive()
            try:
                if self.events.get(timeout=left)[0] == STOP:
                    return False
            except queue.Empty:
                continue
        return True

    def _reload_settings(self) -> None:
        self.notifier.tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            world = self.reload(self.world)
        except ParbakeError as error:
            log.error("the settings are kept as they were: %s", error)
        else:
            self._stop_watchers()
            self.world.close()
            self.world = world
            self._attach()
        if self.ready:
            self.notifier.tell("READY=1")

    def _converge(self, cause: str) -> None:
        """One convergence; whatever becomes of it is published, and tried again where that may help."""
        try:
            code = converge.converge(self.world, cause=cause, before_ready=not self.ready)
            if not self.ready and (code in (0, 75) or self._stands()):
                self._become_ready()
                confirm_started(self.world)
        except ParbakeError as error:
            code = error.exit_code
            self._failed(error)
            if not self.ready and self._stands():
                # the application runs on the earlier generation's config rather than not at all
                self._become_ready()
        self._publish()
        self._plan_retry(code)
        self._tell_watchers()

    def _stands(self) -> bool:
        """Whether an earlier generation's targets are in place, so that the units can run on them."""
        return self.world.generations.last() is not None

    def _become_ready(self) -> None:
        self.ready = True
        self.notifier.starting = False
        self._publish()
        self.notifier.tell(f"READY=1\nSTATUS={self.world.report.state}, generation {self.world.report.generation}")

    def _failed(self, error: ParbakeError) -> None:
        found = self.world.report
        found.failures += 1
        state = "rolled-back" if isinstance(error, RolledBack) else "failed"
        found.enter(state, str(error))
        message_id = logs.ROLLED_BACK if state == "rolled-back" else logs.FAILED
        hint = f" ({error.hint})" if error.hint else ""
        # a store that stays away is one line, not one every minute
        level = logging.ERROR if str(error) != self.said_error else logging.DEBUG
        log.log(level, "%s%s", error, hint, extra=logs.event(message_id, found.generation))
        self.said_error = str(error)

    def _publish(self) -> None:
        try:
            report.publish(self.world.report, self.world.places)
        except OSError as error:
            log.error("%s cannot be written: %s", self.world.places.status, error.strerror)
        found = self.world.report
        self.notifier.tell(f"STATUS={found.state}, generation {found.generation}")
        if (found.state, found.generation) != self.said and found.state in ("converged", "stale"):
            level, message_id = (logging.INFO, logs.CONVERGED) if found.state == "converged" else (logging.WARNING, logs.STALE)
            why = f": {found.error}; the last good run config stays in use" if found.error else ""
            event = logs.event(message_id, found.generation)
            log.log(level, "%s, generation %d%s", found.state, found.generation, why, extra=event)
        self.said = (found.state, found.generation)

    def _plan_retry(self, code: int) -> None:
        """Try again what waiting may cure. Wrong data (65) is cured by a change, which the watchers report."""
        if code == 0 or (code == 65 and self.watchers) or self.world.report.state == "rolled-back":
            self.retry_seconds, self.retry_at = 0.0, float("inf")
            return
        self.retry_seconds = min(_RETRY_LAST, self.retry_seconds * 2 or _RETRY_FIRST)
        self.retry_at = time.monotonic() + random.uniform(0.5, 1.0) * self.retry_seconds  # noqa: S311 - jitter

    def _tell_watchers(self) -> None:
        """Every source is watched from the first convergence on, so that one that comes back is seen at once."""
        world = self.world
        pulled = dict(world.pulled.snapshots) if world.pulled else {}
        fresh = world.pulled.fresh if world.pulled else frozenset()
        for settings in world.settings.sources:
            opened = world.sources.get(settings.name)
            if opened is None:
                continue
            watcher = self.watchers.get(settings.name)
            if watcher is None or watcher.source is not opened[1]:
                if watcher is not None:
                    watcher.stop()
                watcher = Watcher(settings.name, opened[1], settings.poll, lambda n: self.events.put((CHANGED, f"source {n}")))
                self.watchers[settings.name] = watcher
            watcher.saw(pulled.get(settings.name) if settings.name in fresh else None)

    def _stop_watchers(self) -> None:
        for watcher in self.watchers.values():
            watcher.stop()
        self.watchers.clear()

    def _stop(self) -> int:
        self.notifier.tell("STOPPING=1")
        self._stop_watchers()
        self.world.close()
        log.info("stopped")
        return 0
