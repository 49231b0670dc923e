"""parbake stops: every wait of every backend ends within two seconds, in a fetch as in a watch."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SourceUnreachable
from agent.paths import Paths
from agent.settings import plugins
from agent.sources import BACKENDS, SourceContext, Watchable, new_source
from tests.integration.sources.benches import Bench

LAYERS = ("common", "env/dev")
TIMEOUT_SECONDS = 60.0
STOP_SECONDS = 2.0
AWS = {"region": "eu-central-1", "endpoint_url": "http://127.0.0.1:{port}"}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "exec": {"command": ("/bin/sh", "-c", "exec sleep 60")},
    "http": {"url": "http://127.0.0.1:{port}/"},
    "consul": {"address": "http://127.0.0.1:{port}"},
    "etcd": {"endpoints": ("http://127.0.0.1:{port}", "http://127.0.0.1:{port}/")},
    "vault": {"address": "http://127.0.0.1:{port}", "token_file": "{token}", "prefix": "site"},
    "redis": {"url": "redis://127.0.0.1:{port}"},
    "zookeeper": {"hosts": ("127.0.0.1:{port}",)},
    "dns": {"services": {"web": "web:80"}, "nameservers": ("127.0.0.1:{port}",)},
    "aws-ssm": AWS,
    "aws-secretsmanager": AWS,
    "aws-appconfig": {**AWS, "environment": "dev"},
    "s3": {**AWS, "bucket": "site"},
    "dynamodb": AWS,
    "gcp-secret-manager": {"project": "site", "endpoint_url": "http://127.0.0.1:{port}", "token_file": "{token}"},
    "azure-keyvault": {"vault_url": "http://127.0.0.1:{port}", "token_file": "{token}"},
}
"""The options of each backend that waits for anything but the disk, with a peer at {port} that never answers."""
METADATA: Mapping[str, Mapping[str, Any]] = {
    "aws-ssm": {**AWS, "imds_url": "http://127.0.0.1:{port}"},
    "vault": {
        "address": "http://127.0.0.1:{port}", "auth": "gcp", "role": "web", "prefix": "site", "imds_url": "http://127.0.0.1:{port}",
    },
    "gcp-secret-manager": {"project": "site", "endpoint_url": "http://127.0.0.1:1", "imds_url": "http://127.0.0.1:{port}"},
}  # fmt: skip
"""The same with a metadata service that never answers."""


class SilentPeer:
    """A server that takes connections and datagrams on one port, and never answers. `reached` is set by the first of them."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._connections: list[socket.socket] = []
        while True:
            self._tcp = socket.create_server(("127.0.0.1", 0))
            self.port: int = self._tcp.getsockname()[1]
            self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with contextlib.suppress(OSError):
                self._udp.bind(("127.0.0.1", self.port))
                break
        threading.Thread(target=self._accept, daemon=True).start()
        threading.Thread(target=self._receive, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._tcp.accept()
                self._connections.append(connection)
                self.reached.set()

    def _receive(self) -> None:
        with contextlib.suppress(OSError):
            while self._udp.recv(4096):
                self.reached.set()

    def close(self) -> None:
        self._tcp.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._udp.shutdown(socket.SHUT_RDWR)
        for one in (self._tcp, self._udp, *self._connections):
            one.close()


@pytest.fixture
def peer() -> Iterator[SilentPeer]:
    silent = SilentPeer()
    yield silent
    silent.close()


def filled(value: Any, **places: object) -> Any:
    """Return an option's value with its placeholders filled."""
    if isinstance(value, str):
        return value.format(**places)
    if isinstance(value, tuple):
        return tuple(filled(item, **places) for item in value)
    return {name: filled(item, **places) for name, item in value.items()} if isinstance(value, dict) else value


def stopped_fetch(backend: str, options: Mapping[str, Any], peer: SilentPeer, tmp_path: Path) -> None:
    """Fetch from a peer that never answers, stop, and hold that the fetch ends in time, as unreachable."""
    token = tmp_path / "token"
    token.write_text("x")
    given = filled(dict(options), port=peer.port, token=token)
    context = SourceContext("site", Paths(), TIMEOUT_SECONDS)
    try:
        options_class = plugins.load(BACKENDS, backend, "backend").options_class
        source = new_source(backend, options_class(**given), context)
    except Exception as error:  # noqa: BLE001 - the library of an extra is not installed
        pytest.skip(str(error))
    stopped: list[float] = []

    def stop() -> None:
        if backend != "exec":
            peer.reached.wait(30)
        time.sleep(0.5)
        stopped.append(time.monotonic())
        context.stopping.set()

    stopper = threading.Thread(target=stop)
    stopper.start()
    try:
        with pytest.raises(SourceUnreachable) as caught:
            source.fetch(LAYERS)
        ended = time.monotonic()
    finally:
        stopper.join()
        source.close()
    assert stopped[0] <= ended <= stopped[0] + STOP_SECONDS
    assert "stopped" in str(caught.value)


@pytest.mark.parametrize("backend", sorted(OPTIONS))
def test_a_stop_ends_a_fetch_that_waits_for_its_store(
    backend: str, peer: SilentPeer, tmp_path: Path, aws_credentials: None
) -> None:
    """The store takes the connection and never answers; the time-out of the source is a minute away."""
    stopped_fetch(backend, OPTIONS[backend], peer, tmp_path)


@pytest.mark.parametrize("backend", sorted(METADATA))
def test_a_stop_ends_a_fetch_that_waits_for_its_credentials(
    backend: str, peer: SilentPeer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same while the metadata service is silent."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    stopped_fetch(backend, METADATA[backend], peer, tmp_path)


def test_every_backend_that_waits_is_held() -> None:
    """A new backend comes with its options here; `file` and `env` wait for nothing in a fetch."""
    assert set(OPTIONS) | {"file", "env"} == set(BACKENDS)


@pytest.mark.needs.with_args(lambda kind: kind.watched)
def test_a_stop_ends_a_watch(bench: Bench) -> None:
    """The watch returns False, or says that it was stopped, long before its time-out."""
    bench.put("common", "name", "x")
    source = bench.open()
    assert isinstance(source, Watchable)
    seen = source.fetch(LAYERS)
    while source.watch(seen, 0.2):
        seen = source.fetch(LAYERS)
    stop_watch(source, seen, bench.stopping)


def stop_watch(source: Watchable, seen: Any, stopping: threading.Event) -> None:
    ended: list[tuple[float, object]] = []

    def watch() -> None:
        try:
            ended.append((time.monotonic(), source.watch(seen, TIMEOUT_SECONDS)))
        except SourceUnreachable as error:
            ended.append((time.monotonic(), error))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    time.sleep(0.5)
    assert thread.is_alive()
    stopping.set()
    thread.join(STOP_SECONDS)
    assert not thread.is_alive()
    assert ended[0][1] is False or "stopped" in str(ended[0][1])


def test_a_stop_ends_the_watch_of_vault_and_its_renewals(tmp_path: Path) -> None:
    """Vault's watch waits for its poll, and its thread for a lease that is due."""
    from agent.sources.backends.vault import VaultSource
    from agent.sources.backends.vault_auth import VaultOptions
    from tests.servers.vaultfake import VaultFake

    with VaultFake() as vault:
        vault.kv["site/common"] = [{"name": "x"}]
        (tmp_path / "token").write_text("root-token")
        options = VaultOptions(
            address=vault.url, prefix="site", token_file=str(tmp_path / "token"), dynamic=("database/creds/web",)
        )
        context = SourceContext("vault-of-this-test", Paths(), 5.0, poll_seconds=60.0)
        source = VaultSource(options, context)
        stop_watch(source, source.fetch(["common"]), context.stopping)
        end = time.monotonic() + STOP_SECONDS
        while "renew vault-of-this-test" in [thread.name for thread in threading.enumerate()]:
            assert time.monotonic() < end
            time.sleep(0.02)
        source.close()
