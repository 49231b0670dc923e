"""HTTP by requests, over connections that can be aborted. The only module that imports requests and urllib3 at run time.

Used of requests: `Request.prepare` (URL, headers and body made valid), `HTTPAdapter` (connection pools, TLS options, proxies,
`Response`), its exceptions, and the proxies of the environment. Not used: `Session`, which adds .netrc, cookies, redirects and
proxies to every request; a credential could reach another host by each of them.

The connections are our own (`_pools`), because a time-out of requests starts again with every byte and does not cover name
resolution: neither a deadline nor a stop could end a request. `AbortableSockets` ends them.

`agent.net.http_client` imports this module at the first request: requests and urllib3 cost tens of milliseconds.
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

from agent.net.sockets import AbortableSockets, causes, describe_network_error

ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, HTTPException, OSError)
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def _pools(sockets: AbortableSockets, unix_socket: Path | None) -> dict[str, Any]:
    """Return urllib3's pool classes by URL scheme, with connections that `sockets` makes and can abort."""

    class Abortable:
        sock: Any
        timeout: Any
        port: Any

        def _new_conn(self) -> socket.socket:
            seconds = self.timeout if isinstance(self.timeout, (int, float)) else 10.0
            try:
                return sockets.connect(self._dns_host, self.port, seconds, unix_socket)  # type: ignore[attr-defined]
            except OSError as error:  # urllib3 ignores a ConnectionResetError here, and then reads from no socket
                raise urllib3.exceptions.NewConnectionError(self, "not connected") from error  # type: ignore[arg-type]

        def connect(self) -> None:
            super().connect()  # type: ignore[misc]
            sockets.attach(self.sock)

        def putrequest(self, *args: Any, **kwargs: Any) -> None:
            if self.sock is not None:
                sockets.attach(self.sock)
            super().putrequest(*args, **kwargs)  # type: ignore[misc]

    class Plain(Abortable, HTTPConnection):
        pass

    class Encrypted(Abortable, HTTPSConnection):
        def connect(self) -> None:
            self.connected = Abortable._new_conn(self)
            with sockets.abortable(self.connected):
                HTTPSConnection.connect(self)
            sockets.attach(self.sock)

        def _new_conn(self) -> socket.socket:
            return self.connected

    class PlainPool(HTTPConnectionPool):
        ConnectionCls = Plain

    class EncryptedPool(HTTPSConnectionPool):
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


class _Adapter(HTTPAdapter):
    def __init__(self, sockets: AbortableSockets, unix_socket: Path | None, server_name: str) -> None:
        self._classes = _pools(sockets, unix_socket)
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
    """Connection pools of one client, and single requests over them. Redirects are not followed."""

    def __init__(
        self,
        sockets: AbortableSockets,
        *,
        unix_socket: Path | None = None,
        server_name: str = "",
        ca_file: Path | None = None,
        client_certificate: tuple[str, str] | str | None = None,
        insecure: bool = False,
    ) -> None:
        self._adapters = {"http": _Adapter(sockets, unix_socket, ""), "https": _Adapter(sockets, unix_socket, server_name)}
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
        """Send a request and return the response with its body unread.

        `timeout_seconds` bounds connecting, and each single read. `proxies` maps URL schemes to proxy URLs; no other proxy is
        used. Raises ERRORS.
        """
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
    candidates = [os.environ.get("SSL_CERT_FILE", ""), os.environ.get("REQUESTS_CA_BUNDLE", ""), *_BUNDLES]
    return next((path for path in candidates if path and Path(path).is_file()), None)


def proxies(url: str) -> dict[str, str]:
    """Return the environment's proxies for a URL, by scheme. NO_PROXY is honoured."""
    return requests.utils.get_environ_proxies(url)


def describe_error(error: BaseException) -> tuple[str, str | None]:
    """Describe one of ERRORS, with a hint. Its own text is never quoted: requests puts the URL with its query into it."""
    if any(isinstance(cause, RemoteDisconnected) for cause in causes(error)):
        return "it closed the connection without an answer", None
    if (description := describe_network_error(error)) is not None:
        return description
    for kind, text in _REASONS:
        if any(isinstance(cause, kind) for cause in causes(error)):
            return text, None
    last = list(causes(error))[-1]
    return (last.strerror.lower() if isinstance(last, OSError) and last.strerror else type(last).__name__), None


_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (urllib3.exceptions.TimeoutError, "no answer in time"),
    (requests.exceptions.ProxyError, "the proxy does not answer"),
    (urllib3.exceptions.IncompleteRead, "the answer was cut off"),
    (urllib3.exceptions.ProtocolError, "the answer was cut off, or is not HTTP"),
    (requests.exceptions.InvalidHeader, "a header contains characters that HTTP does not allow"),
    (requests.exceptions.InvalidURL, "the URL is not valid"),
)
