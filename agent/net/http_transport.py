"""requests and urllib3, and nothing else of them anywhere: connections over `Wire`, and what their exceptions mean.

Imported by `agent.net.http_client` at the first request, since the two cost tens of milliseconds.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from http.client import HTTPException, RemoteDisconnected
from pathlib import Path
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from agent.net.sockets import Wire, causes, why

ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError)
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def _pools(wire: Wire, unix_socket: Path | None) -> dict[str, Any]:
    """Connection pools that dial through `wire` and tell it which socket is in use."""

    class OnWire:
        sock: Any
        timeout: Any
        port: Any

        def _new_conn(self) -> socket.socket:
            seconds = self.timeout if isinstance(self.timeout, (int, float)) else 10.0
            return wire.dial(self._dns_host, self.port, seconds, unix_socket)  # type: ignore[attr-defined]

        def connect(self) -> None:
            super().connect()  # type: ignore[misc]
            wire.use(self.sock)

        def putrequest(self, *args: Any, **kwargs: Any) -> None:
            if self.sock is not None:
                wire.use(self.sock)
            super().putrequest(*args, **kwargs)  # type: ignore[misc]

    class Plain(OnWire, HTTPConnection):
        pass

    class Encrypted(OnWire, HTTPSConnection):
        def connect(self) -> None:
            self.dialled = OnWire._new_conn(self)
            with wire.cuttable(self.dialled):
                HTTPSConnection.connect(self)
            wire.use(self.sock)

        def _new_conn(self) -> socket.socket:
            return self.dialled

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


class _Adapter(HTTPAdapter):
    def __init__(self, wire: Wire, unix_socket: Path | None, server_name: str) -> None:
        self._classes = _pools(wire, unix_socket)
        self._names = {"server_hostname": server_name, "assert_hostname": server_name} if server_name else {}
        super().__init__(pool_connections=4, pool_maxsize=4, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **{**kwargs, **self._names})
        self.poolmanager.pool_classes_by_scheme = self._classes

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **{**kwargs, **self._names})
        manager.pool_classes_by_scheme = self._classes
        return manager


class Connections:
    """Pools of connections, and single requests over them: no .netrc, no cookies, no redirect that is followed, no proxy
    but one that `proxies` names. A session of requests would merge all that into each request, to leave it out again."""

    def __init__(
        self,
        wire: Wire,
        *,
        unix_socket: Path | None = None,
        server_name: str = "",
        ca_file: Path | None = None,
        client_certificate: tuple[str, str] | str | None = None,
        insecure: bool = False,
    ) -> None:
        self._adapters = {"http": _Adapter(wire, unix_socket, ""), "https": _Adapter(wire, unix_socket, server_name)}
        self._certificate = client_certificate
        self._verify = str(ca_file) if ca_file else (_system_bundle() or True)
        if insecure:
            self._verify = False
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        timeout_seconds: float,
        proxies: Mapping[str, str],
    ) -> requests.Response:
        """The open answer. The time-out is one for connecting and one for each read. Raises ERRORS."""
        prepared = requests.Request(method, url, headers=headers, data=body).prepare()
        adapter = self._adapters.get(str(prepared.url).partition(":")[0].lower())
        if adapter is None:
            raise requests.exceptions.InvalidSchema("neither http nor https")
        return adapter.send(
            prepared, stream=True, timeout=timeout_seconds, verify=self._verify, cert=self._certificate, proxies=proxies
        )

    def close(self) -> None:
        for adapter in self._adapters.values():
            adapter.close()


def _system_bundle() -> str | None:
    chosen = [os.environ.get("SSL_CERT_FILE", ""), os.environ.get("REQUESTS_CA_BUNDLE", ""), *_BUNDLES]
    return next((path for path in chosen if path and Path(path).is_file()), None)


def proxies(url: str) -> dict[str, str]:
    """The proxies that the environment names for a URL, NO_PROXY honoured."""
    return requests.utils.get_environ_proxies(url)


def reason(error: BaseException) -> tuple[str, str | None]:
    """What an exception means, and a hint. Never its own text: requests puts the URL with its query into that."""
    if any(isinstance(cause, RemoteDisconnected) for cause in causes(error)):
        return "it closed the connection without an answer", None
    if (known := why(error)) is not None:
        return known
    for kind, text in _REASONS:
        if any(isinstance(cause, kind) for cause in causes(error)):
            return text, None
    last = list(causes(error))[-1]
    return (last.strerror.lower() if isinstance(last, OSError) and last.strerror else type(last).__name__), None


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (urllib3.exceptions.TimeoutError, "no answer in time"),
    (requests.exceptions.ProxyError, "the proxy does not answer"),
    (urllib3.exceptions.IncompleteRead, "the answer broke off"),
    (urllib3.exceptions.ProtocolError, "the answer broke off, or is no HTTP"),
    (requests.exceptions.InvalidHeader, "a header holds characters that HTTP does not allow"),
    (requests.exceptions.InvalidURL, "the URL is not valid"),
)
