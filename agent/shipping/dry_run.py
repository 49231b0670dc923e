"""`parbake ship --dry-run`: what would be sent, printed instead."""

from __future__ import annotations

from dataclasses import replace
from typing import IO, Any, ClassVar

from agent.shipping import ACCEPTED, Batch, SendResult
from agent.shipping.json_lines import JsonFields


class DryRun:
    """In the place of a sink: prints the entries as they would leave, masked and labelled, one JSON object a line."""

    options_class: ClassVar[type[Any]] = object
    wants_ids: ClassVar[bool] = False

    def __init__(self, sink: str, out: IO[str]) -> None:
        self._sink, self._out = sink, out
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        told = replace(batch, labels={**batch.labels, "sink": self._sink})
        self._out.write(self._json.ndjson(told))
        return ACCEPTED

    def close(self) -> None:
        self._out.flush()
