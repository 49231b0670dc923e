"""The receiver is as strict as a real one, so that a sink that passes against it speaks the protocol."""

from __future__ import annotations

import gzip
import http.client
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.servers.processes import ServerError
from tests.servers.receiver import Receiver

NDJSON = {"Content-Type": "application/x-ndjson"}
LINE = b'{"message": "one"}\n'


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(tmp_path) as server:
        yield server


def post(
    receiver: Receiver, body: bytes, headers: Mapping[str, str] = NDJSON, method: str = "POST", path: str = "/logs"
) -> http.client.HTTPResponse:
    """One request on a connection of its own, its answer read whole."""
    connection = http.client.HTTPConnection(receiver.address, receiver.port, timeout=5)
    try:
        connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        response.read()
    finally:
        connection.close()
    return response


def test_good_batches_are_stored_in_order_plain_or_gzip(receiver: Receiver) -> None:
    """Every line of an accepted batch can be read back, and as the bytes that were sent."""
    assert post(receiver, LINE).status == 200
    assert post(receiver, gzip.compress(b'{"message": "two"}\n'), NDJSON | {"Content-Encoding": "gzip"}).status == 200
    assert [line["message"] for line in receiver.wait_for(2)] == ["one", "two"]
    assert receiver.raw() == LINE + b'{"message": "two"}\n'
    assert receiver.refusals() == []


@pytest.mark.parametrize(
    ("status", "body", "headers", "method", "path"),
    [
        (400, b"", NDJSON, "POST", "/logs"),
        (400, LINE[:-1], NDJSON, "POST", "/logs"),
        (400, LINE + b"\n", NDJSON, "POST", "/logs"),
        (400, LINE + b"[1]\n", NDJSON, "POST", "/logs"),
        (400, LINE + b"{broken\n", NDJSON, "POST", "/logs"),
        (400, b'{"a": NaN}\n', NDJSON, "POST", "/logs"),
        (400, b'{"a": 1, "a": 2}\n', NDJSON, "POST", "/logs"),
        (400, b'{"a": "\xff"}\n', NDJSON, "POST", "/logs"),
        (400, b'{"a": "%s"}\n' % (b"x" * (1 << 20)), NDJSON, "POST", "/logs"),
        (400, LINE, {"Content-Type": "application/json"}, "POST", "/logs"),
        (400, LINE, {}, "POST", "/logs"),
        (400, LINE, NDJSON | {"Content-Encoding": "gzip"}, "POST", "/logs"),
        (400, gzip.compress(LINE, mtime=0)[:-4], NDJSON | {"Content-Encoding": "gzip"}, "POST", "/logs"),
        (400, LINE, NDJSON | {"Content-Encoding": "br"}, "POST", "/logs"),
        (404, LINE, NDJSON, "POST", "/"),
        (405, LINE, NDJSON, "PUT", "/logs"),
        (405, b"", {}, "GET", "/logs"),
        (411, LINE, NDJSON | {"Transfer-Encoding": "chunked"}, "POST", "/logs"),
    ],
)
def test_a_batch_that_breaks_the_protocol_is_refused_whole(
    receiver: Receiver, status: int, body: bytes, headers: dict[str, str], method: str, path: str
) -> None:
    """Nothing of a bad request is stored, and the test can read why it was refused."""
    headers = headers if "Transfer-Encoding" in headers else headers | {"Content-Length": str(len(body))}
    assert post(receiver, body, headers, method, path).status == status
    assert receiver.lines() == []
    assert [refusal["status"] for refusal in receiver.refusals()] == [status]


def test_an_answer_can_be_chosen_with_and_without_keeping_the_lines(receiver: Receiver) -> None:
    """A 503 keeps nothing unless the test plays an acknowledgement that got lost; Retry-After is sent."""
    receiver.answer(503, retry_after_seconds=2)
    assert post(receiver, LINE).getheader("Retry-After") == "2"
    assert receiver.lines() == []
    receiver.answer(500, keep=True)
    assert post(receiver, LINE).status == 500
    assert len(receiver.lines()) == 1
    receiver.answer()
    assert post(receiver, LINE).status == 200
    assert [request["status"] for request in receiver.requests()] == [503, 500, 200]


def test_a_hang_and_a_disconnect_give_no_answer(receiver: Receiver) -> None:
    """A client sees a time-out, or a closed connection, and nothing was kept."""
    receiver.hang()
    connection = http.client.HTTPConnection(receiver.address, receiver.port, timeout=0.3)
    connection.request("POST", "/logs", LINE, NDJSON)
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    receiver.disconnect()
    with pytest.raises(http.client.RemoteDisconnected):
        post(receiver, LINE)
    assert receiver.lines() == []


def test_it_refuses_while_stopped_and_comes_back_on_the_same_port_with_its_lines(receiver: Receiver) -> None:
    """A receiver that is taken away refuses connections; what it had acknowledged is still there afterwards."""
    post(receiver, LINE)
    receiver.stop()
    with pytest.raises(ConnectionRefusedError):
        post(receiver, LINE)
    receiver.start()
    post(receiver, LINE)
    assert len(receiver.lines()) == 2


def test_it_does_not_listen_for_the_network(tmp_path: Path) -> None:
    """An address that is neither loopback nor link-local is refused at the start."""
    with pytest.raises(ServerError, match="neither loopback nor link-local"), Receiver(tmp_path, address="0.0.0.0"):
        pytest.fail("it started")
