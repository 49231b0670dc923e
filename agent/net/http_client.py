"""The HTTP client of sources and sinks.

The whole of a request ends by its deadline, also if the server sends one byte a second, and soon after a stop. A reply has a
maximum size. Retries back off and honour Retry-After. No message contains a credential. Errors are of the caller's classes.

requests is the base: it prepares requests and keeps connections. `agent.net.http_transport` documents which parts of it are
used, and why the connections are our own.
"""

from __future__ import annotations

import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from agent.net.backoff import Backoff, retry
from agent.net.credentials import resolve_path
from agent.net.exchange_limit import ExchangeLimit
from agent.net.http_reply import (
    SOURCE,
    ErrorMapping,
    FailureKind,
    Reply,
    TransportFailure,
    check_status,
    json_body,
    read_body,
    text_body,
)
from agent.net.sockets import AbortableSockets
from agent.net.tls import TlsFiles, TlsOptions
from agent.paths import Paths
from agent.secret import Secret
from agent.settings.urls import check_url, shown, split_address

if TYPE_CHECKING:
    import requests

    from agent.net.http_transport import Connections

ANY_STATUS = range(100, 600)
MAX_BODY_BYTES = 32 << 20
_REDIRECTS = (301, 302, 303, 307, 308)
_REDIRECTS_MAX = 5
_NOT_SECRET = ("User-Agent", "Accept-Encoding", "Accept")
_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.2, 5.0
_CHUNK = 64 << 10

Headers = Mapping[str, "str | Secret"]

__all__ = [
    "ANY_STATUS",
    "MAX_BODY_BYTES",
    "SOURCE",
    "Client",
    "ErrorMapping",
    "Headers",
    "Reply",
    "TlsFiles",
    "TlsOptions",
    "check_url",
    "json_body",
    "shown",
    "split_address",
    "text_body",
]


class Client:
    """The HTTP client of one peer. Several threads may use it. Its connections are reused; none is opened before a request.

    `headers` is called for every attempt, so that a rotated token is read again. `direct`, for metadata services: no proxy is
    used, and a redirect is a reply like any other. `redirects` false: a redirect is an error, so that a body is never sent to
    another address. `trust_redirects`: the headers are sent to the host of a redirect too. `attempts` is the limit for each
    request, the first attempt included. Once `stopping` is set, every request, running or new, fails within two seconds.

    Proxies of the environment are used, unless `direct` is true. .netrc and cookies never are.
    """

    def __init__(
        self,
        paths: Paths | None = None,
        *,
        family: ErrorMapping = SOURCE,
        tls: TlsOptions | None = None,
        headers: Callable[[], Headers] | None = None,
        direct: bool = False,
        redirects: bool = True,
        trust_redirects: bool = False,
        unix_socket: Path | None = None,
        attempts: int = 3,
        stopping: threading.Event | None = None,
    ) -> None:
        self._paths = paths or Paths()
        self._family = family
        self._tls = tls or TlsOptions()
        self._headers = headers or dict
        self._direct = direct
        self._redirects = redirects
        self._trust_redirects = trust_redirects
        self._unix_socket = unix_socket
        self._attempts = attempts
        self._stopping = stopping
        self._sockets = AbortableSockets()
        self._lock = threading.Lock()
        self._connections: Connections | None = None
        self._proxies: dict[tuple[str, str], dict[str, str]] = {}
        self._tls.warn()

    @property
    def closed(self) -> bool:
        return self._sockets.closed

    def close(self) -> None:
        """Abort the requests of all threads and close the connections. Later requests fail at once."""
        self._sockets.close()
        with self._lock:
            if self._connections is not None:
                self._connections.close()

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Headers | None = None,
        body: bytes | None = None,
        gzip_body: bool = False,
        timeout_seconds: float = 10.0,
        deadline: float | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        expect: Container[int] = (200,),
        attempts: int | None = None,
    ) -> Reply:
        """Return the reply to a request, retried if that may help.

        `timeout_seconds` bounds one attempt and `deadline` (of time.monotonic()) all of them. Without a deadline,
        `timeout_seconds` bounds both. `attempts` overrides the client's; a POST or PATCH has one attempt by default.

        Raises the family's unreachable (no reply, or 408, 425, 429, 5xx), denied (401, 403) or invalid (any other status
        outside `expect`, or a body over `max_body_bytes`).
        """
        ends = deadline if deadline is not None else time.monotonic() + timeout_seconds
        request_headers = dict(headers or {})
        if gzip_body and body is not None:
            body, request_headers["Content-Encoding"] = gzip.compress(body, 6), "gzip"

        def attempt() -> Reply:
            attempt_ends = min(ends, time.monotonic() + timeout_seconds)
            with self._exchange(method, url, request_headers, body, attempt_ends) as response:
                check_status(response, url, expect)
                content = read_body(response, url, max_body_bytes)
                return Reply(response.status_code, _lower(response.headers), content, shown(url))

        try:
            return retry(
                attempt,
                Backoff(_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS),
                retryable=lambda error: isinstance(error, TransportFailure) and error.retryable,
                attempts=attempts or (1 if method in ("POST", "PATCH") else self._attempts),
                deadline=ends,
                sleep=self._stopping.wait if self._stopping is not None else time.sleep,
                stopped=lambda: self.closed or self._is_stopping(),
                retry_after=lambda error: error.retry_after if isinstance(error, TransportFailure) else None,
            )
        except TransportFailure as failure:
            raise self._family.error(failure) from None

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers | None = None,
        body: bytes | None = None,
        timeout_seconds: float,
    ) -> Iterator[bytes]:
        """Iterate over the lines of a reply as they arrive, until the server ends it or the time-out.

        The time-out is no error: nothing happened during a watch. Raises the family's errors otherwise.
        """
        ends = time.monotonic() + timeout_seconds
        try:
            with self._exchange(method, url, headers or {}, body, ends) as response:
                check_status(response, url, (200,))
                rest = b""
                for chunk in response.raw.stream(_CHUNK, decode_content=False):
                    *lines, rest = (rest + chunk).split(b"\n")
                    if len(rest) > MAX_BODY_BYTES:
                        text = f"{shown(url)} sends a line of more than {MAX_BODY_BYTES} bytes"
                        raise TransportFailure(FailureKind.INVALID, text)
                    yield from lines
                if rest:
                    yield rest
        except TransportFailure as failure:
            if failure.kind != FailureKind.UNREACHABLE or self._is_stopping() or time.monotonic() < ends:
                raise self._family.error(failure) from None

    def _is_stopping(self) -> bool:
        return self._stopping is not None and self._stopping.is_set()

    @contextlib.contextmanager
    def _exchange(
        self, method: str, url: str, headers: Headers, body: bytes | None, ends: float
    ) -> Iterator[requests.Response]:
        """Send a request and close the response at the end. Aborted at `ends`, at a stop, and by `close`.

        Raises TransportFailure. The exceptions of requests and urllib3 are translated here and nowhere else.
        """
        from agent.net import http_transport

        with ExchangeLimit(self._sockets, ends, self._stopping) as limit:
            response = None
            try:
                self._check_limit(limit, url)
                response = self._send(method, url, headers, body, ends)
                yield response
                self._check_limit(limit, url)  # an abort looks like the end of a reply that has no length
            except TransportFailure as failure:
                if failure.kind == FailureKind.UNREACHABLE:
                    self._check_limit(limit, url)
                raise
            except http_transport.ERRORS as error:
                limit.note_failure()
                self._check_limit(limit, url)
                text, hint = http_transport.describe_error(error)
                raise TransportFailure(FailureKind.UNREACHABLE, f"{shown(url)}: {text}", hint, retryable=True) from None
            finally:
                if response is not None:
                    response.close()

    def _check_limit(self, limit: ExchangeLimit, url: str) -> None:
        """Raise TransportFailure with the reason if the exchange was aborted. The error of the abort does not have it."""
        if limit.stopped:
            raise TransportFailure(FailureKind.UNREACHABLE, f"{shown(url)}: stopped") from None
        if self.closed:
            raise TransportFailure(FailureKind.UNREACHABLE, f"{shown(url)}: closed") from None
        if limit.expired:
            text = f"{shown(url)}: no complete answer in time"
            raise TransportFailure(FailureKind.UNREACHABLE, text, retryable=True) from None

    def _send(self, method: str, url: str, headers: Headers, body: bytes | None, ends: float) -> requests.Response:
        defaults = {"User-Agent": "parbake", "Accept-Encoding": "identity", "Accept": "*/*"}
        request_headers = defaults | _revealed(self._headers()) | _revealed(headers)
        for _ in range(_REDIRECTS_MAX + 1):
            seconds = max(0.05, ends - time.monotonic())
            response = self._open_connections().send(method, url, request_headers, body, seconds, self._proxies_for(url))
            location = response.headers.get("Location", "")
            if response.status_code not in _REDIRECTS or not location or self._direct:
                return response
            response.raw.read(_CHUNK, decode_content=False)
            response.close()
            target = urljoin(url, location)
            old, new = urlsplit(url), urlsplit(target)
            if not self._redirects or new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
                text = f"{shown(url)} redirects to {shown(target)}, which is not followed"
                raise TransportFailure(FailureKind.INVALID, text)
            if (old.scheme, old.netloc) != (new.scheme, new.netloc) and not self._trust_redirects:
                request_headers = {name: value for name, value in request_headers.items() if name in _NOT_SECRET}
            if response.status_code == 303:
                method, body = "GET", None
            url = target
        raise TransportFailure(FailureKind.INVALID, f"{shown(url)} redirects more than {_REDIRECTS_MAX} times")

    def _proxies_for(self, url: str) -> dict[str, str]:
        """Return the proxies for a URL, cached for each peer: reading the environment takes half as long as a request."""
        from agent.net import http_transport

        if self._direct or self._unix_socket is not None:
            return {}
        peer = urlsplit(url)[:2]
        if peer not in self._proxies:
            self._proxies[peer] = http_transport.proxies(url)
        return self._proxies[peer]

    def _open_connections(self) -> Connections:
        from agent.net import http_transport

        with self._lock:
            if self._connections is None:
                tls = self._tls
                ca = self._file(tls.ca_file, "ca_file")
                certificate, key = self._file(tls.cert_file, "cert_file"), self._file(tls.key_file, "key_file")
                pair = (str(certificate), str(key)) if key else str(certificate)
                self._connections = http_transport.Connections(
                    self._sockets,
                    unix_socket=self._unix_socket,
                    server_name=tls.server_name,
                    ca_file=ca,
                    client_certificate=pair if certificate else None,
                    insecure=tls.insecure,
                )
            return self._connections

    def _file(self, reference: str, option: str) -> Path | None:
        if not reference:
            return None
        path = resolve_path(reference, self._paths, self._family.denied)
        if not path.is_file():
            raise TransportFailure(FailureKind.UNREACHABLE, f"{option}: {path} does not exist")
        return path


def _revealed(headers: Headers) -> dict[str, str]:
    values = {name: str(value.reveal()) if isinstance(value, Secret) else value for name, value in headers.items()}
    for name, value in values.items():
        if not value.isascii() or not value.isprintable():
            text = f"the header {name} would contain characters that HTTP does not allow"
            raise TransportFailure(FailureKind.DENIED, text, "check the token's file for a line break or a non-ASCII character")
    return values


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
