"""The one HTTP client: sources, sinks and metadata services speak through it.

What it holds to: the whole of a request ends by its deadline even where the server drips; an answer has a greatest
size; retries back off with full jitter and honour Retry-After; nothing secret is in a message; errors are the caller's.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import threading
import time
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from agent.errors import ParbakeError
from agent.net.credentials import resolve_path
from agent.net.deadlines import DEADLINES
from agent.net.http_reply import SOURCE, ErrorMapping, Reply, TransportFailure, check_status, json_body, read_body, text_body
from agent.net.sockets import Wire
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
_HARMLESS = ("User-Agent", "Accept-Encoding", "Accept")
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
    """One peer's HTTP client: connections are reused, and used by several threads. It does no I/O before a request.

    `headers` is called for every attempt, so that a rotated token is read again. With `guarded` there is no proxy and
    no redirect: for metadata services. Without `redirects` one is an answer like others: what is posted to a new address
    would be given away. Environment proxies are used otherwise; .netrc and cookies never.
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
        self._stopping = stopping or threading.Event()
        self._wire = Wire()
        self._lock = threading.Lock()
        self._connections: Connections | None = None
        self._proxies: dict[tuple[str, str], dict[str, str]] = {}
        self._tls.warn()

    @property
    def closed(self) -> bool:
        return self._wire.closed

    def close(self) -> None:
        """End requests that wait in other threads, and free the connections. Later requests fail at once."""
        self._wire.close()
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
        """One exchange, tried again where that may help.

        `timeout_seconds` bounds one attempt, `deadline` (of time.monotonic()) all of them; without one, the first
        bounds both. A POST or PATCH is tried once unless `attempts` says otherwise. A status outside `expect` raises
        the family's unreachable (408, 429, 5xx), denied (401, 403) or invalid (any other).
        """
        ends = deadline if deadline is not None else time.monotonic() + timeout_seconds
        tries = attempts or (1 if method in ("POST", "PATCH") else self._attempts)
        sent = dict(headers or {})
        if gzip_body and body is not None:
            body, sent["Content-Encoding"] = gzip.compress(body, 6), "gzip"

        def attempt() -> Reply:
            with self._exchange(method, url, sent, body, min(ends, time.monotonic() + timeout_seconds)) as response:
                check_status(response, url, expect)
                content = read_body(response, url, max_body_bytes)
                return Reply(response.status_code, _lower(response.headers), content, shown(url))

        return self._again(attempt, tries, ends)

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers | None = None,
        body: bytes | None = None,
        timeout_seconds: float,
    ) -> Iterator[bytes]:
        """The lines of an answer that goes on, as they come, until the server or the time-out ends it.

        The time-out ends it without an error: a watch in which nothing happened. Raises the family's errors else.
        """
        ends = time.monotonic() + timeout_seconds
        try:
            with self._exchange(method, url, headers or {}, body, ends) as response:
                check_status(response, url, (200,))
                held = b""
                for chunk in response.raw.stream(_CHUNK, decode_content=False):
                    *lines, held = (held + chunk).split(b"\n")
                    if len(held) > MAX_BODY_BYTES:
                        raise TransportFailure("invalid", f"{shown(url)} sends a line without an end")
                    yield from lines
                if held:
                    yield held
        except TransportFailure as trouble:
            if time.monotonic() < ends or trouble.kind != "unreachable":
                raise self._error(trouble) from None

    def _again(self, attempt: Callable[[], Reply], tries: int, ends: float) -> Reply:
        try:
            return attempt() if tries == 1 else self._retried(attempt, tries, ends)
        except TransportFailure as trouble:
            raise self._error(trouble) from None

    def _retried(self, attempt: Callable[[], Reply], tries: int, ends: float) -> Reply:
        import tenacity

        def after(state: tenacity.RetryCallState) -> float:
            trouble = state.outcome.exception() if state.outcome else None
            return getattr(trouble, "after", None) or 0.0

        def stop(state: tenacity.RetryCallState) -> bool:
            last = state.attempt_number >= tries or self.closed or self._stopping.is_set()
            return last or time.monotonic() + after(state) >= ends

        def wait(state: tenacity.RetryCallState) -> float:
            jitter = random.uniform(0, min(5.0, 0.1 * 2**state.attempt_number))  # noqa: S311 - spreads load, guards nothing
            return max(0.0, min(max(after(state), jitter), ends - time.monotonic() - 0.01))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(lambda error: isinstance(error, TransportFailure) and error.again),
            stop=stop,
            wait=wait,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(attempt)

    def _sleep(self, seconds: float) -> None:
        self._stopping.wait(seconds)

    def _error(self, trouble: TransportFailure) -> ParbakeError:
        error: ParbakeError = getattr(self._family, trouble.kind)(trouble.text, hint=trouble.hint)
        if trouble.after is not None and hasattr(error, "retry_after_seconds"):
            error.retry_after_seconds = trouble.after
        return error

    @contextlib.contextmanager
    def _exchange(
        self, method: str, url: str, headers: Headers, body: bytes | None, ends: float
    ) -> Iterator[requests.Response]:
        """An open answer, cut off when `ends` is reached. Foreign exceptions become Trouble here and nowhere else."""
        from agent.net import http_transport

        late, too_late = threading.Event(), f"{shown(url)}: no whole answer in time"
        thread = threading.get_ident()

        def cut() -> None:
            late.set()
            self._wire.cut(thread)

        deadline = DEADLINES.at(ends, cut)
        response = None
        try:
            response = self._send(method, url, headers, body, ends)
            yield response
            if late.is_set():  # the end of an answer without a length may be the cut
                raise TransportFailure("unreachable", too_late, again=True)
        except TransportFailure as trouble:
            if late.is_set() and trouble.kind == "unreachable" and not self.closed:
                raise TransportFailure("unreachable", too_late, again=True) from None
            raise
        except http_transport.ERRORS as error:
            if self.closed:
                raise TransportFailure("unreachable", f"{shown(url)}: closed") from None
            if late.is_set():
                raise TransportFailure("unreachable", too_late, again=True) from None
            text, hint = http_transport.reason(error)
            raise TransportFailure("unreachable", f"{shown(url)}: {text}", hint, again=True) from None
        finally:
            DEADLINES.off(deadline)
            self._wire.rest()
            if response is not None:
                response.close()

    def _send(self, method: str, url: str, headers: Headers, body: bytes | None, ends: float) -> requests.Response:
        own = {"User-Agent": "parbake", "Accept-Encoding": "identity", "Accept": "*/*"}
        sent = own | _plain(self._headers()) | _plain(headers)
        for _ in range(6):
            left = max(0.05, ends - time.monotonic())
            response = self._opened().send(method, url, sent, body, left, self._proxies_for(url))
            location = response.headers.get("Location", "")
            if response.status_code not in _REDIRECTS or not location or self._direct:
                return response
            response.raw.read(_CHUNK, decode_content=False)
            response.close()
            target = urljoin(url, location)
            old, new = urlsplit(url), urlsplit(target)
            if not self._redirects or new.scheme not in ("http", "https") or (old.scheme, new.scheme) == ("https", "http"):
                raise TransportFailure("invalid", f"{shown(url)} redirects to {shown(target)}, which is not followed")
            if (old.scheme, old.netloc) != (new.scheme, new.netloc) and not self._trust_redirects:
                sent = {name: value for name, value in sent.items() if name in _HARMLESS}
            if response.status_code == 303:
                method, body = "GET", None
            url = target
        raise TransportFailure("invalid", f"{shown(url)} redirects without end")

    def _proxies_for(self, url: str) -> dict[str, str]:
        """Looked up once for each peer: it takes as long as half the rest of a request."""
        from agent.net import http_transport

        if self._direct or self._unix_socket is not None:
            return {}
        peer = urlsplit(url)[:2]
        if peer not in self._proxies:
            self._proxies[peer] = http_transport.proxies(url)
        return self._proxies[peer]

    def _opened(self) -> Connections:
        from agent.net import http_transport

        with self._lock:
            if self._connections is None:
                tls = self._tls
                ca = self._file(tls.ca_file, "ca_file")
                certificate, key = self._file(tls.cert_file, "cert_file"), self._file(tls.key_file, "key_file")
                pair = (str(certificate), str(key)) if key else str(certificate)
                self._connections = http_transport.Connections(
                    self._wire,
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
            raise TransportFailure("unreachable", f"{option}: there is no file {path}")
        return path


def _plain(headers: Headers) -> dict[str, str]:
    plain = {name: str(value.reveal()) if isinstance(value, Secret) else value for name, value in headers.items()}
    for name, value in plain.items():
        if not value.isascii() or not value.isprintable():
            hint = "look for a line end inside the token's file"
            raise TransportFailure("denied", f"the header {name} would hold characters that HTTP does not allow", hint)
    return plain


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
