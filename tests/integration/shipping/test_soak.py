"""The shipper killed at random while its sink fails: every line arrives, in order, and memory stays bounded."""

from __future__ import annotations

import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Image
from tests.servers import journal_directory
from tests.servers.journal_directory import JournalWriter, entry
from tests.servers.log_receivers import HttpReceiver
from tests.servers.processes import wait_until

pytestmark = pytest.mark.skipif(not journal_directory.available, reason="systemd-journal-remote is not installed")
ENTRIES = 200_000
KILLS = 20
BATCH = 1000
MEMORY_MAX_KB = 120 * 1024
SETTINGS = """
[ship]
files = ["/var/log/app/app.log"]
[[sink]]
type = "http"
url = "{url}/logs"
timeout = "2s"
batch_age = "50ms"
"""


class Counting:
    """Keeps the numbers of the lines of each stream, in the order they came."""

    def __init__(self) -> None:
        self.journal: list[int] = []
        self.file: list[int] = []
        self._lock = threading.Lock()

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        with self._lock:
            self.journal += map(int, re.findall(rb'"MESSAGE":"journal (\d+) ', body))
            self.file += map(int, re.findall(rb'"MESSAGE":"file (\d+) ', body))
        return 200, b""

    @property
    def complete(self) -> bool:
        return len(self.journal) >= ENTRIES and len(self.file) >= ENTRIES and self._whole()

    def _whole(self) -> bool:
        return len(set(self.journal)) == len(set(self.file)) == ENTRIES


def _write_journal(directory: Path) -> None:
    with JournalWriter(directory) as journal:
        for start in range(0, ENTRIES, 1000):
            journal.add(*(entry(n, f"journal {n} of many, said by an application") for n in range(start, start + 1000)))


def _write_files(log: Path) -> None:
    """Lines, with the file renamed away twenty times on the way, as logrotate does; six generations are kept."""
    for start in range(0, ENTRIES, ENTRIES // 20):
        for part in range(start, start + ENTRIES // 20, 500):
            with log.open("a") as file:
                file.writelines(f"file {n} of many, said by an application\n" for n in range(part, part + 500))
            time.sleep(0.02)
        for number in range(20, 0, -1):
            newer = log if number == 1 else log.with_name(f"{log.name}.{number - 1}")
            if newer.exists():
                newer.rename(log.with_name(f"{log.name}.{number}"))
        log.touch()


def _peak_kb(process: subprocess.Popen[str]) -> int:
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+)", status)
    return int(match[1]) if match else 0


def _first_seen(numbers: list[int]) -> list[int]:
    return list(dict.fromkeys(numbers))


def test_nothing_is_lost_through_kills_and_a_failing_sink(image: Image) -> None:
    """200,000 entries and 200,000 lines through rotation, 20 kills, resets and 503: each line at least once, duplicates
    at most a batch a kill and stream, first arrivals in order, and never over 120 MB."""
    counting, chance = Counting(), random.Random(7)
    receiver = HttpReceiver(counting.take)
    image.settings(SETTINGS.format(url=receiver.url), site=False)
    log = image.write("/var/log/app/app.log", "")
    writers = [
        threading.Thread(target=_write_journal, args=(image.path("/var/log/journal/0123456789abcdef0123456789abcdef"),)),
        threading.Thread(target=_write_files, args=(log,)),
    ]
    peak, process = 0, image.start("ship")
    wait_until(image.path("/var/lib/parbake/ship/http.files.json").exists, 20, "the first look at the file")
    for writer in writers:
        writer.start()
    ends = time.monotonic() + 120
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.6, 1.6))
            peak = max(peak, _peak_kb(process))
            receiver.forget()  # on a busy machine troubles would pile up faster than requests come
            receiver.next(*chance.choices(["503", "reset", "503;Retry-After=1"], k=chance.randrange(4)))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            process = image.start("ship")
        while not counting.complete and time.monotonic() < ends:
            time.sleep(0.3)
            peak = max(peak, _peak_kb(process))
        time.sleep(3)  # the last of the shippers may have begun only now, and would not know of signals yet
        process.terminate()
        _, complaints = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
        receiver.close()
        for writer in writers:
            writer.join()
    assert process.returncode == 0, complaints
    for numbers in (counting.journal, counting.file):
        assert _first_seen(numbers) == list(range(ENTRIES))
        assert len(numbers) - ENTRIES <= KILLS * BATCH
    assert 0 < peak < MEMORY_MAX_KB


def test_memory_is_bounded_while_the_sink_hangs(image: Image) -> None:
    """A receiver that accepts and never answers costs one batch of memory, however much there is to ship, and a stop
    ends within its deadline."""
    release = threading.Event()

    def hang(path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        release.wait(60)
        return 200, b""

    receiver = HttpReceiver(hang)
    image.settings(SETTINGS.format(url=receiver.url).replace("[ship]", '[ship]\ndrain = "2s"'), site=False)
    image.write("/var/log/app/app.log", f"{'x' * 200}\n" * 200_000)
    process = image.start("ship")
    try:
        time.sleep(6)
        peak = _peak_kb(process)
        process.terminate()
        began = time.monotonic()
        process.communicate(timeout=30)
        assert time.monotonic() - began < 10
    finally:
        process.kill()
        process.wait()
        release.set()
        receiver.close()
    assert 0 < peak < MEMORY_MAX_KB
