"""Receivers that do not answer: those that hang up, that do not read, and datagrams that are too large."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SinkUnavailable
from tests.integration.shipping.receivers import arrived, deliver, letters, make, row, stream_target, udp
from tests.integration.shipping.test_sink_contract import batch
from tests.servers.processes import wait_until


def test_a_receiver_that_does_not_read_makes_nothing_grow(tmp_path: Path) -> None:
    """Each try sends the batch once more and keeps no copy of it: when the receiver reads again there is one of each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sink = make("syslog", {"url": f"tcp://127.0.0.1:{server.getsockname()[1]}", "timeout": "0.6s"}, tmp_path)
        large = batch(["x" * 8000] * 1000, {})
        for _ in range(2):
            with pytest.raises(SinkUnavailable):
                sink.send(large)
        wires = [server.accept()[0] for _ in range(2)]
        received: list[bytes] = []

        def read() -> None:
            wire = server.accept()[0]
            while chunk := wire.recv(1 << 20):
                received.append(chunk)

        thread = threading.Thread(target=read)
        thread.start()
        sink.send(batch(["small"], {}))
        sink.close()
        thread.join(10)
        assert b"".join(received).count(b"xxxxx") == 0
        for wire in wires:
            wire.close()


class Picky:
    """A receiver over TCP that hangs up on a frame that is longer than `limit`, as syslog-ng does, once for each `hang_up`.

    Until then it reads no further. `hang_ups` counts the connections that it has closed.
    """

    def __init__(self, limit: int) -> None:
        self.messages: list[str] = []
        self.hang_ups = 0
        self._limit = limit
        self._may_hang_up = threading.Semaphore(0)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                wire = self._server.accept()[0]
            except OSError:
                return
            with wire, wire.makefile("rb") as file:
                self._read(file)
            self.hang_ups += 1

    def _read(self, file: Any) -> None:
        while True:
            head = b""
            while not head.endswith(b" "):
                if not (byte := file.read(1)):
                    return
                head += byte
            if int(head) > self._limit:
                self._may_hang_up.acquire()
                return
            self.messages.append(file.read(int(head)).decode().rpartition(" ")[2])

    def hang_up(self) -> None:
        """Hang up on the present or the next large frame."""
        self._may_hang_up.release()

    def close(self) -> None:
        self._server.close()


def test_a_large_line_that_was_hung_up_on_late_does_not_come_back_for_ever(tmp_path: Path) -> None:
    """The receiver hangs up long after it received a line: the line is not sent again, and is counted as lost."""
    picky = Picky(20_000)
    sink = make("syslog", {"url": f"tcp://127.0.0.1:{picky.port}"}, tmp_path)
    deliver(sink, tmp_path, batch(["a"], {}), batch(["L" * 30_000], {}))
    sent, lost = {"a"}, 0
    for number in range(20):
        lost += deliver(sink, tmp_path, batch([f"b{number}"], {})).counts["lost"]
        sent.add(f"b{number}")
        picky.hang_up()
        wait_until(lambda: picky.hang_ups > number or sent <= set(picky.messages), 30, "a hang-up, or all lines")  # noqa: B023
        if sent <= set(picky.messages):
            break
    assert sent <= set(picky.messages)
    assert lost == 1
    sink.close()
    picky.close()


def test_a_line_that_no_datagram_holds_takes_no_other_with_it(tmp_path: Path) -> None:
    """Over UDP a line beyond 64 KiB is set aside alone, and those beside it are sent once."""
    received: list[bytes] = []
    with udp(received.append) as port:
        sink = make("syslog", {"url": f"udp://127.0.0.1:{port}"}, tmp_path)
        deliver(sink, tmp_path, batch(["a", "L" * 70_000, "b"], {}))
        deliver(sink, tmp_path, batch(["end"], {}))
        wait_until(lambda: bool(received) and received[-1].endswith(b" end"), 30, "the last datagram")
        assert [text.rpartition(b" ")[2] for text in received] == [b"a", b"b", b"end"]
        assert [letter["MESSAGE"] for letter in letters(tmp_path)] == ["L" * 70_000]
        sink.close()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"PRIORITY": "3", "SYSLOG_FACILITY": "10"}, b"<83>1 "),
        ({"PRIORITY": "12", "SYSLOG_FACILITY": "3"}, b"<30>1 "),
        ({"PRIORITY": "²", "SYSLOG_FACILITY": "²"}, b"<14>1 "),
        ({"PRIORITY": "", "SYSLOG_FACILITY": "9" * 5000}, b"<14>1 "),
    ],
)
def test_whatever_an_application_calls_its_priority_a_message_is_valid(
    fields: Mapping[str, str], expected: bytes, tmp_path: Path
) -> None:
    """PRIORITY and SYSLOG_FACILITY are the application's own words: no word makes a wrong message, or ends the shipper."""
    received: list[bytes] = []
    with udp(received.append) as port:
        sink = make("syslog", {"url": f"udp://127.0.0.1:{port}"}, tmp_path)
        sink.send(row("text", **fields))
        wait_until(lambda: bool(received), 30, "a datagram")
        assert received[0].startswith(expected)
        sink.close()


def test_stream_receivers_get_each_label_once(tmp_path: Path) -> None:
    """The structured data of syslog has each label for every entry."""
    with stream_target("syslog")(tmp_path) as target:
        sink = make("syslog", target.options, tmp_path)
        wanted: Sequence[str] = ["a", "b"]
        sink.send(batch(wanted, {"component": "web", "generation": "7"}))
        assert arrived(target, 2) == wanted
        assert all((found["component"], found["generation"]) == ("web", "7") for found in target.rows())
        sink.close()
