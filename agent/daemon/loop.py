"""`parbake run`: converge, say READY, then wait for changes, settle, converge again.

Signal handlers and watch threads only put a word in the queue; this loop reads it. The watchdog is fed here and nowhere
else, so that a loop that hangs is a daemon that is restarted.
"""

from __future__ import annotations

import logging
import queue
import random
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from agent.convergence import converge, drift
from agent.convergence.context import World
from agent.convergence.recovery import confirm_started
from agent.daemon.watch_registry import Watchers
from agent.errors import BusyError, ParbakeError, RolledBack
from agent.model import FactValue
from agent.status import report
from agent.system import journal_log
from agent.system.process import ProcessResult
from agent.system.process import run as run_program
from agent.system.sd_notify import Notifier
from agent.system.units import Systemd

log = logging.getLogger("parbake")
_RETRY_FIRST, _RETRY_LAST, _RETRY_STALE = 1.0, 60.0, 300.0
_TICK_SECONDS = 5.0
_STOP_SECONDS = 15.0
"""How long a program that runs at SIGTERM may go on: there may be another one after it, and systemd waits for 60 s."""

STOP, CONVERGE, CHANGED, TOUCHED = "stop", "converge", "changed", "touched"

Reload = Callable[[World], World]


@dataclass(slots=True)
class Daemon:
    """The loop's own state, and nothing of the convergence's."""

    world: World
    reload: Reload
    notifier: Notifier = field(default_factory=Notifier)
    events: queue.SimpleQueue[tuple[str, str]] = field(default_factory=queue.SimpleQueue)
    watchers: Watchers = field(init=False)
    ready: bool = False
    retry_seconds: float = 0.0
    retry_at: float = float("inf")
    said: tuple[str, int] = ("", 0)
    said_error: str = ""
    stopping: bool = False
    stop_by: float = float("inf")
    drifted: dict[str, str] = field(default_factory=dict)
    writing: threading.Lock = field(default_factory=threading.Lock)
    written: report.StatusStamp = None

    def __post_init__(self) -> None:
        put = self.events.put
        self.watchers = Watchers(lambda cause: put((CHANGED, cause)), lambda: put((TOUCHED, "drift")), self._noticed)

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
            if kind in (CHANGED, TOUCHED):
                kind, cause = self._settle(kind, cause)
            if kind == STOP:
                return self._stop()
            if kind == TOUCHED and not self._look_for_drift():
                self.watchers.watch_targets(self.world)  # a place may have been made anew by somebody else
                continue
            if kind:
                self._converge(cause)

    def _handle_signals(self) -> None:
        def stop(number: int, frame: object) -> None:
            self.stopping = True
            self.stop_by = min(self.stop_by, time.monotonic() + _STOP_SECONDS)
            self.events.put((STOP, signal.Signals(number).name))

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, lambda *_: self.events.put((CONVERGE, "SIGHUP")))

    def _attach(self) -> None:
        """Let the world's own waits feed the watchdog, since they are this loop's."""
        world, run = self.world, self.world.run

        if run is run_program:
            run = partial(run_program, cancelled=self._out_of_time)

        def fed_run(argv: Sequence[str], seconds: float) -> ProcessResult:
            self.notifier.extend_watchdog(seconds)
            return run(argv, seconds)

        def narrate(step: str, seconds: float, text: str) -> None:
            self.notifier.ping_watchdog()
            log.debug("%s: %s (%.0f ms)", step, text, seconds * 1000)

        world.run = fed_run
        if isinstance(world.units, Systemd):
            world.units = Systemd(fed_run, world.settings.units.timeout)
        world.extend_watchdog = self.notifier.extend_watchdog
        world.narrate = narrate
        world.pause = self._pause
        world.stopping = lambda: self.stopping

    def _out_of_time(self) -> bool:
        """Whether a program that still runs is to end, so that parbake does within the time that its unit gives it."""
        return time.monotonic() > self.stop_by

    def _pause(self, seconds: float) -> None:
        self.notifier.ping_watchdog()
        time.sleep(seconds)

    def _next_event(self) -> tuple[str, str]:
        """The next word in the queue, or a retry that is due, or ("", "") after a tick."""
        self.notifier.ping_watchdog()
        wait = min(_TICK_SECONDS, max(0.0, self.retry_at - time.monotonic()))
        try:
            return self.events.get(timeout=wait)
        except queue.Empty:
            return self._tick()

    def _tick(self) -> tuple[str, str]:
        with self.writing:
            report.refresh(self.world.report, self.world.paths)
            if report.status_stamp(self.world.paths) != self.written:
                return (CHANGED, "another parbake")  # by hand: what it did, held or let go is not known here yet
        return (CHANGED, "retry") if time.monotonic() >= self.retry_at else ("", "")

    def _settle(self, kind: str, cause: str) -> tuple[str, str]:
        """Wait until changes have calmed down, and for this instance's share of the splay. Returns what it came to, and the
        cause of that: STOP outdoes CHANGED, which outdoes TOUCHED."""
        watch = self.world.settings.watch
        kind, cause = self._gather(kind, cause, watch.calm_seconds, watch.settle_max)
        if kind == CHANGED and self.ready and watch.splay:
            share = random.uniform(0, watch.splay)  # noqa: S311 - spreads a swarm, guards nothing
            kind, cause = self._gather(kind, cause, share, share)
        return kind, cause

    def _gather(self, kind: str, cause: str, quiet_seconds: float, most_seconds: float) -> tuple[str, str]:
        end = time.monotonic() + most_seconds
        quiet_end = time.monotonic() + quiet_seconds
        while kind != STOP and (left := min(end, quiet_end) - time.monotonic()) > 0:
            self.notifier.ping_watchdog()
            try:
                other, why = self.events.get(timeout=min(_TICK_SECONDS, left))
            except queue.Empty:
                continue
            if other == CONVERGE:
                self._reload_settings()
            if other == STOP:
                kind = STOP
            elif _as_change(other) == CHANGED and kind != CHANGED:
                kind, cause = CHANGED, why
            quiet_end = time.monotonic() + quiet_seconds
        return kind, cause

    def _reload_settings(self) -> None:
        self.notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
        try:
            world = self.reload(self.world)
        except ParbakeError as error:
            log.error("the settings are kept as they were: %s", error)
        else:
            self.watchers.stop_sources()
            self.world.close()
            self.world = world
            self._attach()
        if self.ready:
            self.notifier.notify("READY=1")

    def _converge(self, cause: str) -> None:
        """One convergence; whatever becomes of it is published, and tried again where that may help."""
        self.world.notices = self.watchers.notices
        try:
            code = converge.converge(self.world, cause=cause, before_ready=not self.ready)
            # 74: a first generation that did not come up stays in place, and a unit that fails is better than one that waits
            if not self.ready and not self.stopping and (code in (0, 74, 75) or self._stands()):
                self._become_ready()
                if not confirm_started(self.world):
                    self.events.put((CHANGED, "start"))
        except ParbakeError as error:
            if self.stopping and isinstance(error, BusyError):
                return
            code = error.exit_code
            self._failed(error)
            if not self.ready and not self.stopping and self._stands():
                # the application runs on the earlier generation's config rather than not at all
                self._become_ready()
        self._publish()
        self.watchers.saw(self.world)
        self._plan_retry(code)
        if self.ready:
            self.watchers.watch_targets(self.world)

    def _look_for_drift(self) -> bool:
        """Report targets that were edited by hand. Whether one is to be put back, or another parbake changed them."""
        if report.status_stamp(self.world.paths) != self.written:
            return True
        try:
            with self.world.state.lock(wait=False):
                last = self.world.generations.last()
        except BusyError:
            self.events.put((TOUCHED, "drift"))  # it is another parbake that writes them: look when it has finished
            return False
        modes = {template.name: template.drift for template in self.world.settings.templates}
        found: dict[str, str] = {}
        repair = False
        for name, known in (last.targets if last else {}).items():
            difference = drift.of_target(self.world.paths, known) if name in modes else None
            if difference is None:
                continue
            found[name] = difference
            repair = repair or modes[name] == "repair" or difference == "is gone"
            if self.drifted.get(name) != difference:
                what = "it is put back" if modes[name] == "repair" or difference == "is gone" else "it is left so"
                extra = journal_log.event(journal_log.DRIFT, self.world.report.generation, PARBAKE_TARGET=known["target"])
                log.warning("target %s drifted: %s; %s", known["target"], difference, what, extra=extra)
        self.drifted = found
        for row in self.world.report.templates:
            if row["state"] in ("current", "drifted"):
                row["state"] = "drifted" if row["name"] in found else "current"
        self._publish()
        return repair

    def _stands(self) -> bool:
        """Whether an earlier generation's targets are in place, so that the units can run on them."""
        return self.world.generations.last() is not None

    def _become_ready(self) -> None:
        self.ready = True
        self.notifier.starting = False
        self._publish()
        self.notifier.notify(f"READY=1\nSTATUS={self.world.report.state}, generation {self.world.report.generation}")

    def _failed(self, error: ParbakeError) -> None:
        found = self.world.report
        found.failures += 1
        state = "rolled-back" if isinstance(error, RolledBack) else "failed"
        found.set_state(state, str(error))
        hint = f" ({error.hint})" if error.hint else ""
        # a store that stays away is one line, not one every minute
        level = logging.ERROR if str(error) != self.said_error else logging.DEBUG
        log.log(level, "%s%s", error, hint, extra=journal_log.event(journal_log.failure_id(error), found.generation))
        self.said_error = str(error)

    def _write(self) -> None:
        with self.writing:
            try:
                report.publish(self.world.report, self.world.paths)
            except OSError as error:
                log.error("%s cannot be written: %s", self.world.paths.status, error.strerror)
            self.written = report.status_stamp(self.world.paths)

    def _publish(self) -> None:
        self._write()
        found = self.world.report
        self.notifier.notify(f"STATUS={found.state}, generation {found.generation}")
        if (found.state, found.generation) != self.said and found.state in ("converged", "stale"):
            level, message_id = journal_log.EVENTS[found.state]
            why = f": {found.error}; the last good run config stays in use" if found.error else ""
            event = journal_log.event(message_id, found.generation)
            log.log(level, "%s, generation %d%s", found.state, found.generation, why, extra=event)
        self.said = (found.state, found.generation)

    def _plan_retry(self, code: int) -> None:
        """Try again what waiting may cure. Wrong data (65) is cured by a change, which the watchers report; and a source that
        is away (75) is asked by its own watcher, so that what is well is left alone."""
        if code == 0 or (code == 65 and self.watchers.any_source) or self.world.report.state == "rolled-back":
            self.retry_seconds, self.retry_at = 0.0, float("inf")
            return
        stale = [source.name for source in self.world.report.sources if source.state == "stale"]
        if code == 75 and self.watchers.watch_all(stale):
            self.retry_seconds = _RETRY_STALE
        else:
            self.retry_seconds = min(_RETRY_LAST, self.retry_seconds * 2 or _RETRY_FIRST)
        self.retry_at = time.monotonic() + random.uniform(0.5, 1.0) * self.retry_seconds  # noqa: S311 - jitter

    def _noticed(self, notices: Mapping[str, FactValue | None]) -> None:
        """In the watcher's thread: the shipper hurries by `terminating`, and neither a splay nor a long convergence is to
        keep it from that."""
        facts = {**self.world.report.facts, **{n: v for n, v in notices.items() if n.startswith("terminating")}}
        self.world.report.facts = {name: value for name, value in facts.items() if value is not None}
        self._write()
        self.events.put((CHANGED, "facts"))

    def _stop(self) -> int:
        self.notifier.notify("STOPPING=1")
        self.watchers.stop()
        self.world.close()
        log.info("stopped")
        return 0


def _as_change(kind: str) -> str:
    """SIGHUP asks for a convergence as a changed source does."""
    return CHANGED if kind == CONVERGE else kind
