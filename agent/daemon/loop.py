"""`parbake run`: converge, say READY, then wait for changes, settle, converge again.

Signal handlers and watch threads only put an event in the queue; this loop reads it. The watchdog is fed by the loop alone, so
a loop that hangs is a daemon that systemd restarts.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Mapping

from agent.convergence.context import Runtime, new_memory, open_runtime
from agent.convergence.converge import converge
from agent.convergence.recovery import confirm_started
from agent.daemon.drift_check import DriftCheck
from agent.daemon.events import Event
from agent.daemon.publisher import Publisher
from agent.daemon.retry import Retry
from agent.daemon.watch_registry import WatchRegistry
from agent.errors import BusyError, ParbakeError, StateError, StopRequested
from agent.model import FactValue, SourceState
from agent.net.backoff import random_delay
from agent.paths import Paths
from agent.settings.models import Settings
from agent.sources.registry import SourceRegistry
from agent.status.report import InstanceState
from agent.system.sd_notify import Notifier
from agent.system.stop_signals import StopSignals, install

log = logging.getLogger("parbake")
_TICK_SECONDS = 5.0
_APPLIED_CODES = (0, 74, 75)
"""Exit codes after which the targets are in place. 74: a first generation that did not come up stays in place, and a unit that
fails is better than one that waits."""


class Daemon:
    """The loop and its state. The state of the convergences is in `Memory`."""

    def __init__(self, paths: Paths, settings: Settings, reload: Callable[[], Settings]) -> None:
        """`reload` reads the settings again. It raises ParbakeError if they are invalid."""
        self._paths, self._reload = paths, reload
        self._stop = threading.Event()
        self._notifier = Notifier()
        self._runtime = self._open_runtime(settings)
        self._memory = new_memory(settings)
        self._sources = SourceRegistry(paths, self._stop)
        self._events: queue.SimpleQueue[tuple[Event, str]] = queue.SimpleQueue()
        self._watchers = WatchRegistry(
            lambda cause: self._events.put((Event.CHANGED, cause)),
            lambda: self._events.put((Event.TOUCHED, "drift")),
            self._on_notice,
        )
        self._publisher = Publisher(paths, self._memory, self._notifier)
        self._drift = DriftCheck()
        self._retry = Retry()
        self._ready = False

    def run(self) -> int:
        """Run until SIGTERM. Returns the exit code."""
        self._handle_signals()
        self._publisher.publish()
        self._converge("start")
        while True:
            event, cause = self._next_event()
            if event == Event.RELOAD:
                self._reload_settings()
                self._converge(cause)
                continue
            if event in (Event.CHANGED, Event.TOUCHED):
                event, cause = self._settle(event, cause)
            if event == Event.STOP:
                return self._end()
            if event == Event.TOUCHED and not self._look_for_drift():
                self._watchers.watch_targets(self._runtime)  # another program may have made a directory again
                continue
            if event != Event.NONE:
                self._converge(cause)

    def _open_runtime(self, settings: Settings, previous: Runtime | None = None) -> Runtime:
        def narrate(step: str, seconds: float, text: str) -> None:
            self._notifier.ping_watchdog()
            log.debug("%s: %s (%.0f ms)", step, text, seconds * 1000)

        return open_runtime(
            self._paths,
            settings,
            self._stop,
            narrate=narrate,
            ping_watchdog=self._notifier.ping_watchdog,
            extend_watchdog=self._notifier.extend_watchdog,
            previous=previous,
        )

    def _handle_signals(self) -> None:
        signals = StopSignals(self._stop)

        def stop(number: int, frame: object) -> None:
            signals.put(number)
            self._events.put((Event.STOP, signal.Signals(number).name))

        install((signal.SIGTERM, signal.SIGINT), stop)
        install((signal.SIGHUP,), lambda *_: self._events.put((Event.RELOAD, "SIGHUP")))

    def _next_event(self) -> tuple[Event, str]:
        """Return the next event, a retry that is due, or Event.NONE after a tick."""
        self._notifier.ping_watchdog()
        try:
            return self._events.get(timeout=min(_TICK_SECONDS, self._retry.seconds_left))
        except queue.Empty:
            return self._tick()

    def _tick(self) -> tuple[Event, str]:
        self._publisher.refresh_metrics()
        if self._publisher.written_by_another():
            return Event.CHANGED, "another parbake"  # what a command by hand did, held or released is not known here yet
        return (Event.CHANGED, "retry") if self._retry.due else (Event.NONE, "")

    def _settle(self, event: Event, cause: str) -> tuple[Event, str]:
        """Wait until changes have calmed down, and for this instance's share of the splay. Returns the event that is left."""
        watch = self._runtime.settings.watch
        event, cause = self._gather(event, cause, watch.calm_seconds, watch.settle_max)
        if event == Event.CHANGED and self._ready and watch.splay:
            share = random_delay(watch.splay)
            event, cause = self._gather(event, cause, share, share)
        return event, cause

    def _gather(self, event: Event, cause: str, quiet_seconds: float, most_seconds: float) -> tuple[Event, str]:
        """Take events until none came for `quiet_seconds`, for `most_seconds` at most.

        A reload ends this at once: the settings are read, and an operator waits for the convergence.
        """
        end = time.monotonic() + most_seconds
        quiet_end = time.monotonic() + quiet_seconds
        while event != Event.STOP and (left := min(end, quiet_end) - time.monotonic()) > 0:
            self._notifier.ping_watchdog()
            try:
                other, other_cause = self._events.get(timeout=min(_TICK_SECONDS, left))
            except queue.Empty:
                continue
            if other == Event.RELOAD:
                self._reload_settings()
                return other, other_cause
            if other == Event.STOP or (other == Event.CHANGED and event == Event.TOUCHED):
                event, cause = other, other_cause
            quiet_end = time.monotonic() + quiet_seconds
        return event, cause

    def _reload_settings(self) -> None:
        self._publisher.reloading()
        try:
            settings = self._reload()
        except ParbakeError as error:
            log.error("the settings are kept as they were: %s", error)
        else:
            self._watchers.stop_sources()
            self._sources.close()
            self._runtime = self._open_runtime(settings, self._runtime)
            self._memory.take_settings(settings)
        if self._ready:
            self._publisher.reloaded()

    def _converge(self, cause: str) -> None:
        """Converge once, publish the result, and plan another try if that may help."""
        self._memory.notices = self._watchers.notices
        try:
            code = converge(self._runtime, self._memory, self._sources, cause=cause, before_ready=not self._ready)
            if not self._ready and not self._stop.is_set() and (code in _APPLIED_CODES or self._has_applied_generation()):
                self._become_ready()
                if not confirm_started(self._runtime, self._memory):
                    self._events.put((Event.CHANGED, "start"))
        except StopRequested as error:
            log.info("%s", error)
            return
        except ParbakeError as error:
            code = error.exit_code
            self._publisher.failed(error)
            if not self._ready and not self._stop.is_set() and self._has_applied_generation():
                # the application runs on the earlier generation's config rather than not at all
                self._become_ready()
        self._publisher.publish()
        self._watchers.on_converged(self._runtime, self._memory, self._sources)
        self._plan_retry(code)
        if self._ready:
            self._watchers.watch_targets(self._runtime)

    def _look_for_drift(self) -> bool:
        """Report targets that were edited by hand. Returns whether to converge: to restore one, or after another parbake."""
        if self._publisher.written_by_another():
            return True
        try:
            repair = self._drift.look(self._runtime, self._memory)
        except BusyError:
            self._events.put((Event.TOUCHED, "drift"))  # look again when the other parbake has finished
            return False
        except StateError as error:
            log.error("the targets cannot be compared with their generation: %s", error)
            return False
        self._publisher.publish()
        return repair

    def _has_applied_generation(self) -> bool:
        """Return whether an earlier generation's targets are in place, so that the units can run on them."""
        try:
            return self._runtime.state.generations.last() is not None
        except StateError as error:
            log.error("%s", error)
            return False

    def _become_ready(self) -> None:
        self._ready = True
        self._publisher.ready()

    def _plan_retry(self, code: int) -> None:
        """Try again what waiting may cure. A change cures wrong data (65), and the watchers report it. A source that is
        unavailable (75) is asked by its own watcher, so that the other sources are left alone."""
        report = self._memory.report
        stale = [source.name for source in report.sources if source.state == SourceState.STALE]
        if code == 0 and self._sources.has_broken:
            self._retry.soon()
        elif code == 0 or (code == 65 and self._watchers.any_source) or report.state == InstanceState.ROLLED_BACK:
            self._retry.cancel()
        elif code == 75 and self._watchers.watches(stale):
            self._retry.later()
        else:
            self._retry.soon()

    def _on_notice(self, notices: Mapping[str, FactValue | None]) -> None:
        """Take in what the platform announced. Runs in the watch thread: the shipper sends at once when the instance
        terminates, and neither a splay nor a long convergence may delay that."""
        report = self._memory.report
        facts = {**report.facts, **{name: v for name, v in notices.items() if name.startswith("terminating")}}
        report.facts = {name: value for name, value in facts.items() if value is not None}
        self._publisher.write()
        self._events.put((Event.CHANGED, "facts"))

    def _end(self) -> int:
        self._notifier.notify("STOPPING=1")
        self._watchers.stop()
        self._sources.close()
        log.info("stopped")
        return 0
