"""A sink whose options name facts: made once they are known, so that one that waits for a fact keeps no other waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from agent.errors import DiscoveryError, SinkDenied, SinkUnavailable
from agent.settings import interpolation
from agent.shipping import Batch, SendResult, Sink, SinkContext


class LazySink:
    """Stands for a sink of `kind`. `spaces` gives what is known now; with another value the sink is made anew."""

    options_class: ClassVar[type[Any]] = object
    wants_ids: ClassVar[bool] = False
    """The kind's own says it."""

    def __init__(
        self, kind: Any, options: Any, context: SinkContext, spaces: Callable[[], Mapping[str, Mapping[str, Any]]]
    ) -> None:
        self._kind, self._options, self._context, self._spaces = kind, options, context, spaces
        self._filled: Any = None
        self._sink: Sink | None = None

    def send(self, batch: Batch) -> SendResult:
        """As the sink's. Raises SinkUnavailable while a fact is not known, SinkDenied while one does not fit."""
        return self._now().send(batch)

    def _now(self) -> Sink:
        try:
            filled = interpolation.fill_options(self._options, self._spaces())
        except DiscoveryError as error:
            if self._sink is not None:
                return self._sink
            raise SinkUnavailable(f"[[sink]] {self._context.name} waits: {error}", hint=error.hint) from None
        except ValueError as error:
            raise self._misfit(error) from None
        if self._sink is None or filled != self._filled:
            self.close()
            try:
                made: Sink = self._kind(filled, self._context)
            except ValueError as error:
                raise self._misfit(error) from None
            self._sink, self._filled = made, filled
        return self._sink

    def _misfit(self, error: ValueError) -> SinkDenied:
        """Options that were good with their placeholders in them, and are not with what came in their place."""
        name = self._context.name
        return SinkDenied(f"[[sink]] {name}: {error}", hint="see `parbake facts`: a fact in its options does not fit there")

    def close(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.close()
