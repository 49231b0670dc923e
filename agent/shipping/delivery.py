"""Delivers one batch to one sink, until every entry is acknowledged or set aside. Keeps the order of the entries.

| answer of the sink     | what happens                                                                              |
|------------------------|-------------------------------------------------------------------------------------------|
| accepted               | done                                                                                      |
| accepted in part       | refused entries are set aside; entries to retry are sent again after a back-off           |
| too large              | the batch is halved; a single entry is set aside                                          |
| refused                | the batch is halved until the refused entry is alone; it is set aside                     |
| unavailable, throttled | the batch is sent again after a back-off, or after Retry-After, without a limit of tries  |
| denied                 | likewise: entries wait until an operator corrects the token or the settings               |
| any other exception    | a bug: the batch is halved, and the entry or the sink is to blame (see `_Suspects`)       |
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from pathlib import Path

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable
from agent.net.backoff import Backoff
from agent.shipping import Batch, OpenSink, SendResult, SinkTooLarge
from agent.shipping.dead_letter import DeadLetters
from agent.shipping.shutdown import Stop
from agent.shipping.status_file import PipelineStatus

log = logging.getLogger("parbake")

FIRST_WAIT_SECONDS = 0.5
LONGEST_WAIT_SECONDS = 30.0
JITTER_LOW = 0.25
RETRY_AFTER_MAX_SECONDS = 3600.0
URGENT_WAIT_SECONDS = 2.0
"""The longest wait while draining, and after a notice of termination: a spot instance has two minutes."""
URGENT_RETRY_AFTER_MAX_SECONDS = 10.0
"""The longest Retry-After that is respected then."""
ALONE_MAX = 16
"""Once this many entries of a batch are refused alone and none is accepted, the batch is divided into this many parts only."""
SUSPECTS_MAX = 8
"""After this many single entries in a row on which the sink fails, another entry shows whether the sink works at all."""


class DeliveryAborted(Exception):
    """The time for draining is over: the batch stays in its reader's stream, for the next start."""


class SinkBug(Exception):
    """The sink raised an exception that is not part of its contract. `error` is that exception.

    Its text may quote an entry and is never shown.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class Delivery:
    """Delivers batches in order. Lives as long as the process: a pipeline that restarts goes on with the same delivery."""

    def __init__(
        self,
        sink: OpenSink,
        letters: DeadLetters,
        status: PipelineStatus,
        stop: Stop,
        *,
        patience_seconds: float = float("inf"),
    ) -> None:
        """Deliver to `sink` and wait for it up to `patience_seconds` for each part of a batch."""
        self._sink = sink
        self._letters = letters
        self._status = status
        self._stop = stop
        self._patience_seconds = patience_seconds
        self._known_good: Batch | None = None
        """The entry that the sink accepted last."""

    def deliver(self, batch: Batch) -> None:
        """Return when no entry of `batch` is left.

        Raises DeliveryAborted if the deadline of the stop or the patience is over, and the exception of the sink if the
        sink fails whatever the entry.
        """
        parts, accepted, alone = [batch], 0, 0
        coarse = max(1, len(batch) // ALONE_MAX)
        backoff = _new_backoff()
        suspects: list[tuple[Batch, Exception]] = []
        while parts:
            part = parts.pop()
            try:
                result = self._send(part)
            except SinkBug as bug:
                if len(part) > 1:
                    parts += _halves(part)
                    continue
                suspects.append((part, bug.error))
                if len(suspects) >= SUSPECTS_MAX or not parts:
                    self._probe(suspects, parts)
                    self._clear(suspects)
                continue
            except SinkRefused as error:
                self._clear(suspects)
                fine = accepted or alone < ALONE_MAX or isinstance(error, SinkTooLarge)
                if len(part) > (1 if fine else coarse):
                    parts += _halves(part)
                else:
                    alone += 1
                    self._set_aside(part, [(i, str(error)) for i in range(len(part))])
                continue
            self._clear(suspects)
            accepted += self._record(part, result)
            if result.retry:
                parts.append(part.pick(result.retry))
                self._pause(_delay(backoff, result.retry_after_seconds), result.retry_after_seconds)

    def _send(self, batch: Batch) -> SendResult:
        """Send until the sink answers for the batch. Raises SinkRefused, SinkBug or DeliveryAborted."""
        backoff, waited = _new_backoff(), 0.0
        while True:
            try:
                result = _checked(self._sink.send(batch), len(batch))
            except (SinkUnavailable, SinkDenied) as error:
                self._status.set_failing(error)
                retry_after = getattr(error, "retry_after_seconds", None)
            except (SinkRefused, BrokenPipeError):
                raise
            except Exception as error:  # noqa: BLE001 - a third party's sink may raise anything
                if self._stop.expired:  # sinks are closed then while pipelines still use them
                    raise DeliveryAborted from None
                raise SinkBug(error) from None
            else:
                if len(result.retry) < len(batch):
                    self._status.set_recovered()
                    return result
                self._status.set_failing(SinkUnavailable("the sink accepts no entry at the moment"))
                retry_after = result.retry_after_seconds
            seconds = _delay(backoff, retry_after)
            waited += seconds
            if waited > self._patience_seconds:
                raise DeliveryAborted
            self._pause(seconds, retry_after)

    def _record(self, part: Batch, result: SendResult) -> int:
        """Count the answer and set refused entries aside. Return how many entries are accepted."""
        self._set_aside(part, result.refused)
        if result.dropped:
            self._status.add_lost(result.dropped, f"the sink dropped them: {result.reason}")
        accepted = max(0, len(part) - len(result.retry) - len(result.refused) - result.dropped)
        self._status.add_sent(accepted)
        if accepted == len(part):
            self._known_good = part.pick((len(part) - 1,))
        return accepted

    def _probe(self, suspects: Sequence[tuple[Batch, Exception]], parts: Sequence[Batch]) -> None:
        """Return if the sink works with another entry than the suspects, which are to blame then.

        That entry is one that the sink has accepted before, or the last entry of `parts`, which are still to be sent; it
        arrives twice. Raises the exception of the newest suspect if the sink fails on that entry too, or if there is no
        such entry.
        """
        probe = self._known_good
        if probe is None and parts:
            probe = parts[0].pick((len(parts[0]) - 1,))
        error = suspects[-1][1]
        if probe is None:
            raise error
        try:
            self._send(probe)
        except SinkBug:
            raise error from None
        except SinkRefused:
            pass  # the sink works

    def _clear(self, suspects: list[tuple[Batch, Exception]]) -> None:
        """Set the suspects aside: the sink has answered for another entry."""
        for entry, error in suspects:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            name = type(error).__name__
            trace = "".join(traceback.format_tb(error.__traceback__))  # without the text of the exception
            log.debug("sink %s: %s while sending one entry, which is set aside\n%s", self._status.sink, name, trace)
            reason = f"the sink fails on it: {name} in {Path(frame.filename).name}, line {frame.lineno}"
            self._set_aside(entry, [(0, reason)])
        suspects.clear()

    def _pause(self, seconds: float, retry_after_seconds: float | None) -> None:
        if not self._stop.expired:
            urgent = max(URGENT_WAIT_SECONDS, min(retry_after_seconds or 0.0, URGENT_RETRY_AFTER_MAX_SECONDS))
            self._stop.wait(seconds, urgent_seconds=urgent)
        if self._stop.expired:
            raise DeliveryAborted

    def _set_aside(self, batch: Batch, refused: Sequence[tuple[int, str]]) -> None:
        if not refused:
            return
        try:
            self._letters.add(batch, refused)
        except OSError as error:
            self._status.add_lost(len(refused), f"refused, and could not be set aside: {error.strerror}")
            return
        self._status.add_set_aside(len(refused), refused[0][1])


def _new_backoff() -> Backoff:
    return Backoff(FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS, low=JITTER_LOW)


def _delay(backoff: Backoff, retry_after_seconds: float | None) -> float:
    """Return the next delay in seconds. It is not below the sink's own Retry-After, of which an hour is respected."""
    return max(backoff.next_seconds(), min(retry_after_seconds or 0.0, RETRY_AFTER_MAX_SECONDS))


def _halves(batch: Batch) -> tuple[Batch, Batch]:
    """Return the second and the first half, in the order of a stack."""
    middle = len(batch) // 2
    return batch.pick(range(middle, len(batch))), batch.pick(range(middle))


def _checked(result: SendResult, entries: int) -> SendResult:
    """Return the answer to a batch of `entries`. Raises TypeError or ValueError if it breaks the contract."""
    if not isinstance(result, SendResult):
        raise TypeError("send() must return a SendResult")
    if result.retry or result.refused:
        indices = [*result.retry, *(index for index, _ in result.refused)]
        if len(set(indices)) < len(indices) or not 0 <= min(indices) <= max(indices) < entries:
            raise ValueError("a SendResult names entries twice, or entries that the batch does not have")
    return result
