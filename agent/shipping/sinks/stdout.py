"""`stdout`: NDJSON on standard output, for pipes and terminals."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from agent.errors import SinkUnavailable
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields


@dataclass(frozen=True, slots=True, kw_only=True)
class StdoutOptions:
    """No options."""


class StdoutSink:
    """Prints each batch and flushes."""

    options_class = StdoutOptions
    wants_ids = False

    def __init__(self, options: StdoutOptions, context: SinkContext) -> None:
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        try:
            sys.stdout.write(self._json.ndjson(batch))
            sys.stdout.flush()
        except BrokenPipeError:
            raise  # the reader of the pipe has ended for good; the command ends, as other commands do
        except OSError as error:
            raise SinkUnavailable(f"standard output cannot be written: {error.strerror}") from None
        return ACCEPTED

    def close(self) -> None:
        """Do nothing: standard output stays open."""
