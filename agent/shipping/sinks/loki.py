"""`loki`: Loki's push API in JSON, with few stream labels and all other fields as structured metadata.

Source: grafana.com/docs/loki, "Loki HTTP API", POST /loki/api/v1/push. Loki answers 400 for a batch with one bad line and
stores the good lines all the same. The halves that are sent again are no duplicates: Loki keeps one of two equal lines.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.settings.schema import setting
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields, label_members
from agent.shipping.sinks.http_base import Poster, WebOptions

_PATH = "/loki/api/v1/push"
_NAMES = {"_SYSTEMD_UNIT": "unit", "FILE": "filename", "_HOSTNAME": "hostname"}
_LABELS_MAX = 15
"""Loki's default limit of stream labels. Further labels become structured metadata."""
_EMPTY = '""'


@dataclass(frozen=True, slots=True, kw_only=True)
class LokiOptions(WebOptions):
    tenant: str = setting("the tenant, sent as X-Scope-OrgID", "")
    stream_fields: tuple[str, ...] = setting(
        "the fields that become stream labels, in addition to `labels`; each combination of values is a stream",
        ("_SYSTEMD_UNIT", "FILE"),
    )


class LokiSink:
    """Posts each batch as one push request."""

    options_class = LokiOptions
    wants_ids = False

    def __init__(self, options: LokiOptions, context: SinkContext) -> None:
        self._options = options
        self._url = options.url.rstrip("/")
        self._url += "" if self._url.endswith(_PATH) else _PATH
        self._poster = Poster(options, context)
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        headers = {"X-Scope-OrgID": self._options.tenant} if self._options.tenant else {}
        self._poster.post(self._body(batch).encode(), "application/json", url=self._url, headers=headers)
        return ACCEPTED

    def close(self) -> None:
        self._poster.close()

    def _body(self, batch: Batch) -> str:
        stream_fields = [name for name in self._options.stream_fields if name in batch.columns][:_LABELS_MAX]
        labels = {_label_name(name): value for name, value in batch.labels.items()}
        kept = dict(list(labels.items())[: _LABELS_MAX - len(stream_fields)])
        more_labels = label_members({name: value for name, value in labels.items() if name not in kept})
        bodies = self._json.bodies(batch, skip=frozenset(("MESSAGE", *stream_fields, *labels)))
        if more_labels:
            bodies = [f"{body[:-1]}{more_labels}}}" if len(body) > 2 else f"{{{more_labels[1:]}}}" for body in bodies]
        lines = self._json.literals(batch.columns.get("MESSAGE", [None] * len(batch)))
        keys: Iterable[Any] = [()] * len(batch)
        if stream_fields:
            keys = zip(*(batch.columns[name] for name in stream_fields), strict=True)
        streams: dict[Any, list[str]] = {}
        for key, moment, line, more in zip(keys, batch.times, lines, bodies, strict=True):
            streams.setdefault(key, []).append(f'["{moment}000",{line or _EMPTY},{more}]')
        rendered = [
            f'{{"stream":{_stream_labels(kept, stream_fields, key)},"values":[{",".join(values)}]}}'
            for key, values in streams.items()
        ]
        return f'{{"streams":[{",".join(rendered)}]}}'


def _stream_labels(labels: Mapping[str, str], names: list[str], values: tuple[bytes | None, ...]) -> str:
    stream = dict(labels)
    for name, value in zip(names, values, strict=True):
        if value is not None:
            stream[_NAMES.get(name, _label_name(name.lower().lstrip("_")))] = value.decode("utf-8", "replace")
    return json.dumps(stream or {"job": "parbake"})


def _label_name(name: str) -> str:
    """Return the name with the characters that Loki allows."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", name)
    return name if re.match(r"[A-Za-z_]", name) else f"_{name}"
