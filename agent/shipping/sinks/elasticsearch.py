"""`elasticsearch`: the bulk API of Elasticsearch and OpenSearch.

Source: elastic.co/guide, "Bulk API". Each entry is created under an id of its own, so that one that is sent again is a
conflict (409) and no duplicate. The answer is 200 even where items failed: each item's status decides.
"""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from agent.errors import SinkUnavailable
from agent.settings.schema import setting
from agent.shipping import Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields, label_members, literal, timestamps
from agent.shipping.sinks.http_base import Poster, WebOptions, parsed

_TAKEN = frozenset((200, 201, 409))
_BUSY = frozenset((408, 429))
_INDEX = frozenset((401, 403, 404))
"""Item statuses of an index that is read-only, missing or not permitted: for all of a batch that is put right while the
entries wait. Where others of it were taken, it is this entry that asks for an index of its own, by a wrong clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElasticsearchOptions(WebOptions):
    index: str = setting(
        'the index or data stream; "%Y.%m.%d" and the like are filled from the entry\'s time', "parbake-%Y.%m.%d"
    )
    auth_scheme: Literal["ApiKey", "Bearer"] = setting("what token_file holds", "ApiKey")
    pipeline: str = setting("an ingest pipeline", "")

    def __post_init__(self) -> None:
        WebOptions.__post_init__(self)
        if "\0" in self.index:
            raise ValueError("index holds a NUL")


class ElasticsearchSink:
    options_class: ClassVar[type[Any]] = ElasticsearchOptions
    wants_ids: ClassVar[bool] = True

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
            return _outcome(items, len(batch)) if items is not None else SendResult()
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration, OverflowError, RecursionError):
            raise SinkUnavailable(f"{reply.url} answers with something that is no bulk reply") from None

    def close(self) -> None:
        self._poster.close()

    def _body(self, batch: Batch) -> str:
        pipeline = f',"pipeline":{literal(self._pipeline)}' if self._pipeline else ""
        labels = label_members(batch.labels)
        parts = []
        fields = self._json.bodies(batch, skip=frozenset(batch.labels))  # the same name twice would be refused
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
    """A name that an index can have, whatever a fact puts into it: every entry would be refused for a capital letter. One
    without a time may be an alias, whose letters are free."""
    text = re.sub(r'[\s\\/*?"<>|,#:]', "_", text)
    if "%" not in text:
        return text
    return re.sub(r"(%.)|([^%]+)", lambda found: found[1] or found[2].lower(), text)


def _outcome(items: list[dict[str, Any]], expected: int) -> SendResult:
    if len(items) != expected:
        raise ValueError("an answer for each item is missing")
    again, refused = [], []
    statuses = [int(item["status"]) for item in items]
    taken = any(status in _TAKEN for status in statuses)
    for number, (status, item) in enumerate(zip(statuses, items, strict=True)):
        if status in _TAKEN:
            continue
        if status in _BUSY or status >= 500 or (status in _INDEX and not taken):
            again.append(number)
        else:
            error = item.get("error")
            reason = error.get("reason") or error.get("type") if isinstance(error, dict) else error
            refused.append((number, f"status {status}: {reason}"))
    return SendResult(refused, again)
