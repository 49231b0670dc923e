"""The base of the sinks over HTTP: options, credentials, compression, and an error for each class of reply."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable
from agent.net.credentials import read_secret, resolve_path
from agent.net.headers_file import read_headers
from agent.net.http_client import Client, ErrorMapping, Reply, TlsOptions, check_url, shown
from agent.paths import Paths
from agent.secret import Secret
from agent.settings.schema import Seconds, setting
from agent.shipping import SinkContext, SinkTooLarge

_ERRORS = ErrorMapping(SinkUnavailable, SinkDenied, SinkDenied)
_HANDLED = frozenset({*range(200, 300), *range(400, 600)} - {401, 403, 408, 425, 429, 500, 502, 503, 504})
"""The statuses that `Poster.post` handles; the client raises SinkDenied or SinkUnavailable for the others."""
_REFUSED = frozenset((400, 409, 422))
_TAG = re.compile(rb"<[^>]*>")
_HINTS = {
    406: "check whether the receiver accepts the settings content_type and gzip",
    411: "the receiver, or a proxy before it, does not accept such requests",
    415: "check whether the receiver accepts the settings content_type and gzip",
}
_GZIP_LEVEL = 1
"""Higher levels make logs a tenth smaller and cost three times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions(TlsOptions):
    """Options of every sink over HTTP."""

    url: str = setting("the address that batches are posted to")
    timeout: Seconds = setting("how long one request may take", Seconds(30.0))
    gzip: bool = setting("compress what is sent", True)
    token_file: str = setting("file, or credential:NAME, with a bearer token", "")
    username: str = setting("the user for basic authentication", "")
    password_file: str = setting("file, or credential:NAME, with that user's password", "")
    headers_file: str = setting("file, or credential:NAME, with further headers, `Name: value` a line", "")

    def __post_init__(self) -> None:
        check_url(self.url, "url")
        if bool(self.username) != bool(self.password_file):
            raise ValueError("username and password_file belong together")
        if self.username and self.token_file:
            raise ValueError("token_file and username exclude each other: there is one Authorization header")
        if self.timeout <= 0:
            raise ValueError("timeout must be above zero")


@contextmanager
def _readable_by_service(reference: str, paths: Paths) -> Iterator[None]:
    """Replace the hint for a file that cannot be read: the shipper is not root, and needs more than root's permission."""
    try:
        yield
    except SinkDenied as error:
        if not isinstance(error.__context__, OSError):
            raise
        hint = f"put it at {resolve_path(reference, paths, SinkDenied)} with owner root, group parbake-ship, mode 0640"
        raise SinkDenied(error.message, hint=hint) from None


class Poster:
    """Posts bodies to one receiver. Raises what `Sink.send` may raise."""

    def __init__(self, options: WebOptions, context: SinkContext, *, scheme: str = "Bearer") -> None:
        self._options = options
        self._context = context
        self._scheme = scheme
        self._client = Client(context.paths, family=_ERRORS, tls=options, headers=self._headers, redirects=False)

    def _headers(self) -> Mapping[str, str | Secret]:
        """Return the headers of every request. Their files are read for each request, because credentials are rotated."""
        options = self._options
        headers: dict[str, str | Secret] = {"User-Agent": f"parbake-ship {self._context.loop_marker}".rstrip()}
        if options.token_file:
            token = self._secret(options.token_file)
            headers["Authorization"] = Secret(f"{self._scheme} {token.reveal()}")
        elif options.username:
            password = self._secret(options.password_file)
            pair = base64.b64encode(f"{options.username}:{password.reveal()}".encode()).decode()
            headers["Authorization"] = Secret(f"Basic {pair}")
        if options.headers_file:
            with _readable_by_service(options.headers_file, self._context.paths):
                headers |= read_headers(options.headers_file, self._context.paths, SinkDenied)
        return headers

    def _secret(self, reference: str) -> Secret:
        with _readable_by_service(reference, self._context.paths):
            return read_secret(reference, self._context.paths, SinkDenied)

    def post(
        self,
        body: bytes,
        content_type: str,
        *,
        url: str = "",
        headers: Mapping[str, str] | None = None,
        plain: bool = False,
    ) -> Reply:
        """Post `body` and return a 2xx reply.

        `url`: default the sink's own. `headers`: in addition to those of every request. `plain`: never compress.

        Raises SinkRefused for a refused body, SinkTooLarge for one that is too large, SinkUnavailable, and SinkDenied for a
        wrong credential, address or setting, because the entries are not to blame for it.
        """
        own = {"Content-Type": content_type, **(headers or {})}
        if self._options.gzip and not plain:
            body, own["Content-Encoding"] = compress(body), "gzip"
        seconds = max(0.5, self._context.stop.clamp(self._options.timeout))
        address = url or self._options.url
        try:
            reply = self._client.request(
                "POST",
                address,
                headers=own,
                body=body,
                timeout_seconds=seconds,
                expect=_HANDLED,
                max_body_bytes=8 << 20,
            )
        except ValueError as error:
            if self._client.closed:
                raise
            # The body is bytes, so no entry is to blame: a name in the settings cannot be part of a request.
            hint = "correct its url, server_name, or a path or name in its options"
            raise SinkDenied(f"{shown(address)} cannot be requested: {type(error).__name__}", hint=hint) from None
        if 200 <= reply.status < 300:
            return reply
        text = f"{reply.url} answers {reply.status}"
        if reply.status == 413:
            raise SinkTooLarge(text)
        if "html" in reply.headers.get("content-type", "").lower():
            # nginx answers 400 to a client without the right certificate: a page comes from a proxy, and no entry is to blame.
            hint = "a proxy answers, not the receiver: check cert_file, and whether url is the address that accepts logs"
            kind = SinkUnavailable if reply.status >= 500 else SinkDenied
            raise kind(f"{text}: {excerpt(_TAG.sub(b' ', reply.body))}", hint=hint)
        if reply.status in _REFUSED:
            raise SinkRefused(f"{text}: {excerpt(reply.body)}")
        if reply.status >= 500:
            raise SinkUnavailable(text)
        raise SinkDenied(text, hint=_HINTS.get(reply.status, "check whether url is the address that accepts logs"))

    def close(self) -> None:
        self._client.close()


def compress(body: bytes) -> bytes:
    """Return the body as gzip."""
    engine = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return engine.compress(body) + engine.flush()


def excerpt(body: bytes) -> str:
    """Return the beginning of a receiver's answer as one printable line."""
    text = body[:300].decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def parsed(reply: Reply) -> Any:
    """Return the value of a JSON reply. Raises SinkUnavailable if it is not JSON, or nested too deeply."""
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError):
        raise SinkUnavailable(f"{reply.url} answers with invalid JSON") from None
