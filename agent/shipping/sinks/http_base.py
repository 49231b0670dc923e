"""What all sinks over HTTP share: options, credentials, compression, and a decided answer to each class of reply."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable
from agent.net.credentials import read_secret, resolve_path
from agent.net.http_client import Client, ErrorMapping, Reply, TlsOptions, check_url, shown
from agent.paths import Paths
from agent.secret import Secret
from agent.settings.schema import Seconds, setting
from agent.shipping import SinkContext, SinkTooLarge

SINK = ErrorMapping(SinkUnavailable, SinkDenied, SinkDenied)
_MINE = frozenset({*range(200, 300), *range(400, 600)} - {401, 403, 408, 425, 429, 500, 502, 503, 504})
"""The statuses that are decided here; the client turns the others into SinkDenied and SinkUnavailable."""
_REFUSED = frozenset((400, 409, 422))
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TAG = re.compile(rb"<[^>]*>")
_HINTS = {
    406: "see whether the receiver takes what content_type and gzip say",
    411: "the receiver, or a proxy before it, does not take such requests",
    415: "see whether the receiver takes what content_type and gzip say",
}
_GZIP_LEVEL = 1
"""Of a log, the higher levels save a tenth more and cost three times as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebOptions(TlsOptions):
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


def _secret(reference: str, paths: Paths) -> Secret:
    """A sink is not root: what it reads is given to the user it runs as."""
    try:
        return read_secret(reference, paths, SinkDenied)
    except SinkDenied as error:
        if "only root" not in (error.hint or ""):
            raise
        hint = f"put it at {resolve_path(reference, paths, SinkDenied)}: root's, group parbake-ship, mode 0640"
        raise SinkDenied(error.message, hint=hint) from None


class Poster:
    """Posts bodies to one receiver. Raises what `Sink.send` may raise."""

    def __init__(self, options: WebOptions, context: SinkContext, *, scheme: str = "Bearer") -> None:
        self._options = options
        self._context = context
        self._scheme = scheme
        self._client = Client(context.paths, family=SINK, tls=options, headers=self._headers, redirects=False)

    def _headers(self) -> Mapping[str, str | Secret]:
        """Read for every request: credentials are rotated."""
        options, paths = self._options, self._context.paths
        headers: dict[str, str | Secret] = {"User-Agent": f"parbake-ship {self._context.mark}".rstrip()}
        if options.token_file:
            token = _secret(options.token_file, paths)
            headers["Authorization"] = Secret(f"{self._scheme} {token.reveal()}")
        elif options.username:
            password = _secret(options.password_file, paths)
            pair = base64.b64encode(f"{options.username}:{password.reveal()}".encode()).decode()
            headers["Authorization"] = Secret(f"Basic {pair}")
        if options.headers_file:
            for line in _secret(options.headers_file, paths).text().splitlines():
                name, colon, value = line.partition(":")
                if colon and name.strip():
                    if not _HEADER.fullmatch(name.strip()):
                        hint = "letters, digits and hyphens make one"
                        raise SinkDenied("headers_file: a header's name holds characters that HTTP does not allow", hint=hint)
                    headers[name.strip()] = Secret(value.strip())
        return headers

    def post(
        self,
        body: bytes,
        content_type: str,
        *,
        url: str = "",
        headers: Mapping[str, str] | None = None,
        plain: bool = False,
    ) -> Reply:
        """The reply, where it is a 2xx. A body that is refused is SinkRefused; one that is too large SinkTooLarge; an
        address that does not take logs at all is SinkDenied, because the entries are not to blame. `plain` never compresses."""
        sent = {"Content-Type": content_type, **(headers or {})}
        if self._options.gzip and not plain:
            body, sent["Content-Encoding"] = compress(body), "gzip"
        seconds = max(0.5, self._context.stop.within(self._options.timeout))
        address = url or self._options.url
        try:
            reply = self._client.request(
                "POST", address, headers=sent, body=body, timeout_seconds=seconds, expect=_MINE, max_body_bytes=8 << 20
            )
        except ValueError as error:
            if self._client.closed:
                raise
            # No entry is in it any more: bytes are sent, so that what does not fit is a name in the settings.
            hint = "mend its url, server_name, or a path or name in its options"
            raise SinkDenied(f"{shown(address)} cannot be asked: {type(error).__name__}", hint=hint) from None
        if 200 <= reply.status < 300:
            return reply
        text = f"{reply.url} answers {reply.status}"
        if reply.status == 413:
            raise SinkTooLarge(text)
        if "html" in reply.headers.get("content-type", "").lower():
            # nginx says 400 to a client without the right certificate: a page is a front's own, and no entry is to blame.
            hint = "a proxy or front answers, not the receiver: see cert_file, and whether url is the address that takes logs"
            kind = SinkUnavailable if reply.status >= 500 else SinkDenied
            raise kind(f"{text}: {excerpt(_TAG.sub(b' ', reply.body))}", hint=hint)
        if reply.status in _REFUSED:
            raise SinkRefused(f"{text}: {excerpt(reply.body)}")
        if reply.status >= 500:
            raise SinkUnavailable(text)
        raise SinkDenied(text, hint=_HINTS.get(reply.status, "see whether url is the address that takes logs"))

    def close(self) -> None:
        self._client.close()


def compress(body: bytes) -> bytes:
    engine = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    return engine.compress(body) + engine.flush()


def excerpt(body: bytes) -> str:
    """The beginning of a receiver's answer, as one printable line."""
    text = body[:300].decode("utf-8", "replace")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def parsed(reply: Reply) -> Any:
    """Raises SinkUnavailable for what is no JSON, or nested so deeply that it cannot be read."""
    try:
        return json.loads(reply.body)
    except (ValueError, RecursionError):
        raise SinkUnavailable(f"{reply.url} answers with no valid JSON") from None
