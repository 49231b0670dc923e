"""A sink whose options have placeholders: opened when the facts are known, so that it does not delay other sinks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic

from agent.errors import DiscoveryError, SinkDenied, SinkUnavailable
from agent.settings import interpolation
from agent.shipping import Batch, OpenSink, Options, SendResult, Sink, SinkContext


class LazySink(Generic[Options]):
    """Opens a sink of class `kind` at the first batch, and again when a fact in its options changes.

    `values` returns the current values of placeholders: {"facts": {...}, "build": {...}}.
    """

    def __init__(
        self,
        kind: type[Sink[Options]],
        options: Options,
        context: SinkContext,
        values: Callable[[], Mapping[str, Mapping[str, Any]]],
    ) -> None:
        self._kind, self._options, self._context, self._values = kind, options, context, values
        self._filled: Options | None = None
        self._sink: OpenSink | None = None

    def send(self, batch: Batch) -> SendResult:
        """Send as the sink does. Raises SinkUnavailable while a fact is unknown, SinkDenied while a fact is invalid there."""
        return self._current().send(batch)

    def _current(self) -> OpenSink:
        try:
            filled = interpolation.fill_options(self._options, self._values())
        except DiscoveryError as error:
            if self._sink is not None:
                return self._sink
            raise SinkUnavailable(f"[[sink]] {self._context.name} waits: {error}", hint=error.hint) from None
        except ValueError as error:
            raise self._invalid_fact(error) from None
        if self._sink is None or filled != self._filled:
            self.close()
            try:
                self._sink = self._kind(filled, self._context)
            except ValueError as error:
                raise self._invalid_fact(error) from None
            self._filled = filled
        return self._sink

    def _invalid_fact(self, error: ValueError) -> SinkDenied:
        """Return the error for options that were valid with their placeholders and are invalid with the values."""
        name = self._context.name
        return SinkDenied(f"[[sink]] {name}: {error}", hint="a fact makes its options invalid; see `parbake facts`")

    def close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()
