"""`stdout`: NDJSON on standard output, for pipes and for people."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SinkUnavailable
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields


@dataclass(frozen=True, slots=True, kw_only=True)
class StdoutOptions:
    pass


class StdoutSink:
    options_class: ClassVar[type[Any]] = StdoutOptions
    wants_ids: ClassVar[bool] = False

    def __init__(self, options: StdoutOptions, context: SinkContext) -> None:
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        try:
            sys.stdout.write(self._json.ndjson(batch))
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # whoever read the pipe has gone and does not come back: the command ends, as others do
        except OSError as error:
            raise SinkUnavailable(f"standard output cannot be written: {error.strerror}") from None
        return ACCEPTED

    def close(self) -> None:
        """Standard output is not ours to close."""
