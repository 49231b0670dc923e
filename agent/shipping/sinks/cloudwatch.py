"""`cloudwatch`: Amazon CloudWatch Logs.

Source: docs.aws.amazon.com, PutLogEvents: events in order of time, at most 10,000, at most 24 hours between the first and
the last, and at most 1 MiB, for which each event counts 26 bytes more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from agent.errors import SinkDenied, SinkUnavailable
from agent.settings.schema import setting
from agent.shipping import Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields
from agent.shipping.sinks.aws_base import Aws, AwsOptions

_BYTES_MAX = 1_048_576
_EVENTS_MAX = 10_000
_EVENT_BYTES = 26
_EVENT_MAX = _BYTES_MAX - _EVENT_BYTES
_SPAN_MS = 24 * 3600 * 1000 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudwatchOptions(AwsOptions):
    log_group: str = setting("the log group")
    log_stream: str = setting("the log stream; one instance a stream", "{{ facts.instance_id }}")
    create: bool = setting("create the group and the stream if they do not exist", True)


class CloudwatchSink:
    """Puts each batch, divided as the API requires."""

    options_class = CloudwatchOptions
    wants_ids = False

    def __init__(self, options: CloudwatchOptions, context: SinkContext) -> None:
        self._options = options
        # A fact may bring in characters with which every event would be refused.
        self._group = re.sub(r"[^A-Za-z0-9_./#-]", "_", options.log_group)[:512]
        self._stream = re.sub(r"[:*]", "_", options.log_stream)[:512]
        self._aws = Aws("logs", options, context)
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        events = [(moment // 1000, line) for moment, line in zip(batch.times, self._json.objects(batch), strict=True)]
        sizes = [len(line.encode()) for _, line in events]
        order = sorted(range(len(events)), key=lambda i: events[i][0])
        refused = [(i, f"{sizes[i]} bytes are more than an event may have") for i in order if sizes[i] > _EVENT_MAX]
        answered: set[int] = {i for i, _ in refused}
        for part in _parts([i for i in order if sizes[i] <= _EVENT_MAX], events, sizes):
            try:
                refused += self._put(part, [{"timestamp": events[i][0], "message": events[i][1]} for i in part])
            except (SinkUnavailable, SinkDenied):
                if not answered:
                    raise
                return SendResult(refused, [i for i in range(len(batch)) if i not in answered])
            answered.update(part)
        return SendResult(refused)

    def close(self) -> None:
        self._aws.close()

    def _put(self, part: list[int], events: list[dict[str, Any]]) -> list[tuple[int, str]]:
        """Put the events of the entries `part`. Return the entries that CloudWatch rejected, with reasons."""
        description = f"CloudWatch Logs, {self._group}"
        with self._aws.calls(description) as client:
            for attempt in (1, 2):
                try:
                    reply = client.put_log_events(logGroupName=self._group, logStreamName=self._stream, logEvents=events)
                    return _rejected(part, reply.get("rejectedLogEventsInfo") or {})
                except client.exceptions.ResourceNotFoundException:
                    if attempt == 2 or not self._options.create:
                        hint = "create them, or set create = true"
                        raise SinkDenied(f"{description}: the group or the stream does not exist", hint=hint) from None
                    self._create(client)
        return []

    def _create(self, client: Any) -> None:
        for create, names in (
            (client.create_log_group, {"logGroupName": self._group}),
            (client.create_log_stream, {"logGroupName": self._group, "logStreamName": self._stream}),
        ):
            with suppress(client.exceptions.ResourceAlreadyExistsException):
                create(**names)


def _parts(order: list[int], events: list[tuple[int, str]], sizes: list[int]) -> Iterator[list[int]]:
    """Divide the entries `order` into lists that one request may carry."""
    part: list[int] = []
    size = 0
    for i in order:
        weight = sizes[i] + _EVENT_BYTES
        late = bool(part) and events[i][0] - events[part[0]][0] > _SPAN_MS
        if part and (late or size + weight > _BYTES_MAX or len(part) == _EVENTS_MAX):
            yield part
            part, size = [], 0
        part.append(i)
        size += weight
    if part:
        yield part


def _rejected(part: list[int], answer: dict[str, int]) -> list[tuple[int, str]]:
    """Return the entries that CloudWatch rejected, with reasons; the others are stored."""
    old = max(answer.get("tooOldLogEventEndIndex", 0), answer.get("expiredLogEventEndIndex", 0))
    new = answer.get("tooNewLogEventStartIndex", len(part))
    return [(i, "too old for the group") for i in part[:old]] + [(i, "too far in the future") for i in part[new:]]
