"""`http`: a layer is a document over HTTP. The body is sent again only after its ETag or Last-Modified has changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import ClassVar
from urllib.parse import quote, urlsplit

from agent.errors import SourceDenied, SourceInvalid
from agent.model import Layer, Snapshot
from agent.net.headers_file import read_headers
from agent.net.http_client import Client, Reply, TlsOptions, check_url
from agent.secret import Secret
from agent.settings.schema import setting
from agent.sources import SourceContext, decoding, key_tree

_ACCEPT = "application/json, application/toml, application/yaml, text/plain;q=0.5"
_UNSPECIFIC_TYPES = ("", "text/plain", "application/octet-stream", "binary/octet-stream")
_SETTLED_SECONDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions(TlsOptions):
    url: str = setting("the document's URL; {layer} in it is replaced, otherwise the layer is appended as a path")
    headers_file: str = setting("file, or credential:NAME, with a line `Name: value` for each header to send", "")

    def __post_init__(self) -> None:
        check_url(self.url.replace("{layer}", "layer"), "url")


class HttpSource:
    """JSON, TOML or YAML by Content-Type, or by the URL's suffix if the type is an unspecific one.

    Conditional requests are RFC 9110, section 13.
    """

    options_class: ClassVar[type[HttpOptions]] = HttpOptions

    def __init__(self, options: HttpOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._client = Client(context.paths, tls=options, headers=self._headers, stopping=context.stopping)
        self._cached: dict[str, tuple[dict[str, str], Layer]] = {}
        """Layer -> (the headers of a conditional request, the layer as it was)."""

    def _headers(self) -> Mapping[str, str | Secret]:
        headers: dict[str, str | Secret] = {"Accept": _ACCEPT}
        if self._options.headers_file:
            headers |= read_headers(self._options.headers_file, self._context.paths, SourceDenied)
        return headers

    def _url(self, layer: str) -> str:
        path = quote(layer)
        if "{layer}" in self._options.url:
            return self._options.url.replace("{layer}", path)
        return f"{self._options.url.rstrip('/')}/{path}" if layer else self._options.url

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._context.timeout_seconds
        fetched = [self._fetch_layer(layer, deadline) for layer in layers]
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched))

    def _fetch_layer(self, layer: str, deadline: float) -> Layer:
        conditions, cached = self._cached.get(layer, ({}, None))
        url = self._url(layer)
        reply = self._client.request(
            "GET",
            url,
            headers=conditions,
            timeout_seconds=self._context.timeout_seconds,
            deadline=deadline,
            expect=(200, 204, 304, 404, 410),
        )
        if reply.status == 304 and cached is not None:
            return cached
        if reply.status == 304:
            raise SourceInvalid(f"{reply.url} answers 304 to a request without a condition")
        self._cached.pop(layer, None)
        if reply.status in (404, 410):
            return Layer(layer, None)
        tree = decoding.parse(reply.body, _format(reply, url), reply.url)
        etag, modified = reply.headers.get("etag", ""), reply.headers.get("last-modified", "")
        dated = bool(modified) and _is_settled(reply)
        fetched = Layer(layer, tree, etag or (modified if dated else key_tree.digest(reply.body)))
        conditions = {"If-None-Match": etag} if etag else {"If-Modified-Since": modified} if dated else {}
        if conditions:
            self._cached[layer] = (conditions, fetched)
        return fetched

    def close(self) -> None:
        self._client.close()


def _is_settled(reply: Reply) -> bool:
    """Return whether Last-Modified tells this version from a later one.

    It is in whole seconds, so that second must be over, by the clock of the server that wrote both headers.
    """
    try:
        modified, answered = (parsedate_to_datetime(reply.headers[name]) for name in ("last-modified", "date"))
        return (answered - modified).total_seconds() >= _SETTLED_SECONDS
    except (KeyError, ValueError, TypeError):
        return False


def _format(reply: Reply, url: str) -> str:
    """Return the format of a document, a value of decoding.FORMATS. Raises SourceInvalid."""
    content_type = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in decoding.CONTENT_TYPES or content_type.endswith("+json"):
        return decoding.CONTENT_TYPES.get(content_type, "JSON")
    suffix = PurePosixPath(urlsplit(url).path).suffix
    if content_type in _UNSPECIFIC_TYPES and suffix in decoding.FORMATS:
        return decoding.FORMATS[suffix]
    if "html" in content_type:
        hint = "a captive portal, a proxy or a wrong address may be answering instead of the store"
        raise SourceInvalid(f"{reply.url} answers with a web page", hint=hint)
    raise SourceInvalid(
        f'{reply.url} answers with the type "{content_type}", which is not JSON, TOML or YAML',
        hint="let the server send application/json, application/toml or application/yaml",
    )
