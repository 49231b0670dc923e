"""HTTP answers: read whole and checked, or a `TransportFailure`."""

from __future__ import annotations

import zlib
from collections.abc import Container, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from agent.errors import ParbakeError, SourceDenied, SourceInvalid, SourceUnreachable
from agent.net.backoff import retry_after_seconds
from agent.settings.urls import shown

if TYPE_CHECKING:
    import requests

_RETRYABLE = (408, 425, 429, 500, 502, 503, 504)
_CHUNK = 64 << 10


class FailureKind(StrEnum):
    """The kinds of failures that callers treat differently."""

    UNREACHABLE = "unreachable"
    """No connection, no answer in time, or an overloaded server."""
    DENIED = "denied"
    INVALID = "invalid"
    """An answer that the caller cannot use."""


class TransportFailure(Exception):
    """One failed attempt. `retryable`: another attempt may succeed. `retry_after` is the server's Retry-After in seconds."""

    def __init__(
        self,
        kind: FailureKind,
        text: str,
        hint: str | None = None,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text)
        self.kind, self.text, self.hint = kind, text, hint
        self.retryable, self.retry_after = retryable, retry_after


@dataclass(frozen=True, slots=True)
class ErrorMapping:
    """The error classes of the client's caller, one for each kind of failure."""

    unreachable: type[ParbakeError]
    denied: type[ParbakeError]
    invalid: type[ParbakeError]

    def error(self, failure: TransportFailure) -> ParbakeError:
        """Return the caller's error for a failure."""
        kinds = {
            FailureKind.UNREACHABLE: self.unreachable,
            FailureKind.DENIED: self.denied,
            FailureKind.INVALID: self.invalid,
        }
        error = kinds[failure.kind](failure.text, hint=failure.hint)
        if failure.retry_after is not None and hasattr(error, "retry_after_seconds"):
            error.retry_after_seconds = failure.retry_after
        return error


SOURCE = ErrorMapping(SourceUnreachable, SourceDenied, SourceInvalid)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. Header names are lower case. `url` has neither credentials nor query: messages may quote it."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str


def check_status(response: requests.Response, url: str, expect: Container[int]) -> None:
    """Raise TransportFailure if the status is not in `expect`."""
    status = response.status_code
    if status in expect:
        return
    response.raw.read(_CHUNK, decode_content=False)  # a connection can be reused only after its answer is read
    text = f"{shown(url)} answers {status} {response.reason or ''}".rstrip()
    if status in (401, 403):
        raise TransportFailure(FailureKind.DENIED, text, "check the token or the permissions behind it")
    if status in _RETRYABLE:
        retry_after = retry_after_seconds(response.headers.get("Retry-After", ""))
        raise TransportFailure(FailureKind.UNREACHABLE, text, retryable=True, retry_after=retry_after)
    raise TransportFailure(FailureKind.INVALID, text)


def read_body(response: requests.Response, url: str, max_body_bytes: int) -> bytes:
    """Return the whole body, decompressed. Raises TransportFailure if it is truncated or larger than `max_body_bytes`."""
    length = response.headers.get("Content-Length", "")
    too_large = f"{shown(url)} answers with more than {max_body_bytes} bytes"
    if length.isdigit() and int(length) > max_body_bytes:
        raise TransportFailure(FailureKind.INVALID, too_large)
    body = bytearray()
    while chunk := response.raw.read(_CHUNK, decode_content=False):
        body += chunk
        if len(body) > max_body_bytes:
            raise TransportFailure(FailureKind.INVALID, too_large)
    if length.isdigit() and len(body) != int(length) and response.request.method != "HEAD":
        raise TransportFailure(FailureKind.UNREACHABLE, f"{shown(url)}: the answer was cut off", retryable=True)
    if not length and not body and _has_undelimited_body(response):
        text = f"{shown(url)}: the answer was cut off in its headers"
        raise TransportFailure(FailureKind.UNREACHABLE, text, retryable=True)
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    return bytes(body) if encoding == "identity" else _decompress(bytes(body), encoding, url, max_body_bytes)


def _has_undelimited_body(response: requests.Response) -> bool:
    """Return whether only the end of the connection ends the body.

    http.client accepts headers that are cut off. The empty body of such an answer would become an empty config.
    """
    bodiless = response.status_code in (204, 304) or response.request.method == "HEAD"
    return not bodiless and "chunked" not in response.headers.get("Transfer-Encoding", "").lower()


def _decompress(body: bytes, encoding: str, url: str, max_body_bytes: int) -> bytes:
    if encoding not in ("gzip", "x-gzip", "deflate"):
        text = f"{shown(url)} answers in the encoding {encoding!r}, which the request does not accept"
        raise TransportFailure(FailureKind.INVALID, text)
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        plain = decompressor.decompress(body, max_body_bytes + 1)
    except zlib.error:
        text = f"{shown(url)}: the compressed answer is damaged"
        raise TransportFailure(FailureKind.INVALID, text, retryable=True) from None
    if len(plain) > max_body_bytes:
        raise TransportFailure(FailureKind.INVALID, f"{shown(url)} answers with more than {max_body_bytes} bytes")
    if not decompressor.eof:
        raise TransportFailure(FailureKind.INVALID, f"{shown(url)} answers with a compressed body that was cut off")
    return plain


def json_body(reply: Reply, family: ErrorMapping = SOURCE) -> Any:
    """Parse the JSON of an answer. Raises `family.invalid` for anything else, such as the web page of a captive portal."""
    from agent.formats.strict_json import parse

    text = text_body(reply, family)
    content_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if "html" in content_type or text.lstrip()[:1] == "<":
        hint = "check the address; a captive portal or a proxy may answer in its place"
        raise family.invalid(f"{reply.url} answers with a web page instead of JSON", hint=hint)
    try:
        return parse(text)
    except ValueError as error:
        raise family.invalid(f"{reply.url} answers with invalid JSON: {error}") from None


def text_body(reply: Reply, family: ErrorMapping = SOURCE) -> str:
    """Decode an answer. Raises `family.invalid` if it is not UTF-8."""
    try:
        return reply.body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise family.invalid(f"{reply.url}: byte {error.start} of the answer is not UTF-8") from None
