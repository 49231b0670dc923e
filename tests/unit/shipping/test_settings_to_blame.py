"""If the settings are to blame, or an answer is absurd, the entries wait: no entry is set aside, and no other sink suffers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.errors import ParbakeError, SinkDenied, SinkRefused, SinkUnavailable
from agent.paths import Paths
from agent.settings.interpolation import fill_options
from agent.settings.models import DRAIN_MAX_SECONDS, Journal, Ship
from agent.settings.schema import Problems, read
from agent.settings.source_lines import Location
from agent.shipping import Batch, SinkContext
from agent.shipping.lazy_sink import LazySink
from agent.shipping.shutdown import Stop
from agent.shipping.sinks.file import FileOptions
from agent.shipping.sinks.gelf import GelfOptions
from agent.shipping.sinks.http import HttpSink
from tests.conftest import REPOSITORY
from tests.integration.shipping.receivers import make
from tests.servers.log_receivers import HttpReceiver
from tests.servers.processes import free_port
from tests.servers.scripted import Scripted

BATCH = Batch([1_700_000_000_000_000], {"MESSAGE": [b"one"]}, {}, ["id-1"], {})
DEEP = b"[" * 100_000


def failing(kind: str, options: Mapping[str, Any], root: Path) -> ParbakeError:
    """Return what the sink raises for one entry: never a refusal, and never an exception outside the contract."""
    sink = make(kind, options, root)
    try:
        with pytest.raises((SinkDenied, SinkUnavailable)) as raised:
            sink.send(BATCH)
    finally:
        sink.close()
    error: ParbakeError = raised.value
    return error


@pytest.mark.parametrize(("kind", "more"), [("s3", {"bucket": "logs"}), ("cloudwatch", {"log_group": "g", "log_stream": "s"})])
def test_an_address_that_botocore_refuses(kind: str, more: dict[str, str], tmp_path: Path) -> None:
    """An underscore in the host's name, as containers have: denied, by the name of the option."""
    pytest.importorskip("botocore")
    options = {"region": "eu-central-1", "endpoint_url": "http://minio_store:9000", **more}
    error = failing(kind, options, tmp_path)
    assert isinstance(error, SinkDenied)
    assert "endpoint_url" in str(error)


@pytest.mark.parametrize("kind", ["syslog", "gelf"])
def test_a_server_name_that_is_none(kind: str, tmp_path: Path) -> None:
    """The TLS library raises a UnicodeError for it: denied, by the name of the option."""
    server = Scripted(lambda wire: None)
    options = {"url": f"tls://127.0.0.1:{server.port}", "server_name": ".logs.example", "timeout": "3s"}
    error = failing(kind, options, tmp_path)
    assert isinstance(error, SinkDenied)
    assert "server_name" in str(error)


def test_a_server_name_that_is_none_over_http(tmp_path: Path) -> None:
    """The same over HTTPS."""
    server = Scripted(lambda wire: None)
    options = {"url": f"https://127.0.0.1:{server.port}/", "server_name": ".logs.example", "timeout": "3s"}
    assert "server_name" in (failing("http", options, tmp_path).hint or "")


def test_a_host_that_is_none_over_udp(tmp_path: Path) -> None:
    """Names are put into IDNA before they are looked up, which long labels do not survive."""
    error = failing("syslog", {"url": f"udp://{'x' * 70}.example:514"}, tmp_path)
    assert isinstance(error, SinkDenied)
    assert "url" in str(error)


@pytest.mark.parametrize("name", ["X-Prüfung", "X Y", "X\x01"])
def test_a_header_with_a_name_that_is_none(name: str, tmp_path: Path) -> None:
    """The message names headers_file and does not show its content."""
    (tmp_path / "headers").write_text(f"{name}: secret-value\n")
    error = failing("http", {"url": f"http://127.0.0.1:{free_port()}/", "headers_file": "/headers"}, tmp_path)
    assert isinstance(error, SinkDenied)
    assert "headers_file" in str(error)
    assert "secret-value" not in f"{error}{error.hint}"


def test_a_line_of_headers_file_that_is_not_a_header(tmp_path: Path) -> None:
    """Its number is named and its text is not shown. Nothing is sent without the header that it was meant to be."""
    (tmp_path / "headers").write_text("X-Team: web\n\nsecret-value\n")
    error = failing("http", {"url": f"http://127.0.0.1:{free_port()}/", "headers_file": "/headers"}, tmp_path)
    assert isinstance(error, SinkDenied)
    assert "headers_file /headers: line 3 is not `Name: value`" in str(error)
    assert "secret-value" not in f"{error}{error.hint}"


def test_empty_lines_of_headers_file_are_skipped(tmp_path: Path) -> None:
    """Every header of the file is in the request."""
    (tmp_path / "headers").write_text("\nX-Team: web\n  \nX-Site: a: b\n\n")
    server = HttpReceiver(lambda path, headers, body: (204, b""))
    sink = make("http", {"url": server.url, "headers_file": "/headers"}, tmp_path)
    try:
        sink.send(BATCH)
    finally:
        sink.close()
        server.close()
    assert (server.headers[0]["x-team"], server.headers[0]["x-site"]) == ("web", "a: b")


def test_a_headers_file_that_is_not_there_is_asked_for_where_the_shipper_reads_it(tmp_path: Path) -> None:
    """The same hint as for a token: root's, and readable by the shipper's group."""
    error = failing("http", {"url": f"http://127.0.0.1:{free_port()}/", "headers_file": "/headers"}, tmp_path)
    assert "parbake-ship" in (error.hint or "")


def test_a_fact_that_does_not_fit(tmp_path: Path) -> None:
    """A fact that makes an address invalid: the entries wait, and are sent once the fact is another."""
    options = HttpSink.options_class(url="http://{{ facts.address }}/")
    facts: dict[str, Any] = {"address": "127.0.0.1:many"}
    sink = LazySink(HttpSink, options, SinkContext("web", Paths(tmp_path), Stop()), lambda: {"facts": facts})
    with pytest.raises(SinkDenied, match="web: url is not a URL"):
        sink.send(BATCH)
    server = Scripted()
    server.plays.append(server.answering(b"HTTP/1.1 204 No Content\r\n\r\n"))
    facts["address"] = f"127.0.0.1:{server.port}"
    sink.send(BATCH)
    sink.close()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("kind", "more", "body"),
    [
        ("elasticsearch", {}, DEEP),
        ("elasticsearch", {}, b'{"errors":true,"items":[{"create":{"status":1e999}}]}'),
        ("elasticsearch", {}, b"no JSON"),
        ("splunk-hec", {"ack": True, "token_file": "/token"}, DEEP),
        ("otlp", {}, DEEP),
        ("otlp", {}, b'{"partialSuccess":{"rejectedLogRecords":1e999}}'),
    ],
)
def test_an_absurd_answer_is_no_answer(kind: str, more: dict[str, Any], body: bytes, tmp_path: Path) -> None:
    """Nested too deeply, or a number beyond all numbers: the batch is sent again later, and nothing else fails."""
    (tmp_path / "token").write_text("t")
    server = Scripted()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    server.plays.append(server.answering(head + body))
    error = failing(kind, {"url": server.url, **more}, tmp_path)
    assert isinstance(error, SinkUnavailable)


def test_a_refusal_of_splunks_with_an_absurd_code(tmp_path: Path) -> None:
    """A 400 whose code is no number of this world is a refusal like others."""
    (tmp_path / "token").write_text("t")
    server = Scripted()
    body = b'{"code":1e999}'
    server.plays.append(server.answering(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body) + body))
    sink = make("splunk-hec", {"url": server.url, "token_file": "/token"}, tmp_path)
    with pytest.raises(SinkRefused):
        sink.send(BATCH)
    sink.close()


@pytest.mark.parametrize("match", ["__REALTIME_TIMESTAMP=1", "__CURSOR=x", "1FIELD=x", "=x", "Field=x", "FIELD"])
def test_matches_that_the_journal_refuses(match: str) -> None:
    """libsystemd raises for them at the first read: the settings say so before."""
    with pytest.raises(ValueError, match="match"):
        Journal(match=(match,))


@pytest.mark.parametrize("match", ["_SYSTEMD_UNIT=a.service", "PRIORITY=3", "FIELD=", "_2=x"])
def test_matches_that_the_journal_takes(match: str) -> None:
    """Trusted fields, and an application's own."""
    assert Journal(match=(match,)).match == (match,)


@pytest.mark.parametrize(
    ("name", "value"),
    [("token_file", "/t"), ("headers_file", "/h"), ("bulk", True), ("username", "u"), ("password_file", "/p")],
)
@pytest.mark.parametrize("scheme", ["tcp", "tls", "udp"])
def test_gelf_without_http_takes_no_option_of_http(scheme: str, name: str, value: Any) -> None:
    """An operator who sets a token believes that it is sent."""
    with pytest.raises(ValueError, match=name):
        GelfOptions(url=f"{scheme}://graylog:12201", **{name: value})


def test_the_unit_waits_longer_than_the_settings_let_the_shipper_drain() -> None:
    """systemd kills at TimeoutStopSec. The greatest drain, a second for pipelines that hang and the closing fit before it."""
    unit = (REPOSITORY / "systemd/parbake-ship.service").read_text()
    seconds = next(int(line.partition("=")[2]) for line in unit.splitlines() if line.startswith("TimeoutStopSec="))
    assert seconds >= DRAIN_MAX_SECONDS + 10
    problems = Problems()
    assert read(Ship, {"drain": "75s"}, Location("ship"), problems) is not None
    read(Ship, {"drain": "76s"}, Location("ship"), problems)
    assert "drain must be 75s at most" in str(problems.messages)


def test_a_path_that_is_none() -> None:
    """A NUL in it would be found with the first entry, as if that were to blame; from a fact, too."""
    with pytest.raises(ValueError, match="NUL"):
        fill_options(FileOptions(path="/out/{{ facts.x }}"), {"facts": {"x": "a\0b"}})


def test_a_token_that_is_not_there_is_asked_for_where_the_shipper_reads_it(tmp_path: Path) -> None:
    """The shipper is not root: a hint to let only root read the file would keep it from its token."""
    hint = failing("http", {"url": f"http://127.0.0.1:{free_port()}/", "token_file": "/token"}, tmp_path).hint or ""
    assert "only root" not in hint
    assert "parbake-ship" in hint
