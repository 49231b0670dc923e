"""`splunk-hec`: Splunk's HTTP Event Collector, with indexer acknowledgement if `ack` is set.

Source: docs.splunk.com, "Format events for HTTP Event Collector", "HTTP Event Collector REST API endpoints" and "About
HTTP Event Collector Indexer Acknowledgment".
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable
from agent.net.http_client import Reply
from agent.settings.schema import setting
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields, label_members, literal, seconds
from agent.shipping.sinks.http_base import Poster, WebOptions, parsed

_PATH = "/services/collector/event"
_ACK_PATH = "/services/collector/ack"
_HOST = ',"host":'
_BLANK = '{"MESSAGE":""}'
"""The collector refuses an empty event."""
_DENIED_CODES = frozenset((1, 2, 3, 4, 7, 10, 11, 14))
"""Codes of a wrong token, index or channel. The event is not to blame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplunkOptions(WebOptions):
    token_file: str = setting("file, or credential:NAME, with the collector's token")
    index: str = setting("the index; default: the token's", "")
    source: str = setting("the source", "parbake")
    sourcetype: str = setting("the sourcetype", "journald")
    ack: bool = setting("wait until the indexer has acknowledged; the token must have it enabled", False)


class SplunkSink:
    """Posts each batch as a sequence of events."""

    options_class = SplunkOptions
    wants_ids = False

    def __init__(self, options: SplunkOptions, context: SinkContext) -> None:
        self._options = options
        self._context = context
        base = options.url.rstrip("/").removesuffix(_PATH)
        self._url, self._ack_url = base + _PATH, base + _ACK_PATH
        self._channel = str(uuid.uuid4())
        self._poster = Poster(options, context, scheme="Splunk")
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        headers = {"X-Splunk-Request-Channel": self._channel} if self._options.ack else {}
        try:
            reply = self._poster.post(self._body(batch).encode(), "application/json", url=self._url, headers=headers)
        except SinkRefused as error:
            code = _code(str(error))
            if code in _DENIED_CODES:
                raise SinkDenied(str(error), hint="check the collector's token, its index and its channel") from None
            raise
        if self._options.ack:
            self._await_ack(reply)
        return ACCEPTED

    def close(self) -> None:
        self._poster.close()

    def _await_ack(self, sent: Reply) -> None:
        """Return when the indexer has acknowledged the events of the request that `sent` answers.

        Raises SinkUnavailable, after which they are sent again, or SinkDenied if the token has no acknowledgements enabled.
        """
        try:
            ack = parsed(sent)["ackId"]
        except (KeyError, TypeError):
            hint = "enable acknowledgement for the token, or set ack = false"
            raise SinkDenied(f"{self._url} answers without an ackId", hint=hint) from None
        ends = time.monotonic() + self._options.timeout
        while time.monotonic() < ends and not self._context.stop.expired:
            try:
                query = json.dumps({"acks": [ack]}).encode()
            except RecursionError:
                raise SinkUnavailable(f"{sent.url} answers with invalid JSON") from None
            reply = self._poster.post(
                query,
                "application/json",
                url=f"{self._ack_url}?channel={self._channel}",
                headers={"X-Splunk-Request-Channel": self._channel},
                plain=True,
            )
            try:
                if parsed(reply)["acks"][str(ack)]:
                    return
            except (KeyError, TypeError):
                raise SinkUnavailable(f"{reply.url} answers with something other than an acknowledgement") from None
            self._context.stop.wait(0.2)
        raise SinkUnavailable(f"{self._url} has not acknowledged in time")

    def _body(self, batch: Batch) -> str:
        options = self._options
        more = "".join(
            f",{literal(name)}:{literal(value)}"
            for name, value in (("source", options.source), ("sourcetype", options.sourcetype), ("index", options.index))
            if value
        )
        if batch.labels:
            more += f',"fields":{{{label_members(batch.labels)[1:]}}}'
        hosts = self._json.literals(batch.columns.get("_HOSTNAME", [None] * len(batch)))
        rows = zip(seconds(batch.times), hosts, self._json.bodies(batch), strict=True)
        return "\n".join(
            f'{{"time":{when}{_HOST + host if host else ""}{more},"event":{body if len(body) > 2 else _BLANK}}}'
            for when, host, body in rows
        )


def _code(text: str) -> int | None:
    """Return the collector's code from the answer that an error quotes; None if it has none."""
    start = text.find("{")
    try:
        return int(json.loads(text[start:])["code"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
