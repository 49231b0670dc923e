"""`parbake ship --dry-run`: prints what would be sent."""

from __future__ import annotations

from dataclasses import replace
from typing import IO

from agent.shipping import ACCEPTED, Batch, SendResult
from agent.shipping.json_lines import JsonFields


class DryRun:
    """Replaces a sink. Prints the entries, masked and labelled, one JSON object a line, with the sink's name in `sink`."""

    def __init__(self, sink_name: str, out: IO[str]) -> None:
        self._sink_name, self._out = sink_name, out
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        self._out.write(self._json.ndjson(replace(batch, labels={**batch.labels, "sink": self._sink_name})))
        return ACCEPTED

    def close(self) -> None:
        self._out.flush()
