"""`http`: posts NDJSON, one object per line."""

from __future__ import annotations

from dataclasses import dataclass

from agent.settings.schema import setting
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields
from agent.shipping.sinks.http_base import Poster, WebOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpOptions(WebOptions):
    gzip: bool = setting("compress what is sent; not every receiver accepts that", False)
    content_type: str = setting('the Content-Type; some receivers want "application/json"', "application/x-ndjson")


class HttpSink:
    """Posts each batch as one body."""

    options_class = HttpOptions
    wants_ids = False

    def __init__(self, options: HttpOptions, context: SinkContext) -> None:
        self._options = options
        self._poster = Poster(options, context)
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        body = self._json.ndjson(batch).encode()
        self._poster.post(body, self._options.content_type)
        return ACCEPTED

    def close(self) -> None:
        self._poster.close()
