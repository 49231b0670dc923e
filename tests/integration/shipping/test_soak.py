"""The shipper killed at random while its sink fails: every line arrives, in order, and memory stays bounded."""

from __future__ import annotations

import itertools
import json
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Image
from tests.servers import journal_directory
from tests.servers.journal_directory import JournalWriter, entry, rotate_journal
from tests.servers.log_receivers import HttpReceiver
from tests.servers.processes import free_port, wait_until

pytestmark = pytest.mark.skipif(not journal_directory.available, reason="systemd-journal-remote is not installed")
ENTRIES = 200_000
KILLS = 20
BATCH = 2000
ROTATIONS = 20
MEMORY_MAX_KB = 120 * 1024
SETTINGS = """
[ship]
files = ["/var/log/app/app.log"]
drain = "2s"
[[sink]]
type = "http"
url = "{url}/logs"
timeout = "{timeout}"
batch_age = "50ms"
"""


class Counting:
    """Keeps the numbers of the lines of each stream, in the order they came."""

    def __init__(self) -> None:
        self.journal: list[int] = []
        self.file: list[int] = []
        self.other: list[bytes] = []
        self._lock = threading.Lock()

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        if len(body) < int(headers["content-length"]):
            return 400, b"the sender died in the middle of it"
        with self._lock:
            for line in body.splitlines():
                found = re.search(rb'"MESSAGE":"(journal|file) (\d+) of many', line)
                if found is None:
                    self.other.append(line)
                else:
                    (self.journal if found[1] == b"journal" else self.file).append(int(found[2]))
        return 200, b""

    @property
    def complete(self) -> bool:
        with self._lock:
            enough = len(self.journal) >= ENTRIES and len(self.file) >= ENTRIES
            return enough and len(set(self.journal)) == len(set(self.file)) == ENTRIES


def _write_journal(directory: Path, pause_seconds: float) -> None:
    """Write entries, and archive the journal file four times on the way."""
    part = ENTRIES // 5
    for first in range(0, ENTRIES, part):
        with JournalWriter(directory) as journal:
            for start in range(first, first + part, 1000):
                journal.add(*(entry(n, f"journal {n} of many, said by an application") for n in range(start, start + 1000)))
                time.sleep(pause_seconds)
        rotate_journal(directory)


def _write_files(log: Path, pause_seconds: float) -> None:
    """Write lines, and rename the file twenty times on the way, as logrotate does."""
    part = ENTRIES // ROTATIONS
    for first in range(0, ENTRIES, part):
        for start in range(first, first + part, 1000):
            with log.open("a") as file:
                file.writelines(f"file {n} of many, said by an application\n" for n in range(start, start + 1000))
            time.sleep(pause_seconds)
        for number in range(ROTATIONS, 0, -1):
            newer = log if number == 1 else log.with_name(f"{log.name}.{number - 1}")
            if newer.exists():
                newer.rename(log.with_name(f"{log.name}.{number}"))
        log.touch()


@contextmanager
def _writing(image: Image, pause_seconds: float) -> Iterator[None]:
    """Both streams, written while the body runs; they have ended when it is left."""
    log = image.write("/var/log/app/app.log", "")
    journal = image.path("/var/log/journal/0123456789abcdef0123456789abcdef")
    writers = [
        threading.Thread(target=_write_journal, args=(journal, pause_seconds)),
        threading.Thread(target=_write_files, args=(log, pause_seconds)),
    ]
    for writer in writers:
        writer.start()
    try:
        yield
    finally:
        for writer in writers:
            writer.join()


class Shipping:
    """`parbake ship` as a child, and the most memory that any of them took."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._complaints = image.root.parent / "stderr"
        self.peak_kb = 0
        self.start()

    def start(self) -> None:
        self._started = time.time()
        with self._complaints.open("a") as stderr:
            self._process = subprocess.Popen(self._image.command("ship"), stdout=stderr, stderr=stderr)

    def kill(self) -> None:
        self.look()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and its end."""
        self.look()
        self._process.terminate()
        self._process.wait(60)

    def look(self) -> bool:
        """Note how much memory it takes. Fails if it has ended by itself."""
        assert self._process.poll() is None, self.complaints
        match = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{self._process.pid}/status").read_text())
        self.peak_kb = max(self.peak_kb, int(match[1]) if match else 0)
        return True

    def await_status(self, check: Callable[[dict[str, Any]], bool], what: str, timeout_seconds: float = 60) -> dict[str, Any]:
        """The status of the only sink, once it is of this process and `check` holds."""
        found: dict[str, Any] = {}

        def fits() -> bool:
            self.look()
            try:
                status = json.loads(self._image.read("/var/lib/parbake/ship/status.json"))
            except FileNotFoundError:
                return False
            found.update(status["sinks"]["http"])
            return bool(status["time"] > self._started and check(found))

        wait_until(fits, timeout_seconds, what, 0.2)
        return found

    @property
    def code(self) -> int | None:
        return self._process.returncode

    @property
    def complaints(self) -> str:
        return self._complaints.read_text()


@contextmanager
def _shipping(image: Image) -> Iterator[Shipping]:
    shipping = Shipping(image)
    try:
        yield shipping
    finally:
        shipping._process.kill()
        shipping._process.wait()


def test_nothing_is_lost_through_kills_and_a_failing_sink(image: Image) -> None:
    """200,000 entries and 200,000 lines through rotation, 20 kills, a sink that refuses, resets and answers 503: each line at
    least once, duplicates at most a batch a kill and stream, first arrivals in order, and never over 120 MB."""
    counting, chance = Counting(), random.Random(7)
    receiver = HttpReceiver(counting.take, free_port())  # no other socket takes this port while the receiver is closed
    image.settings(SETTINGS.format(url=receiver.url, timeout="30s"), site=False)
    image.write("/var/log/app/app.log", "")
    with _shipping(image) as shipping:
        shipping.await_status(lambda sink: sink["state"] == "ok", "the first look at the file")
        with _writing(image, 0.1):
            for number in range(KILLS):
                time.sleep(chance.uniform(0.2, 1.6))
                shipping.kill()
                receiver.forget()  # on a busy machine troubles would pile up faster than requests come
                receiver.next(*chance.choices(["503", "reset", "503;Retry-After=1"], k=chance.randrange(4)))
                if number % 5 == 4:
                    receiver.close()
                shipping.start()
                if number % 5 == 4:
                    time.sleep(1.5)
                    receiver = HttpReceiver(counting.take, receiver.port)
        wait_until(lambda: shipping.look() and counting.complete, 600, "all lines to arrive", 0.3)
        sink = shipping.await_status(lambda sink: (sink["lag_seconds"], sink["state"]) == (0, "ok"), "the end of the backlog")
        shipping.stop()
    receiver.close()
    assert shipping.code == 0, shipping.complaints
    assert counting.other == []
    for numbers in (counting.journal, counting.file):
        assert list(dict.fromkeys(numbers)) == list(range(ENTRIES))
        assert len(numbers) - ENTRIES <= KILLS * BATCH
    assert (sink["lost"], sink["skipped"], sink["set_aside"]) == (0, 0, 0)
    assert 0 < shipping.peak_kb < MEMORY_MAX_KB


def test_memory_is_bounded_while_the_sink_hangs(image: Image) -> None:
    """A receiver that accepts and never answers, for as long as 200,000 entries and 200,000 lines are written, costs one
    batch of memory a reader, and a stop ends within its deadline."""
    release = threading.Event()

    def hang(path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        release.wait(300)
        return 200, b""

    receiver = HttpReceiver(hang)
    image.settings(SETTINGS.format(url=receiver.url, timeout="1s"), site=False)
    image.write("/var/log/app/app.log", "")
    try:
        with _shipping(image) as shipping:
            with _writing(image, 0.0):
                wait_until(lambda: shipping.look() and receiver.requests > 3, 180, "tries that time out")
            shipping.await_status(lambda sink: sink["retries"] > 3, "them in the status")
            began = time.monotonic()
            shipping.stop()
            assert time.monotonic() - began < 20
            assert shipping.code == 0, shipping.complaints
    finally:
        release.set()
        receiver.close()
    assert 0 < shipping.peak_kb < MEMORY_MAX_KB


def test_a_stop_at_any_moment_of_the_start_ends_it(image: Image) -> None:
    """SIGTERM before, while and after the shipper comes up ends it in peace, and the next one ships all."""
    counting = Counting()
    receiver = HttpReceiver(counting.take)
    image.settings(SETTINGS.format(url=receiver.url, timeout="30s"), site=False)
    image.write("/var/log/app/app.log", "".join(f"file {n} of many\n" for n in range(10)))
    for moment in itertools.chain(range(0, 1000, 125), (1500,)):
        with _shipping(image) as shipping:
            time.sleep(moment / 1000)
            shipping.stop()
            # before Python has started, the exit does not show whether it was killed
            assert shipping.code in (0, -signal.SIGTERM)
            assert "Traceback" not in shipping.complaints
            assert "a bug" not in shipping.complaints
    ended = image.run("ship", "--once")
    receiver.close()
    assert ended.code == 0, ended.err
    assert list(dict.fromkeys(counting.file)) == list(range(10))


def test_more_log_files_than_a_process_may_usually_open(image: Image) -> None:
    """Every log file stays open, as many as the machine lets us: none is left out for the default of a shell or of systemd."""
    image.settings('[ship]\nfiles = ["/var/log/app/*.log"]\n[[sink]]\ntype = "file"\npath = "/out.ndjson"\n', site=False)
    for number in range(200):
        image.write(f"/var/log/app/{number}.log", f"line {number}\n")
    limited = ["prlimit", "--nofile=64:4096", "--", *image.command("ship", "--once")]
    ended = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    messages = [json.loads(line)["MESSAGE"] for line in image.read("/out.ndjson").splitlines()]
    assert sorted(messages) == sorted(f"line {number}" for number in range(200))
