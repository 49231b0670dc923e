"""One batch to one sink, until every entry of it is acknowledged or set aside. Order is kept.

| the sink says              | what happens                                                                     |
|----------------------------|----------------------------------------------------------------------------------|
| taken                      | done                                                                             |
| partly taken               | the refused entries are set aside, those to repeat are sent again a moment later |
| too large                  | halved; a single entry is set aside                                              |
| refused                    | halved, until the refused entry stands alone and is set aside                    |
| unavailable, throttled     | the same again after a back-off, or after Retry-After, for as long as it takes   |
| denied                     | the same: a token is put right while the entries wait                            |
| nothing: it stumbles       | as refused: one entry that a sink cannot put into words must not stop all others |
"""

from __future__ import annotations

import logging
import random
import traceback
from collections.abc import Sequence
from pathlib import Path

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable
from agent.shipping import Batch, SendResult, Sink, SinkTooLarge
from agent.shipping.dead_letter import DeadLetters
from agent.shipping.shutdown import Stop
from agent.shipping.status_file import Progress

log = logging.getLogger("parbake")

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
URGENT_WAIT_SECONDS = 2.0
URGENT_RETRY_AFTER_SECONDS = 10.0
"""The most once the instance is to go, or the shipper to stop: without an answer, and of what a sink asks for. A spot
instance has two minutes."""
ALONE_MAX = 16
"""After so many entries refused alone and none taken, the batch is asked apart no further than into as many parts."""


class DeliveryAborted(Exception):
    """The time for draining is over: the batch stays in its reader's stream, for the next start."""


class Delivery:
    """Delivers batches in order."""

    def __init__(
        self, sink: Sink, letters: DeadLetters, progress: Progress, stop: Stop, *, patience_seconds: float = float("inf")
    ) -> None:
        self._sink = sink
        self._letters = letters
        self._progress = progress
        self._stop = stop
        self._patience_seconds = patience_seconds

    def deliver(self, batch: Batch) -> None:
        """Return when nothing of `batch` is left. Raises GaveUp where the stop's deadline, or patience, is over."""
        waiting, taken, alone, rounds = [batch], 0, 0, 0
        coarse = max(1, len(batch) // ALONE_MAX)
        while waiting:
            part = waiting.pop()
            try:
                outcome = self._send(part)
            except SinkRefused as error:
                fine = taken or alone < ALONE_MAX or isinstance(error, SinkTooLarge)
                if len(part) > (1 if fine else coarse):
                    middle = len(part) // 2
                    waiting += [part.pick(range(middle, len(part))), part.pick(range(middle))]
                else:
                    alone += 1
                    self._set_aside(part, [(i, str(error)) for i in range(len(part))])
                continue
            self._set_aside(part, outcome.refused)
            left = len(outcome.again)
            done = max(0, len(part) - left - len(outcome.refused) - outcome.dropped)
            if outcome.dropped:
                self._progress.lost(outcome.dropped, f"the sink dropped them: {outcome.why}")
            taken += done
            self._progress.sent(done)
            if left:
                waiting.append(part.pick(outcome.again))
                self._pause(self._back_off(rounds, outcome.retry_after_seconds), outcome.retry_after_seconds)
                rounds += 1

    def _send(self, batch: Batch) -> SendResult:
        """Send until the sink answers for the batch. Raises SinkRefused for what it will not take."""
        attempt, waited = 0, 0.0
        while True:
            try:
                outcome = self._sink.send(batch)
            except (SinkUnavailable, SinkDenied) as error:
                self._progress.failing(error)
                after = getattr(error, "retry_after_seconds", None)
            except ValueError as error:
                if self._stop.over:  # then sinks are closed under those who still use them
                    raise DeliveryAborted from None
                place = traceback.extract_tb(error.__traceback__)[-1]
                raise SinkRefused(
                    f"parbake stumbles over it: {type(error).__name__} in {Path(place.filename).name}, line {place.lineno}"
                ) from None
            else:
                if len(outcome.again) < len(batch):
                    self._progress.recovered()
                    return outcome
                self._progress.failing(SinkUnavailable("the sink takes none of the entries at the moment"))
                after = outcome.retry_after_seconds
            seconds = self._back_off(attempt, after)
            waited += seconds
            if waited > self._patience_seconds:
                raise DeliveryAborted
            self._pause(seconds, after)
            attempt += 1

    def _pause(self, seconds: float, after_seconds: float | None) -> None:
        if not self._stop.over:
            urgent = max(URGENT_WAIT_SECONDS, min(after_seconds or 0.0, URGENT_RETRY_AFTER_SECONDS))
            self._stop.wait(seconds, urgent_seconds=urgent)
        if self._stop.over:
            raise DeliveryAborted

    def _back_off(self, attempt: int, after_seconds: float | None) -> float:
        """Exponential with full jitter, and never before the sink's own Retry-After, of which an hour is believed."""
        ceiling = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** min(attempt, 10))
        jitter = random.uniform(ceiling / 4, ceiling)  # noqa: S311 - spreads load, guards nothing
        return max(jitter, min(after_seconds or 0.0, 3600.0))

    def _set_aside(self, batch: Batch, refused: Sequence[tuple[int, str]]) -> None:
        if not refused:
            return
        try:
            self._letters.add(batch, refused)
        except OSError as error:
            self._progress.lost(len(refused), f"refused, and could not be set aside: {error.strerror}")
            return
        self._progress.set_aside(len(refused), refused[0][1])
