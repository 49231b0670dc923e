"""A real Consul server with one node, on loopback or inside a network namespace, whose data outlives a stop."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from tests.servers.processes import Child, ServerError, free_port


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, which reaches a server in any network namespace."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Consul:
    """`with Consul(binary, directory) as consul:` starts the server and waits for its leader.

    `directory` keeps data and log. `prefix` starts it in a network namespace (`Network.prefix`), where it listens on
    `address`, loopback or link-local. `port` is its HTTP port, or 0 for a free one. `settings` are merged over the agent's
    configuration, for ACLs or TLS. The test's own requests go over a Unix socket, so it needs no way into the namespace.
    """

    def __init__(
        self,
        binary: Path,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        prefix: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.address = address
        self.port = port or free_port()
        self._binary = binary
        self._directory = directory
        self._prefix = tuple(prefix)
        self._settings = dict(settings or {})
        self._child: Child | None = None
        self._sockets: Path | None = None
        self._peers = {"server": free_port(), "serf_lan": free_port()}

    @property
    def url(self) -> str:
        """The address for a client in the server's network."""
        return f"http://{self.address}:{self.port}"

    @property
    def socket(self) -> Path:
        """The Unix socket of the API. Its path is within the 107 bytes that the kernel allows."""
        if self._sockets is None:
            raise ServerError("Consul is used outside its `with` block")
        return self._sockets / "consul.sock"

    def __enter__(self) -> Consul:
        self._directory.mkdir(parents=True, exist_ok=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="consul-"))
        try:
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop(kill=True)
        if self._sockets is not None:
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None

    def start(self, timeout_seconds: float = 30.0) -> None:
        """Start the server with its data and wait until it has a leader. Raises ServerError with its log."""
        self.socket.unlink(missing_ok=True)
        config = self._directory / "agent.json"
        config.write_text(json.dumps(self._agent_settings()))
        argv = [str(self._binary), "agent", f"-config-file={config}"]
        self._child = Child(argv, self._directory / "consul.log", prefix=self._prefix)
        self._child.wait_ready(self._has_leader, timeout_seconds, "Consul's leader")

    def stop(self, *, kill: bool = False) -> None:
        """End the server and keep its data for the next `start`. With `kill` it ends by SIGKILL."""
        if self._child is not None:
            (self._child.kill if kill else self._child.stop)()
            self._child = None

    def pause(self) -> None:
        """Hang the server: connections are accepted, and requests are not answered."""
        self._running().pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._running().resume()

    def put(self, key: str, value: str | bytes) -> None:
        """Store `value` at `key`. Raises ServerError if Consul does not confirm it."""
        body = value.encode() if isinstance(value, str) else value
        if self.request("PUT", f"/v1/kv/{quote(key)}", body) is not True:
            raise ServerError(f"Consul did not store {key!r}")

    def delete(self, key: str, *, recurse: bool = False) -> None:
        """Remove `key`, and with `recurse` every key that begins with it."""
        if self.request("DELETE", f"/v1/kv/{quote(key)}" + ("?recurse" if recurse else "")) is not True:
            raise ServerError(f"Consul did not delete {key!r}")

    def request(self, method: str, path: str, body: bytes | None = None, *, timeout_seconds: float = 10.0) -> Any:
        """Send a request to the HTTP API (`/v1/...`) and return its JSON answer. Raises ServerError unless it is a 200."""
        connection = _UnixConnection(self.socket, timeout_seconds)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise ServerError(f"Consul does not answer {method} {path}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ServerError(f"Consul answered {method} {path} with {response.status}: {text.strip()}")
        return json.loads(text) if text else None

    def _running(self) -> Child:
        if self._child is None:
            raise ServerError("Consul is not running")
        return self._child

    def _has_leader(self) -> bool:
        # A consistent read: a leader's address alone is known before the leader has caught up with its own log.
        try:
            return bool(self.request("GET", "/v1/catalog/nodes?consistent", timeout_seconds=2.0))
        except ServerError:
            return False

    def _agent_settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = {
            "server": True,
            "bootstrap_expect": 1,
            "node_name": "lab",
            "data_dir": str(self._directory / "data"),
            "bind_addr": "127.0.0.1",
            "addresses": {"http": f"{self.address} unix://{self.socket}"},
            "ports": {"http": self.port, "dns": -1, "grpc": -1, "serf_wan": -1, **self._peers},
            "performance": {"raft_multiplier": 1},
            "leave_on_terminate": False,
            "skip_leave_on_interrupt": True,
            "disable_update_check": True,
            "log_level": "WARN",
        }
        return settings | self._settings
