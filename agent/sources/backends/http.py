"""`http`: a document a layer over HTTP, asked for again only where its ETag or Last-Modified says that it changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import PurePosixPath
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from agent.errors import SourceDenied, SourceInvalid
from agent.model import Layer, Snapshot
from agent.net.credentials import read_secret
from agent.net.http_client import Client, Reply, TlsOptions, check_url
from agent.secret import Secret
from agent.settings.schema import setting
from agent.sources import SourceContext, decoding, key_tree

_ACCEPT = "application/json, application/toml, application/yaml, text/plain;q=0.5"
_SETTLED_SECONDS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions(TlsOptions):
    url: str = setting("the document's URL; {layer} in it is replaced, else the layer is appended as a path")
    headers_file: str = setting("file, or credential:NAME, with a line `Name: value` for each header to send", "")

    def __post_init__(self) -> None:
        check_url(self.url.replace("{layer}", "layer"), "url")


class HttpSource:
    """JSON, TOML or YAML, told by Content-Type, or by the URL's suffix where that is a plain one."""

    options_class: ClassVar[type[Any]] = HttpOptions

    def __init__(self, options: HttpOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._client = Client(context.paths, tls=options, headers=self._headers, stopping=context.stopping)
        self._known: dict[str, tuple[dict[str, str], Layer]] = {}

    def _headers(self) -> Mapping[str, str | Secret]:
        headers: dict[str, str | Secret] = {"Accept": _ACCEPT}
        if self._options.headers_file:
            text = read_secret(self._options.headers_file, self._context.paths).reveal()
            for number, line in enumerate(filter(str.strip, text.splitlines()), 1):
                name, colon, value = line.partition(":")
                if not colon or not name.strip():
                    raise SourceDenied(f"headers_file {self._options.headers_file}: line {number} is no `Name: value`")
                headers[name.strip()] = Secret(value.strip())
        return headers

    def _url(self, layer: str) -> str:
        path = quote(layer)
        if "{layer}" in self._options.url:
            return self._options.url.replace("{layer}", path)
        return f"{self._options.url.rstrip('/')}/{path}" if layer else self._options.url

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._context.timeout_seconds
        read = [self._fetch_layer(layer, deadline) for layer in layers]
        return Snapshot(tuple(read), key_tree.combined(read))

    def _fetch_layer(self, layer: str, deadline: float) -> Layer:
        conditions, known = self._known.get(layer, ({}, None))
        url = self._url(layer)
        reply = self._client.request(
            "GET",
            url,
            headers=conditions,
            timeout_seconds=self._context.timeout_seconds,
            deadline=deadline,
            expect=(200, 204, 304, 404, 410),
        )
        if reply.status == 304 and known is not None:
            return known
        if reply.status == 304:
            raise SourceInvalid(f"{reply.url} answers 304 to a request without a condition")
        self._known.pop(layer, None)
        if reply.status in (404, 410):
            return Layer(layer, None)
        tree = decoding.parse(reply.body, _form(reply, url), reply.url)
        etag, modified = reply.headers.get("etag", ""), reply.headers.get("last-modified", "")
        dated = bool(modified) and _settled(reply)
        read = Layer(layer, tree, etag or (modified if dated else key_tree.digest(reply.body)))
        conditions = {"If-None-Match": etag} if etag else {"If-Modified-Since": modified} if dated else {}
        if conditions:
            self._known[layer] = (conditions, read)
        return read

    def close(self) -> None:
        self._client.close()


def _settled(reply: Reply) -> bool:
    """Whether Last-Modified tells this version from a later one: it is in whole seconds, and the second must be over, by
    the clock of the server that wrote it."""
    try:
        modified, answered = (parsedate_to_datetime(reply.headers[name]) for name in ("last-modified", "date"))
        return (answered - modified).total_seconds() >= _SETTLED_SECONDS
    except (KeyError, ValueError, TypeError):
        return False


def _form(reply: Reply, url: str) -> str:
    kind = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in decoding.TYPES or kind.endswith("+json"):
        return decoding.TYPES.get(kind, "JSON")
    suffix = PurePosixPath(urlsplit(url).path).suffix
    if kind in ("", "text/plain", "application/octet-stream", "binary/octet-stream") and suffix in decoding.FORMS:
        return decoding.FORMS[suffix]
    if "html" in kind:
        hint = "a captive portal, a proxy or a wrong address answers in its place"
        raise SourceInvalid(f"{reply.url} answers with a web page", hint=hint)
    raise SourceInvalid(
        f'{reply.url} answers with the type "{kind}", which is none of JSON, TOML and YAML',
        hint="let the server send application/json, application/toml or application/yaml",
    )
