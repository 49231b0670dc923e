"""`cloudwatch`: Amazon CloudWatch Logs.

Source: docs.aws.amazon.com, PutLogEvents: at most 1 MiB with 26 bytes an event, 10,000 events, 24 hours between the
first and the last, in order of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SinkDenied
from agent.schema import setting
from agent.shipping import Batch, Outcome, SinkContext
from agent.shipping.encode import JsonFields
from agent.shipping.sinks.aws import AwsOptions, client, translated

_BYTES_MAX = 1_048_576
_EVENTS_MAX = 10_000
_EVENT_BYTES = 26
_EVENT_MAX = 256 * 1024 - _EVENT_BYTES
_SPAN_MS = 24 * 3600 * 1000 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudwatchOptions(AwsOptions):
    log_group: str = setting("the log group")
    log_stream: str = setting("the log stream; one instance a stream", "{{ facts.instance_id }}")
    create: bool = setting("make the group and the stream where they do not exist", True)


class CloudwatchSink:
    options_class: ClassVar[type[Any]] = CloudwatchOptions
    wants_ids: ClassVar[bool] = False

    def __init__(self, options: CloudwatchOptions, context: SinkContext) -> None:
        self._options = options
        self._client: Any = None
        self._json = JsonFields()

    def send(self, batch: Batch) -> Outcome:
        if self._client is None:
            self._client = client("logs", self._options)
        refused: list[tuple[int, str]] = []
        events = [(moment // 1000, line) for moment, line in zip(batch.times, self._json.objects(batch), strict=True)]
        order = sorted(range(len(events)), key=lambda i: events[i][0])
        fitting = [i for i in order if len(events[i][1].encode()) <= _EVENT_MAX]
        refused += [(i, "larger than an event may be") for i in order if i not in set(fitting)]
        for part in _parts(fitting, events):
            refused += self._put(part, [{"timestamp": events[i][0], "message": events[i][1]} for i in part])
        return Outcome(refused)

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def _put(self, part: list[int], events: list[dict[str, Any]]) -> list[tuple[int, str]]:
        options = self._options
        what = f"CloudWatch Logs, {options.log_group}"
        for attempt in (1, 2):
            with translated(what):
                try:
                    reply = self._client.put_log_events(
                        logGroupName=options.log_group, logStreamName=options.log_stream, logEvents=events
                    )
                    return _rejected(part, reply.get("rejectedLogEventsInfo") or {})
                except self._client.exceptions.ResourceNotFoundException:
                    if attempt == 2 or not options.create:
                        hint = "make them, or set create = true"
                        raise SinkDenied(f"{what}: the group or the stream does not exist", hint=hint) from None
                    self._create()
        return []

    def _create(self) -> None:
        exists = self._client.exceptions.ResourceAlreadyExistsException
        group, stream = self._options.log_group, self._options.log_stream
        for make, names in (
            (self._client.create_log_group, {"logGroupName": group}),
            (self._client.create_log_stream, {"logGroupName": group, "logStreamName": stream}),
        ):
            try:
                make(**names)
            except exists:
                continue


def _parts(order: list[int], events: list[tuple[int, str]]) -> Iterator[list[int]]:
    part: list[int] = []
    size = 0
    for i in order:
        weight = len(events[i][1].encode()) + _EVENT_BYTES
        late = bool(part) and events[i][0] - events[part[0]][0] > _SPAN_MS
        if part and (late or size + weight > _BYTES_MAX or len(part) == _EVENTS_MAX):
            yield part
            part, size = [], 0
        part.append(i)
        size += weight
    if part:
        yield part


def _rejected(part: list[int], told: dict[str, int]) -> list[tuple[int, str]]:
    """The events that CloudWatch says it left out; the others are stored."""
    old = max(told.get("tooOldLogEventEndIndex", 0), told.get("expiredLogEventEndIndex", 0))
    new = told.get("tooNewLogEventStartIndex", len(part))
    return [(i, "too old for the group") for i in part[:old]] + [(i, "too far in the future") for i in part[new:]]
