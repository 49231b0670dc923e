"""The syslog sink against Debian's rsyslog and syslog-ng: how they read its messages, and which ones they refuse."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from agent.errors import SinkDenied, SinkUnavailable
from agent.shipping.shutdown import Stop
from tests.integration.shipping.receivers import deliver, letters, make
from tests.integration.shipping.test_sink_contract import AWKWARD, LABELS, NOW_US, batch
from tests.servers.faulty import Certificates
from tests.servers.processes import wait_until
from tests.servers.syslog_daemons import Rsyslog, SyslogDaemon, SyslogNg, missing

DAEMONS = {"rsyslog": Rsyslog, "syslog-ng": SyslogNg}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One CA with its servers and clients."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(params=DAEMONS)
def name(request: pytest.FixtureRequest) -> str:
    """Each receiver."""
    found: str = request.param
    if reason := missing(found):
        pytest.skip(reason)
    return found


@pytest.fixture
def mutual(name: str, tmp_path: Path, certificates: Certificates) -> Iterator[SyslogDaemon]:
    """The receiver over TLS, with a certificate wanted of its clients."""
    with DAEMONS[name](tmp_path / name, tls=certificates.good, ca=certificates.ca) as server:
        yield server


def tls(server: SyslogDaemon, certificates: Certificates, client: tuple[Path, Path] | None = None) -> dict[str, Any]:
    """A sink's options for it, with files of these certificates."""
    certificate, key = client or certificates.good
    address = {"url": f"tls://127.0.0.1:{server.port}", "timeout": "5s", "server_name": "localhost"}
    return address | {"ca_file": str(certificates.ca), "cert_file": str(certificate), "key_file": str(key)}


def arrived(server: SyslogDaemon, wanted: Sequence[str]) -> list[str]:
    """The messages, once all the wanted ones are there."""
    wait_until(lambda: set(wanted) <= set(server.messages()), 20, f"{len(wanted)} messages at {server.name}")
    return server.messages()


def check_rows(rows: Sequence[dict[str, str]]) -> None:
    """All messages, in order, with labels, unit and head as the receiver has parsed them."""
    assert [row["MESSAGE"] for row in rows] == AWKWARD
    for row in rows:
        assert {label: row[label] for label in LABELS} == LABELS
        assert (row["host"], row["pid"], str(row["severity"]), str(row["facility"])) == ("host1", "42", "3", "1")
    assert rows[0]["SYSTEMD_UNIT"] == "app.service"
    assert rows[0]["time"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(NOW_US // 1_000_000)))


def test_lines_arrive_whole_over_tcp_with_octet_counting(name: str, tmp_path: Path) -> None:
    """Line ends, quotes, brackets, other alphabets and 90,000 bytes survive, and the structured data is understood."""
    with DAEMONS[name](tmp_path / name) as server:
        sink = make("syslog", {"url": f"tcp://127.0.0.1:{server.port}"}, tmp_path)
        sink.send(batch(AWKWARD))
        arrived(server, AWKWARD)
        check_rows(server.rows())
        sink.close()


def test_lines_arrive_whole_over_mutual_tls(mutual: SyslogDaemon, certificates: Certificates) -> None:
    """The same over RFC 5425, both sides showing certificates of one CA and the server's name checked."""
    sink = make("syslog", tls(mutual, certificates), Path("/"))
    sink.send(batch(AWKWARD))
    arrived(mutual, AWKWARD)
    check_rows(mutual.rows())
    sink.close()


@pytest.mark.parametrize("wrong", ["stranger", "expired", "elsewhere"])
def test_a_server_that_is_not_the_right_one_gets_nothing(
    name: str, wrong: str, tmp_path: Path, certificates: Certificates
) -> None:
    """Of another CA, expired, or of another name: the entries wait, nothing is sent, and the error has a hint."""
    with DAEMONS[name](tmp_path / name, tls=getattr(certificates, wrong)) as server:
        sink = make("syslog", tls(server, certificates), Path("/"))
        with pytest.raises((SinkUnavailable, SinkDenied), match="certificate is not trusted") as found:
            sink.send(batch(["one"]))
        expected = {"stranger": "ca_file", "expired": "renew", "elsewhere": "server_name"}
        assert expected[wrong] in str(found.value.hint)
        right = make("syslog", {"url": f"tls://127.0.0.1:{server.port}", "insecure": True}, Path("/"))
        right.send(batch(["two"]))
        assert arrived(server, ["two"]) == ["two"]
        sink.close()
        right.close()


@pytest.mark.parametrize("client", ["none", "stranger", "expired"])
def test_a_client_certificate_that_is_refused_is_noticed(mutual: SyslogDaemon, client: str, certificates: Certificates) -> None:
    """In TLS 1.3 a server refuses after the client is connected: no batch counts as sent to one that does."""
    pair = certificates.good if client == "none" else getattr(certificates, client)
    options = tls(mutual, certificates, pair)
    if client == "none":
        del options["cert_file"], options["key_file"]
    sink = make("syslog", options, Path("/"))
    for _ in range(3):
        with pytest.raises((SinkUnavailable, SinkDenied)):
            sink.send(batch(["one"]))
    assert mutual.messages() == []
    sink.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_nothing_is_missing_after_the_receiver_was_restarted(
    name: str, transport: str, how: str, tmp_path: Path, certificates: Certificates
) -> None:
    """Stopped or killed in the middle and started again: every line is there, and the last of each repeat are in order."""
    secured = transport == "tls"
    with DAEMONS[name](
        tmp_path / name, tls=certificates.good if secured else None, ca=certificates.ca if secured else None
    ) as server:
        options = tls(server, certificates) if secured else {"url": f"tcp://127.0.0.1:{server.port}"}
        stop = Stop()
        sink = make("syslog", options, Path("/"), stop)
        wanted = [f"line {number:04d}" for number in range(2000)]
        parts = [batch(wanted[first : first + 50]) for first in range(0, 2000, 50)]
        deliver(sink, tmp_path, *parts[:20], stop=stop)
        server.stop() if how == "stop" else server.kill()
        server.start()
        progress = deliver(sink, tmp_path, *parts[20:], stop=stop)
        found = arrived(server, wanted)
        last = {message: place for place, message in enumerate(found)}
        assert sorted(wanted, key=lambda message: last[message]) == wanted
        assert progress.counts["set_aside"] == progress.counts["lost"] == 0
        sink.close()


def test_a_line_that_the_receiver_hangs_up_on_stops_no_other(tmp_path: Path) -> None:
    """syslog-ng's own limit is 64 KiB, and it hangs up on more: that line is set aside with the reason, the rest arrives."""
    if reason := missing("syslog-ng"):
        pytest.skip(reason)
    with SyslogNg(tmp_path / "syslog-ng", message_max=None) as server:
        stop = Stop()
        sink = make("syslog", {"url": f"tcp://127.0.0.1:{server.port}"}, Path("/"), stop)
        large, fine = "L" * 90_000, "f" * 20_000
        progress = deliver(sink, tmp_path, batch(["a", fine]), batch(["b", large, fine + "2", "c"]), batch(["d"]), stop=stop)
        assert list(dict.fromkeys(arrived(server, ["a", "b", "c", "d"]))) == ["a", fine, "b", fine + "2", "c", "d"]
        assert (progress.counts["set_aside"], progress.counts["sent"]) == (1, 6)
        (letter,) = letters(tmp_path)
        assert letter["MESSAGE"] == large
        assert "hangs up" in letter["refused"]
        sink.close()


def test_ship_once_from_files_over_tls(tmp_path: Path, certificates: Certificates, name: str) -> None:
    """As a user has it: settings, log files, certificates below the root; every line is at the receiver afterwards."""
    with DAEMONS[name](tmp_path / name, tls=certificates.good, ca=certificates.ca) as server:
        root = tmp_path / "root"
        files = {"ca.pem": certificates.ca, "client.pem": certificates.good[0], "client.key": certificates.good[1]}
        for path, content in {
            "etc/parbake/parbake.toml": f"""
[component]
name = "web"
[ship]
journal = false
files = ["/var/log/app.log"]
[[sink]]
type = "syslog"
url = "tls://127.0.0.1:{server.port}"
server_name = "localhost"
ca_file = "/etc/ca.pem"
cert_file = "/etc/client.pem"
key_file = "/etc/client.key"
labels = {{ component = "{{{{ build.component }}}}" }}
""",
            "var/log/app.log": "".join(f"line {number}\n" for number in range(300)),
            **{f"etc/{file}": path.read_text() for file, path in files.items()},
        }.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(content)
        assert main(["--root", str(root), "ship", "--once"]) == 0
        assert arrived(server, [f"line {number}" for number in range(300)]) == [f"line {number}" for number in range(300)]
        assert {row["component"] for row in server.rows()} == {"web"}
