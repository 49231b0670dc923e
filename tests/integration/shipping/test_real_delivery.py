"""Batches that a sink accepts in part, refuses, or fails on; what is set aside, and how; files that pipelines share."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import SinkRefused
from agent.shipping import ACCEPTED, Batch, SendResult
from agent.shipping.dead_letter import DeadLetters
from agent.shipping.delivery import DeliveryAborted
from agent.shipping.shutdown import Stop
from tests.integration.shipping.receivers import deliver, letters, make
from tests.integration.shipping.test_sink_contract import batch


class Scripted:
    """A sink that answers with `answer(messages)`, and keeps the messages of each call."""

    options_class = object
    wants_ids = False

    def __init__(self, answer: Callable[[list[str]], SendResult]) -> None:
        self.asked: list[list[str]] = []
        self._answer = answer

    def send(self, batch: Batch) -> SendResult:
        messages = [row["MESSAGE"] for row in batch.rows()]
        self.asked.append(messages)
        return self._answer(messages)

    def close(self) -> None:
        """Nothing is held."""


def test_an_entry_that_a_sink_stumbles_over_stops_no_other(tmp_path: Path) -> None:
    """An entry on which a sink fails by a bug is set aside alone, with the place of the bug; the rest arrives."""

    def stumble(messages: list[str]) -> SendResult:
        if "odd" in messages:
            int("no number")
        return ACCEPTED

    progress = deliver(Scripted(stumble), tmp_path, batch(["a", "odd", "b"]))
    assert [letter["MESSAGE"] for letter in letters(tmp_path)] == ["odd"]
    assert (progress.counts["sent"], progress.counts["set_aside"]) == (2, 1)
    assert "test_real_delivery.py" in (tmp_path / "dead/s.ndjson").read_text()


def test_a_sink_that_is_closed_while_it_is_used_sets_nothing_aside(tmp_path: Path) -> None:
    """After the time for draining, sinks are closed while a pipeline that hangs still uses them: its entries are kept."""
    stop = Stop()

    def closed(messages: list[str]) -> SendResult:
        stop.set(0)
        raise ValueError("file descriptor cannot be a negative integer (-1)")

    with pytest.raises(DeliveryAborted):
        deliver(Scripted(closed), tmp_path, batch(["a", "b"]), stop=stop)
    assert not (tmp_path / "dead").exists()


def test_good_entries_after_many_bad_ones_are_not_set_aside_with_them(tmp_path: Path) -> None:
    """Half a batch that is too old for the receiver, such as after an outage: the other half is not set aside with it."""

    def answer(messages: list[str]) -> SendResult:
        if any(message.startswith("old") for message in messages):
            raise SinkRefused("too old")
        return ACCEPTED

    sink = Scripted(answer)
    progress = deliver(sink, tmp_path, batch([*(f"old {n}" for n in range(520)), *(f"new {n}" for n in range(480))]))
    assert progress.counts["set_aside"] + progress.counts["sent"] == 1000
    assert progress.counts["sent"] >= 480 - 1000 // 16
    assert len(sink.asked) < 100


def test_a_sink_that_is_throttled_for_some_entries_is_not_hammered(tmp_path: Path) -> None:
    """Entries that are to be repeated wait a moment, and longer each time."""
    left = [3]

    def answer(messages: list[str]) -> SendResult:
        left[0] -= 1
        return SendResult(retry=range(1, len(messages))) if left[0] > 0 else ACCEPTED

    sink = Scripted(answer)
    began = time.monotonic()
    deliver(sink, tmp_path, batch(["a", "b", "c"]))
    assert [len(asked) for asked in sink.asked] == [3, 2, 1]
    assert time.monotonic() - began > 0.125 + 0.25


def test_set_aside_entries_are_bounded_and_whole(tmp_path: Path) -> None:
    """Two readers set entries aside at the same time: every line is whole, and old ones go when the files are full."""
    writers = [DeadLetters(tmp_path / "dead", "s", max_bytes=64 * 1024) for _ in range(2)]

    def write(writer: DeadLetters) -> None:
        for number in range(60):
            writer.add(batch([f"{number} " + "x" * 4000] * 3), [(0, "why"), (1, "why"), (2, "why")])

    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    files = sorted((tmp_path / "dead").iterdir())
    assert [file.name for file in files] == ["s.ndjson", "s.ndjson.1"]
    for file in files:
        assert file.stat().st_size <= 64 * 1024
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert all(json.loads(line)["refused"] == "why" for line in file.read_text().splitlines())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_sets_aside_by_hand_does_not_shut_the_service_out(tmp_path: Path) -> None:
    """`parbake ship --once` as root leaves a dead-letter directory that belongs to the owner of ship/."""
    os.chown(tmp_path, 4242, 4242)
    DeadLetters(tmp_path / "dead", "s").add(batch(["a"]), [(0, "why")])
    assert {path.stat().st_uid for path in (tmp_path / "dead", tmp_path / "dead/s.ndjson")} == {4242}


def test_a_file_has_its_mode_and_is_rotated_whole(tmp_path: Path) -> None:
    """With any umask, as the service's is strict; no batch is torn, and no more files are kept than `keep`."""
    before = os.umask(0o077)
    try:
        options = {"path": "/log/out.log", "max_size": "8KiB", "keep": 2, "mode": "0644"}
        sink = make("file", options, tmp_path)
        for number in range(40):
            sink.send(batch([f"{number}" + "x" * 500] * 3, {}))
    finally:
        os.umask(before)
    files = sorted((tmp_path / "log").iterdir())
    assert [file.name for file in files] == ["out.log", "out.log.1", "out.log.2"]
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        assert file.stat().st_size <= 8192
        assert len(file.read_text().splitlines()) % 3 == 0
    assert json.loads(files[0].read_text().splitlines()[-1])["MESSAGE"].startswith("39x")
