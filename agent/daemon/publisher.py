"""Writes status.json and metrics.prom, tells systemd, and logs a change of state."""

from __future__ import annotations

import logging
import threading
import time

from agent.convergence.context import Memory
from agent.errors import ParbakeError
from agent.paths import Paths
from agent.status import report
from agent.status.report import InstanceState
from agent.system import journal_log
from agent.system.sd_notify import Notifier

log = logging.getLogger("parbake")


class Publisher:
    """Publishes the report of one daemon. It may be called from the watch threads too."""

    def __init__(self, paths: Paths, memory: Memory, notifier: Notifier) -> None:
        self._paths, self._memory, self._notifier = paths, memory, notifier
        self._writing = threading.Lock()
        self._stamp: report.StatusStamp = None
        self._last_logged_state = ("", 0)
        self._last_logged_error = ""

    def publish(self) -> None:
        """Write the files, and log the state if it changed to one that holds."""
        self.write()
        current = self._memory.report
        self._notifier.notify(f"STATUS={current.state}, generation {current.generation}")
        if (current.state, current.generation) != self._last_logged_state and current.state in (
            InstanceState.CONVERGED,
            InstanceState.STALE,
        ):
            level, message_id = journal_log.EVENTS[current.state]
            reason = f": {current.error}; the last good run config stays in use" if current.error else ""
            event = journal_log.event(message_id, current.generation)
            log.log(level, "%s, generation %d%s", current.state, current.generation, reason, extra=event)
        self._last_logged_state = (current.state, current.generation)

    def write(self) -> None:
        """Write status.json and metrics.prom. A disk that refuses them is logged."""
        with self._writing:
            try:
                report.publish(self._memory.report, self._paths)
            except OSError as error:
                log.error("%s cannot be written: %s", self._paths.status, error.strerror)
            self._stamp = report.status_stamp(self._paths)

    def written_by_another(self) -> bool:
        """Return whether another parbake has written status.json since: one that was run by hand."""
        with self._writing:
            return report.status_stamp(self._paths) != self._stamp

    def refresh_metrics(self) -> None:
        """Write metrics.prom again if it changed."""
        with self._writing:
            report.refresh(self._memory.report, self._paths)

    def ready(self) -> None:
        """Tell systemd that the first convergence is over."""
        self._notifier.starting = False
        self.publish()
        current = self._memory.report
        self._notifier.notify(f"READY=1\nSTATUS={current.state}, generation {current.generation}")

    def reloading(self) -> None:
        """Tell systemd that the settings are read again."""
        self._notifier.notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def reloaded(self) -> None:
        self._notifier.notify("READY=1")

    def failed(self, error: ParbakeError) -> None:
        """Take an error into the report and log it, once while it stays the same."""
        current = self._memory.report
        current.failures += 1
        current.set_state(report.state_after(error), str(error))
        hint = f" ({error.hint})" if error.hint else ""
        level = logging.ERROR if str(error) != self._last_logged_error else logging.DEBUG
        event = journal_log.event(journal_log.failure_id(error), current.generation)
        log.log(level, "%s%s", error, hint, extra=event)
        self._last_logged_error = str(error)
