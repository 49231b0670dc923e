"""Signals as an event: a handler runs in the middle of any code, and must never wait for a lock that this code holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from agent.system.stop_signals import StopDeadline, StopSignals, install

SCRIPT = """
import os, signal, threading
from agent.system.stop_signals import StopSignals, install

parent = os.getpid()
for _ in range(100):
    stop = threading.Event()
    signals = StopSignals(stop)
    install((signal.SIGTERM,), lambda number, frame: signals.put(number))
    killer = threading.Timer(0.003, os.kill, (parent, signal.SIGTERM))
    killer.start()
    while not stop.wait(0):  # the event's lock is held for most of the time
        pass
    killer.join()
print("done")
"""


def test_a_signal_in_the_middle_of_a_wait_does_not_deadlock() -> None:
    """`Event.set` in a handler would wait for the lock that the interrupted `Event.wait` holds, for ever."""
    result = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout == "done\n"


def test_the_first_signal_sets_the_event_and_the_handlers_are_restored() -> None:
    """What was there before a command is there after it."""
    stop = threading.Event()
    signals = StopSignals(stop)
    before = signal.getsignal(signal.SIGUSR1)
    restore = install((signal.SIGUSR1,), lambda number, frame: signals.put(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    assert stop.wait(60)
    restore()
    assert signal.getsignal(signal.SIGUSR1) == before


def test_nothing_is_set_after_the_end() -> None:
    """The thread of a command that has ended is gone, and its event stays as it is."""
    stop = threading.Event()
    threads = threading.active_count()
    signals = StopSignals(stop)
    signals.close()
    signals.put(signal.SIGTERM)
    for thread in threading.enumerate():
        if thread.name == "stop signals":
            thread.join(60)
    assert threading.active_count() <= threads
    assert not stop.is_set()


def test_a_grace_begins_with_the_stop() -> None:
    """A restart that is under way may finish; without a stop nothing is cut off."""
    stop = threading.Event()
    assert not StopDeadline(stop, 0.0).passed()
    stop.set()
    assert not StopDeadline(stop, 3600.0).passed()
    deadline = StopDeadline(stop, 0.0)
    while not deadline.passed():
        pass
