"""Waiting for files: if threads are scarce, the files are looked at instead, and nothing ends."""

from __future__ import annotations

import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.paths import Paths
from agent.shipping.readers.file_wait import DirectoryWatch, WatchBudget
from agent.shipping.readers.files import FilesReader
from agent.shipping.shutdown import Stop


class RecordingStop(Stop):
    """`sleeps` has the time-out of each sleep, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.sleeps: list[float] = []

    def poll(self, descriptor: int, timeout_seconds: float) -> None:
        self.sleeps.append(timeout_seconds)
        super().poll(descriptor, timeout_seconds)


def test_many_log_directories_take_few_threads_and_no_line_waits_long(tmp_path: Path) -> None:
    """With a hundred directories of logs a wait does not start a thread for each, and ends after a second."""
    logs = [tmp_path / f"var/log/{number}/app.log" for number in range(100)]
    for log in logs:
        log.parent.mkdir(parents=True)
        log.touch()
    reader, stop, most = FilesReader(["/var/log/*/app.log"], Paths(tmp_path)), RecordingStop(), 0
    assert not len(reader.read(1000, 1 << 20))
    before = threading.active_count()
    waiting = threading.Thread(target=reader.wait, args=(30.0, stop))
    waiting.start()
    while waiting.is_alive():
        most = max(most, threading.active_count() - before)
        time.sleep(0.01)
    assert stop.sleeps == [1.0]
    assert most < 20
    logs[50].write_text("a\n")
    assert reader.read(1000, 1 << 20).columns["MESSAGE"] == [b"a"]
    reader.close()
    stop.close()


def test_the_budget_is_shared_and_released(tmp_path: Path) -> None:
    """A wait that finds no budget ends after a second; the budget is complete after the other wait."""
    budget, stop = WatchBudget(1), Stop()
    first, second = DirectoryWatch(budget), DirectoryWatch(budget)
    watching = threading.Event()

    def changed() -> bool:
        watching.set()
        return False

    thread = threading.Thread(target=first.wait, args=([tmp_path], 600.0, stop, changed))
    thread.start()
    assert watching.wait(30)
    second.wait([tmp_path], 600.0, stop, lambda: False)
    assert thread.is_alive()
    (tmp_path / "new").touch()
    thread.join(30)
    assert not thread.is_alive()
    assert budget.acquire(1)
    for watch in (first, second):
        watch.close()
    stop.close()


_NO_THREADS = """
import resource, sys, time
from pathlib import Path
from agent.shipping.readers.file_wait import DirectoryWatch
from agent.shipping.shutdown import Stop
stop, watch = Stop(), DirectoryWatch()
import threading
import watchdog.observers
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
threading.stack_size(1 << 30)  # no thread can be started any more
for _ in range(2):
    began = time.monotonic()
    watch.wait([Path(sys.argv[1])], 30.0, stop, lambda: False)
    assert 0.5 < time.monotonic() - began < 15.0
"""


def test_where_no_thread_can_be_started_files_are_looked_at_instead(tmp_path: Path) -> None:
    """At the limit of tasks a wait is a short sleep, this time and the next; it is not the end of the shipper."""
    if resource.getrlimit(resource.RLIMIT_AS)[1] != resource.RLIM_INFINITY:
        pytest.skip("the address space is limited already")
    done = subprocess.run([sys.executable, "-c", _NO_THREADS, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("polled once a second") == 1
