"""What a command that converges works with, from its start to its end: runtime, memory, open sources, and the stop event."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from agent.convergence.context import (
    Memory,
    Narrate,
    PlannedConvergence,
    Runtime,
    new_memory,
    no_narration,
    open_runtime,
)
from agent.convergence.converge import discover_facts, plan_convergence
from agent.errors import StopRequested
from agent.paths import Paths
from agent.settings.models import Settings
from agent.sources.registry import SourceRegistry
from agent.system.stop_signals import StopSignals, install


@dataclass(frozen=True, slots=True)
class Session:
    """The three that a convergence takes."""

    runtime: Runtime
    memory: Memory
    sources: SourceRegistry

    def plan(self) -> PlannedConvergence:
        """Discover, pull, render and plan. Changes nothing. Raises ParbakeError."""
        return plan_convergence(self.runtime, self.memory, self.sources, discover_facts(self.runtime, self.memory))


@contextmanager
def open_session(paths: Paths, settings: Settings, narrate: Narrate = no_narration) -> Iterator[Session]:
    """Yield a session, and close its sources at the end.

    SIGTERM and the first SIGINT set the stop event, so that nothing is left half done. After a SIGINT the end is a
    KeyboardInterrupt, as shells expect. A second SIGINT interrupts at once.
    """
    stop = threading.Event()
    with _stopped_by_signals(stop):
        session = Session(
            open_runtime(paths, settings, stop, narrate=narrate), new_memory(settings), SourceRegistry(paths, stop)
        )
        try:
            yield session
        finally:
            session.sources.close()


@contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    received: list[int] = []
    signals = StopSignals(stop)

    def on_signal(number: int, frame: object) -> None:
        received.append(number)
        if received.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt
        signals.put(number)

    restore = install((signal.SIGTERM, signal.SIGINT), on_signal)
    try:
        yield
    except StopRequested as error:
        if signal.SIGINT not in received:
            raise
        sys.stderr.write(f"{error}\n")
        raise KeyboardInterrupt from None
    finally:
        restore()
        signals.close()
