"""`elasticsearch`: the bulk API of Elasticsearch and OpenSearch.

Source: elastic.co/guide, "Bulk API". Each entry is created under its own id, so that a repeated entry is a conflict (409)
and no duplicate. The answer is 200 even if items failed: the status of each item decides.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from typing import Any, Literal

from agent.errors import SinkUnavailable
from agent.settings.schema import setting
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields, label_members, literal, timestamps
from agent.shipping.sinks.http_base import Poster, WebOptions, parsed

_ACCEPTED = frozenset((200, 201, 409))
_BUSY = frozenset((408, 429))
_INDEX = frozenset((401, 403, 404))
"""Statuses of items whose index is read-only, missing or forbidden. If they hold for a whole batch, entries wait until an
operator corrects it. If other items were accepted, a wrong clock made the entry name an index that it alone needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticsearchOptions(WebOptions):
    index: str = setting(
        'the index or data stream; "%Y.%m.%d" and the like are filled from the entry\'s time', "parbake-%Y.%m.%d"
    )
    auth_scheme: Literal["ApiKey", "Bearer"] = setting("the kind of token in token_file", "ApiKey")
    pipeline: str = setting("an ingest pipeline", "")

    def __post_init__(self) -> None:
        WebOptions.__post_init__(self)
        if "\0" in self.index:
            raise ValueError("index contains a NUL")


class ElasticsearchSink:
    """Posts each batch as one bulk request."""

    options_class = ElasticsearchOptions
    wants_ids = True

    def __init__(self, options: ElasticsearchOptions, context: SinkContext) -> None:
        self._pipeline = options.pipeline
        self._name = _index_name(options.index)
        self._poster = Poster(options, context, scheme=options.auth_scheme)
        self._url = options.url.rstrip("/").removesuffix("/_bulk") + "/_bulk"
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        reply = self._poster.post(self._body(batch).encode(), "application/x-ndjson", url=self._url)
        answer = parsed(reply)
        try:
            items = [next(iter(item.values())) for item in answer["items"]] if answer["errors"] else None
            return _result(items, len(batch)) if items is not None else ACCEPTED
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, OverflowError, RecursionError):
            raise SinkUnavailable(f"{reply.url} answers with something other than a bulk reply") from None

    def close(self) -> None:
        self._poster.close()

    def _body(self, batch: Batch) -> str:
        pipeline = f',"pipeline":{literal(self._pipeline)}' if self._pipeline else ""
        labels = label_members(batch.labels)
        parts = []
        fields = self._json.bodies(batch, skip=frozenset(batch.labels))  # Elasticsearch refuses the same name twice
        rows = zip(batch.times, timestamps(batch.times), batch.ids, fields, strict=True)
        for moment, stamp, entry, body in rows:
            index = literal(self._index(moment))
            name = hashlib.sha256(entry.encode()).hexdigest()[:32]
            parts.append(
                f'{{"create":{{"_index":{index},"_id":"{name}"{pipeline}}}}}\n'
                f'{{"@timestamp":"{stamp}"{"," if len(body) > 2 else ""}{body[1:-1]}{labels}}}\n'
            )
        return "".join(parts)

    def _index(self, moment_us: int) -> str:
        name = self._name
        return time.strftime(name, time.gmtime(moment_us // 1_000_000)) if "%" in name else name


def _index_name(text: str) -> str:
    """Return a valid name of an index. A fact may bring in characters with which every entry would be refused.

    A name with a time is converted to lower case. A name without one may be an alias, which may have capital letters.
    """
    text = re.sub(r'[\s\\/*?"<>|,#:]', "_", text)
    if "%" not in text:
        return text
    return re.sub(r"(%.)|([^%]+)", lambda match: match[1] or match[2].lower(), text)


def _result(items: list[dict[str, Any]], expected: int) -> SendResult:
    """Read the status of each item. Raises ValueError if an item is missing."""
    if len(items) != expected:
        raise ValueError("the reply does not have one answer for each item")
    retry, refused = [], []
    statuses = [int(item["status"]) for item in items]
    any_accepted = any(status in _ACCEPTED for status in statuses)
    for number, (status, item) in enumerate(zip(statuses, items, strict=True)):
        if status in _ACCEPTED:
            continue
        if status in _BUSY or status >= 500 or (status in _INDEX and not any_accepted):
            retry.append(number)
        else:
            error = item.get("error")
            reason = error.get("reason") or error.get("type") if isinstance(error, dict) else error
            refused.append((number, f"status {status}: {reason}"))
    return SendResult(refused, retry)
