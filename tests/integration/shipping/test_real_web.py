"""Sinks through real fronts: nginx over HTTPS, systemd-journal-remote over HTTPS; GELF over TLS."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.cli.main import main
from agent.errors import SinkDenied, SinkError, SinkUnavailable
from agent.shipping.delivery import DeliveryAborted
from agent.shipping.shutdown import Stop
from tests.integration.shipping.receivers import arrived, deliver, journal_remote, letters, make, stream_target
from tests.integration.shipping.test_sink_contract import AWKWARD, LABELS, batch
from tests.servers import journal_directory
from tests.servers import log_receivers as fakes
from tests.servers.faulty import Certificates, Faulty
from tests.servers.log_receivers import HttpReceiver, Stored
from tests.servers.processes import Child, free_port

pytestmark = [
    pytest.mark.skipif(not Path("/usr/sbin/nginx").exists(), reason="nginx-light is not installed"),
    pytest.mark.skipif(not journal_directory.available, reason="systemd-journal-remote is not installed"),
]
PASSWORD = "pass-0f3e9a1c55"
LIMIT = 8 * 1024


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """One CA with its servers and clients."""
    return Certificates(tmp_path_factory.mktemp("certificates"))


@dataclass
class Front:
    """nginx before a receiver that may be down."""

    url: str
    stored: Stored
    receiver: HttpReceiver
    options: dict[str, Any]


def nginx(directory: Path, upstream: int, certificate: tuple[Path, Path], access: str = "") -> tuple[Child, int]:
    """Debian's nginx as a front: TLS, bodies of LIMIT bytes at most, and basic authentication unless `access` says else."""
    directory.mkdir()
    port = free_port()
    owner = "user root;" if os.geteuid() == 0 else ""  # or its worker could not read a test's directory
    hashed = subprocess.run(["openssl", "passwd", "-apr1", PASSWORD], capture_output=True, text=True, check=True).stdout
    (directory / "users").write_text(f"shipper:{hashed}")
    basic = f'client_max_body_size {LIMIT}; auth_basic "logs"; auth_basic_user_file {directory}/users;'
    (directory / "nginx.conf").write_text(
        f"""daemon off; {owner} worker_processes 1; pid {directory}/pid; error_log {directory}/error.log warn;
events {{}}
http {{
    access_log off; client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};
        {access or basic}
        location / {{ proxy_pass http://127.0.0.1:{upstream}; }}
        location /moved {{ return 302 https://localhost:{port}/logs; }}
    }}
}}
"""
    )
    child = Child(["/usr/sbin/nginx", "-c", f"{directory}/nginx.conf", "-p", str(directory)], directory / "log")

    def listening() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    child.wait_ready(listening, 10, "nginx to listen")
    return child, port


@pytest.fixture
def front(tmp_path: Path, certificates: Certificates) -> Iterator[Front]:
    """nginx with the strict NDJSON receiver behind it."""
    stored = Stored()
    receiver = HttpReceiver(fakes.ndjson(stored))
    child, port = nginx(tmp_path / "nginx", receiver.port, certificates.good)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    (tmp_path / "ca.pem").write_text(certificates.ca.read_text())
    url = f"https://127.0.0.1:{port}/logs"
    login = {"username": "shipper", "password_file": "/password", "ca_file": "/ca.pem"}
    try:
        yield Front(url, stored, receiver, {"url": url, "gzip": True, "timeout": "5s", "server_name": "localhost", **login})
    finally:
        child.stop()
        receiver.close()


def test_entries_go_through_a_front_whole_and_in_order(front: Front, tmp_path: Path) -> None:
    """Over TLS, compressed, and with a password from a file: the receiver has the entries as sent, with labels."""
    sink = make("http", front.options, tmp_path)
    deliver(sink, tmp_path, batch(AWKWARD))
    assert front.stored.messages == AWKWARD
    assert front.receiver.headers[-1]["content-encoding"] == "gzip"
    assert all(row["component"] == LABELS["component"] for _, row in front.stored.rows)
    sink.close()


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("line_bytes", [700, 7_000])
def test_bodies_beyond_the_limit_of_a_front_are_split(front: Front, compressed: bool, line_bytes: int, tmp_path: Path) -> None:
    """413 halves a batch until the parts go through, in order and none twice; only a line that is too large is set aside."""
    lines = [f"{number:04d} {secrets.token_hex(line_bytes // 2)}" for number in range(300)]
    lines[150] = f"huge {secrets.token_hex(40_000)}"
    sink = make("http", {**front.options, "gzip": compressed}, tmp_path)
    progress = deliver(sink, tmp_path, batch(lines))
    assert front.stored.messages == [*lines[:150], *lines[151:]]
    assert (progress.counts["sent"], progress.counts["set_aside"]) == (299, 1)
    (letter,) = letters(tmp_path)
    assert letter["MESSAGE"] == lines[150]
    assert "413" in letter["refused"]
    sink.close()


def test_a_wrong_password_waits_for_the_right_one(front: Front, tmp_path: Path) -> None:
    """401 sets nothing aside and shows no password. The file is read for each request, so that a corrected one is enough."""
    (tmp_path / "password").write_text("wrong-77aa01")
    sink = make("http", front.options, tmp_path)
    with pytest.raises(SinkDenied) as found:
        sink.send(batch(["one"]))
    assert "wrong-77aa01" not in f"{found.value!r} {found.value.hint}"
    (tmp_path / "password").write_text(PASSWORD)
    assert deliver(sink, tmp_path, batch(["one"])).counts["sent"] == 1
    assert front.stored.messages == ["one"]
    sink.close()


def test_a_receiver_that_is_down_behind_a_front_is_waited_for(front: Front, tmp_path: Path) -> None:
    """nginx's own 502 and 504 mean later, not refused: nothing is set aside, and a stop ends the waiting."""
    front.receiver.close()
    stop = Stop()
    sink = make("http", front.options, tmp_path, stop)
    with pytest.raises(SinkUnavailable, match="502"):
        sink.send(batch(["one"]))
    stop.set(0.5)
    with pytest.raises(DeliveryAborted):
        deliver(sink, tmp_path, batch(["one"]), stop=stop)
    assert not (tmp_path / "dead").exists()
    sink.close()


def test_a_redirect_is_not_followed(front: Front, tmp_path: Path) -> None:
    """Logs go to the address of the settings alone: a redirect, such as to a login page, is a wrong address and is named."""
    sink = make("http", {**front.options, "url": front.url.replace("/logs", "/moved")}, tmp_path)
    with pytest.raises(SinkDenied, match=r"redirects to .*/logs"):
        sink.send(batch(["one"]))
    assert not front.receiver.requests
    sink.close()


@contextmanager
def behind_tls(port: int, certificate: tuple[Path, Path]) -> Iterator[int]:
    with Faulty(port, certificate) as proxy:
        yield proxy.port


def test_gelf_arrives_whole_over_tls(certificates: Certificates, tmp_path: Path) -> None:
    """The null-delimited messages of GELF over TCP, with a server whose name is checked."""
    with stream_target("gelf")(tmp_path) as target:
        port = int(str(target.options["url"]).rpartition(":")[2])
        with behind_tls(port, certificates.good) as outside:
            options = {"url": f"tls://localhost:{outside}", "ca_file": str(certificates.ca), "timeout": "5s"}
            sink = make("gelf", options, Path("/"))
            sink.send(batch(AWKWARD))
            assert arrived(target, len(AWKWARD)) == AWKWARD
            assert all(row["component"] == "web" for row in target.rows())
            sink.close()


@pytest.mark.parametrize("wrong", ["stranger", "expired", "elsewhere"])
@pytest.mark.parametrize("kind", ["gelf", "syslog", "http", "loki", "journal-remote"])
def test_nothing_is_sent_to_a_server_that_is_not_the_right_one(
    kind: str, wrong: str, certificates: Certificates, tmp_path: Path
) -> None:
    """Of another CA, expired, or of another name: not a byte of a log leaves, and the error has a hint."""
    received: list[bytes] = []
    with (
        socket.create_server(("127.0.0.1", 0)) as inside,
        behind_tls(inside.getsockname()[1], getattr(certificates, wrong)) as outside,
    ):
        scheme = "tls" if kind in ("gelf", "syslog") else "https"
        options = {"url": f"{scheme}://localhost:{outside}", "ca_file": str(certificates.ca), "timeout": "3s"}
        sink = make(kind, options, Path("/"))
        with pytest.raises(SinkError, match="certificate is not trusted") as found:
            sink.send(batch(["one"]))
        assert isinstance(found.value, (SinkUnavailable, SinkDenied))
        expected = {"stranger": "ca_file", "expired": "renew", "elsewhere": "server_name"}
        assert expected[wrong] in str(found.value.hint)
        sink.close()
        # A library may check the name after the handshake: what matters is that nothing is sent then.
        inside.settimeout(0.3)
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            wire = inside.accept()[0]
            wire.settimeout(0.3)
            while chunk := wire.recv(65536):
                received.append(chunk)
    assert received == []


def test_journal_remote_takes_entries_over_https(certificates: Certificates, tmp_path: Path) -> None:
    """systemd-journal-remote with its own HTTPS: the entries arrive whole and in order, with labels as fields."""
    with journal_remote(tmp_path, certificates) as target:
        options = {**target.options, "ca_file": str(certificates.ca), "server_name": "localhost"}
        sink = make("journal-remote", options, Path("/"))
        sink.send(batch(AWKWARD))
        assert target.messages() == AWKWARD
        assert all(row["COMPONENT"] == "web" for row in target.rows())
        sink.close()


@pytest.mark.parametrize("client", ["good", "none", "stranger", "expired"])
def test_client_certificates_are_shown_to_a_front_that_asks(client: str, certificates: Certificates, tmp_path: Path) -> None:
    """journal-remote behind nginx that wants a certificate of its CA: with it all arrives; without, the entries wait."""
    with journal_remote(tmp_path) as target:
        port = int(str(target.options["url"]).rpartition(":")[2])
        wanted = f"ssl_client_certificate {certificates.ca}; ssl_verify_client on; client_max_body_size 1m;"
        child, outside = nginx(tmp_path / "nginx", port, certificates.good, wanted)
        options: dict[str, Any] = {"url": f"https://localhost:{outside}", "ca_file": str(certificates.ca), "timeout": "5s"}
        if client != "none":
            certificate, key = map(str, getattr(certificates, client))
            options |= {"cert_file": certificate, "key_file": key}
        sink = make("journal-remote", options, Path("/"))
        try:
            if client == "good":
                sink.send(batch(AWKWARD))
            else:
                with pytest.raises(SinkDenied, match="SSL certificate"):
                    sink.send(batch(["one"]))
            assert target.messages() == (AWKWARD if client == "good" else [])
        finally:
            sink.close()
            child.stop()


def test_ship_once_through_nginx_with_credentials(front: Front, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a user has it: the password is a systemd credential, the files are below the root, and every line arrives once."""
    root, credentials = tmp_path / "root", tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "logs-password").write_text(PASSWORD)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    lines: Sequence[str] = [f"line {number} {secrets.token_hex(200)}" for number in range(500)]
    for path, content in {
        "etc/parbake/parbake.toml": f"""
[component]
name = "web"
[ship]
journal = false
files = ["/var/log/*.log"]
[[sink]]
type = "http"
url = "{front.url}"
gzip = true
server_name = "localhost"
ca_file = "/etc/ca.pem"
username = "shipper"
password_file = "credential:logs-password"
""",
        "etc/ca.pem": (tmp_path / "ca.pem").read_text(),
        "var/log/app.log": "".join(f"{line}\n" for line in lines),
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    assert main(["--root", str(root), "ship", "--once"]) == 0
    assert front.stored.messages == lines
    assert main(["--root", str(root), "ship", "--once"]) == 0
    assert len(front.stored.messages) == 500
