"""What comes back over HTTP: an answer read whole and checked, or the trouble there was with it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.errors import ParbakeError, SourceDenied, SourceInvalid, SourceUnreachable
from agent.settings.urls import shown

if TYPE_CHECKING:
    import requests

_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_CHUNK = 64 << 10


@dataclass(frozen=True, slots=True)
class ErrorMapping:
    """What the client's troubles become: no connection or an overloaded server, a refusal, an answer that is none."""

    unreachable: type[ParbakeError]
    denied: type[ParbakeError]
    invalid: type[ParbakeError]


SOURCE = ErrorMapping(SourceUnreachable, SourceDenied, SourceInvalid)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Header names are lower case; `url` has neither credentials nor query, and is fit for messages."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


class TransportFailure(Exception):
    """One failed attempt, before it becomes the family's error."""

    def __init__(
        self, kind: str, text: str, hint: str | None = None, *, again: bool = False, after: float | None = None
    ) -> None:
        super().__init__(text)
        self.kind, self.text, self.hint, self.again, self.after = kind, text, hint, again, after


def check_status(response: requests.Response, url: str, expect: Container[int]) -> None:
    status = response.status_code
    if status in expect:
        return
    response.raw.read(_CHUNK, decode_content=False)  # what is read to its end leaves the connection usable
    text = f"{shown(url)} answers {status} {response.reason or ''}".rstrip()
    if status in (401, 403):
        raise TransportFailure("denied", text, "check the token or the permissions behind it")
    if status in _TRY_AGAIN:
        raise TransportFailure("unreachable", text, again=True, after=_retry_after(response.headers.get("Retry-After", "")))
    raise TransportFailure("invalid", text)


def _retry_after(value: str) -> float | None:
    from email.utils import parsedate_to_datetime

    with contextlib.suppress(ValueError, TypeError, OverflowError):
        if value.strip().isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


def read_body(response: requests.Response, url: str, max_body_bytes: int) -> bytes:
    length = response.headers.get("Content-Length", "")
    too_large = f"{shown(url)} answers with more than {max_body_bytes} bytes"
    if length.isdigit() and int(length) > max_body_bytes:
        raise TransportFailure("invalid", too_large)
    body = bytearray()
    while chunk := response.raw.read(_CHUNK, decode_content=False):
        body += chunk
        if len(body) > max_body_bytes:
            raise TransportFailure("invalid", too_large)
    if length.isdigit() and len(body) != int(length) and response.request.method != "HEAD":
        raise TransportFailure("unreachable", f"{shown(url)}: the answer broke off", again=True)
    if not length and not body and _endless(response):
        raise TransportFailure("unreachable", f"{shown(url)}: the answer broke off in its headers", again=True)
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    return bytes(body) if encoding == "identity" else _decoded(bytes(body), encoding, url, max_body_bytes)


def _endless(response: requests.Response) -> bool:
    """Whether nothing says where the body ends. http.client takes headers that break off for whole ones, and an empty
    body of such an answer would be an empty config."""
    bodiless = response.status_code in (204, 304) or response.request.method == "HEAD"
    return not bodiless and "chunked" not in response.headers.get("Transfer-Encoding", "").lower()


def _decoded(body: bytes, encoding: str, url: str, max_body_bytes: int) -> bytes:
    import zlib

    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise TransportFailure("invalid", f"{shown(url)} answers in the encoding {encoding!r}, unasked")
    engine = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = engine.decompress(body, max_body_bytes + 1)
    except zlib.error:
        raise TransportFailure("invalid", f"{shown(url)}: the compressed answer is damaged", again=True) from None
    if len(plain) > max_body_bytes or not engine.eof:
        what = f"more than {max_body_bytes} bytes" if len(plain) > max_body_bytes else "a body that breaks off"
        raise TransportFailure("invalid", f"{shown(url)} answers with {what}")
    return plain


def json_body(reply: Reply, family: ErrorMapping = SOURCE) -> Any:
    """The JSON of an answer. Raises the family's `invalid` for anything else, such as a captive portal's HTML."""
    from agent.formats.strict_json import parse

    text = text_body(reply, family)
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if "html" in kind or text.lstrip()[:1] == "<":
        hint = "a captive portal, a proxy or a wrong address answers in its place"
        raise family.invalid(f"{reply.url} answers with a web page instead of JSON", hint=hint)
    try:
        return parse(text)
    except ValueError as error:
        raise family.invalid(f"{reply.url} answers with no valid JSON: {error}") from None


def text_body(reply: Reply, family: ErrorMapping = SOURCE) -> str:
    """The answer as text. Raises the family's `invalid` where it is not UTF-8."""
    try:
        return reply.body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise family.invalid(f"{reply.url}: byte {error.start} of the answer is not UTF-8") from None
