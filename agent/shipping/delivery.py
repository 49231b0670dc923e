"""Delivers one batch to one sink, until every entry is acknowledged or set aside. Keeps the order of the entries.

| answer of the sink     | result                                                                                    |
|------------------------|-------------------------------------------------------------------------------------------|
| accepted               | done                                                                                      |
| accepted in part       | refused entries are set aside; entries to retry are sent again after a back-off           |
| too large              | the batch is halved; a single entry is set aside                                          |
| refused                | the batch is halved until the refused entry is alone; it is set aside                     |
| unavailable, throttled | the batch is sent again after a back-off, or after Retry-After, without a limit of tries  |
| denied                 | likewise: entries wait until an operator corrects the token or the settings               |
| any other exception    | the batch is halved; an entry on which the sink fails twice, while it works with another |
|                        | one, is set aside; if it works with no other entry, the exception ends the pipeline      |
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
"""The longest Retry-After that is respected in these cases."""
ALONE_MAX = 16
"""Once this many entries of a batch are refused alone and none is accepted, the batch is divided into this many parts only."""
SUSPECTS_MAX = 8
"""After this many single entries in a row on which the sink fails, another entry shows whether the sink works at all."""


class DeliveryAborted(Exception):
    """The time for draining, or the patience, is over: the batch is read again after the next start."""


class SinkBug(Exception):
    """The sink raised an exception that is not part of its contract. `error` is that exception.

    Its text may quote an entry and is never shown.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(type(error).__name__)
        self.error = error


class Delivery:
    """Delivers batches in order. There is one for the whole run: a pipeline that restarts continues with the same one."""

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
        self._answered: Batch | None = None
        """An entry for which the sink has answered."""

    def deliver(self, batch: Batch) -> None:
        """Return when no entry of `batch` is left.

        Raises DeliveryAborted if the deadline of the stop or the patience is over, and the exception of the sink if the
        sink fails on every entry.
        """
        parts, accepted, alone = [batch], 0, 0
        coarse = max(1, len(batch) // ALONE_MAX)
        backoff = _new_backoff()
        suspects: list[Batch] = []
        failures_in_a_row = 0
        while parts:
            part = parts.pop()
            try:
                result = self._send(part)
            except SinkBug as bug:
                if len(part) > 1:
                    parts += _halves(part)
                    continue
                suspects.append(part)
                failures_in_a_row += 1
                if failures_in_a_row >= SUSPECTS_MAX:
                    self._probe(bug.error, parts)
                    failures_in_a_row = 0
                continue
            except SinkRefused as error:
                failures_in_a_row = 0
                isolate = accepted or alone < ALONE_MAX or isinstance(error, SinkTooLarge)
                if len(part) > (1 if isolate else coarse):
                    parts += _halves(part)
                else:
                    alone += 1
                    self._set_aside(part, [(i, str(error)) for i in range(len(part))])
                continue
            failures_in_a_row = 0
            accepted += self._record(part, result)
            if result.retry:
                parts.append(part.pick(result.retry))
                self._pause(_delay(backoff, result.retry_after_seconds), result.retry_after_seconds)
        if suspects:
            self._send_again(suspects)

    def _send(self, batch: Batch) -> SendResult:
        """Send until the sink answers for the batch. Raises SinkRefused, SinkBug or DeliveryAborted."""
        backoff, waited = _new_backoff(), 0.0
        while True:
            try:
                result = _checked(self._sink.send(batch), len(batch))
            except (SinkUnavailable, SinkDenied) as error:
                self._status.set_failing(error)
                retry_after = getattr(error, "retry_after_seconds", None)
            except (SinkRefused, BrokenPipeError, MemoryError):
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
        """Count the answer and set refused entries aside. Return the number of accepted entries."""
        self._set_aside(part, result.refused)
        if result.dropped:
            self._status.add_lost(result.dropped, f"the sink dropped them: {result.reason}")
        accepted = max(0, len(part) - len(result.retry) - len(result.refused) - result.dropped)
        self._status.add_sent(accepted)
        if accepted and not result.dropped:
            others = {*result.retry, *(index for index, _ in result.refused)}
            self._answered = part.pick((next(i for i in reversed(range(len(part))) if i not in others),))
        return accepted

    def _probe(self, error: Exception, parts: Sequence[Batch]) -> None:
        """Return if the sink works with another entry than those on which it has just failed with `error`.

        That entry is one for which the sink has answered before, else one of a few of `parts`, which are still to be sent; it
        arrives twice. Raises `error` if the sink fails on these too, or if there is no other entry.
        """
        for entry in [self._answered] if self._answered is not None else _samples(parts):
            try:
                self._send(entry)
            except SinkBug:
                continue
            except SinkRefused:
                pass  # the sink works
            self._answered = entry
            return
        raise error

    def _send_again(self, suspects: Sequence[Batch]) -> None:
        """Send each entry on which the sink has failed once more, after a pause, and set aside those on which it fails again.

        The failure may have been a passing one, such as a thread that could not be started. Raises the exception of the sink
        if it does not work with another entry either.
        """
        self._pause(FIRST_WAIT_SECONDS, None)
        failed: list[tuple[Batch, Exception]] = []
        for entry in suspects:
            try:
                self._record(entry, self._send(entry))
            except SinkBug as bug:
                failed.append((entry, bug.error))
                if len(failed) % SUSPECTS_MAX == 1:
                    self._probe(bug.error, ())
            except SinkRefused as refusal:
                self._set_aside(entry, [(0, str(refusal))])
        for entry, error in failed:
            self._set_bug_aside(entry, error)

    def _set_bug_aside(self, entry: Batch, error: Exception) -> None:
        """Set an entry aside on which the sink raises `error`, whose text may quote the entry and is not shown."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        name = type(error).__name__
        trace = "".join(traceback.format_tb(error.__traceback__))
        log.debug("sink %s: %s while sending one entry, which is set aside\n%s", self._status.sink, name, trace)
        reason = f"the sink fails on it: {name} in {Path(frame.filename).name}, line {frame.lineno}"
        self._set_aside(entry, [(0, reason)])

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
    """Return the next delay in seconds, at least the sink's Retry-After, of which at most an hour is respected."""
    return max(backoff.next_seconds(), min(retry_after_seconds or 0.0, RETRY_AFTER_MAX_SECONDS))


def _samples(parts: Sequence[Batch]) -> list[Batch]:
    """Return a few entries from different places of the parts."""
    if not parts:
        return []
    oldest, newest = parts[-1], parts[0]
    picks = [(newest, len(newest) - 1), (newest, len(newest) // 2), (oldest, 0), (oldest, len(oldest) // 2)]
    return [part.pick((index,)) for part, index in picks]


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
