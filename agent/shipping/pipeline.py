"""The path from one reader to one sink: read, scrub, deliver, save the checkpoint. Each pipeline has its own thread."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from agent.errors import StateError
from agent.settings.models import Sink as SinkSettings
from agent.shipping import PRIORITY_OF_LOSS, Batch, Reader
from agent.shipping.checkpoint import Checkpoint
from agent.shipping.delivery import Delivery, DeliveryAborted
from agent.shipping.shutdown import Stop
from agent.shipping.status_file import PipelineStatus

log = logging.getLogger("parbake")
_IDLE_SECONDS = 60.0
_LINGER_SECONDS = 0.3
"""How long a stop waits for the last lines of services that journald has not written yet."""

_URGENT_AGE_SECONDS = 0.1
"""Replaces batch_age after a notice of termination. Lines written at the same moment still go together."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """One reader, one sink, and what is between them.

    `checkpoint`: None if the checkpoint must not move.
    `scrub`: masks, cuts and drops entries.
    `labels`: returns the current labels.
    `read_lock`: held while a batch is read and scrubbed. libsystemd's calls release Python's lock for a microsecond each,
    and a second busy pipeline would take five milliseconds to give it back.
    `once`: whether to end at the end of the stream.
    """

    reader: Reader
    delivery: Delivery
    checkpoint: Checkpoint | None
    status: PipelineStatus
    settings: SinkSettings
    scrub: Callable[[Batch], Batch]
    labels: Callable[[], Mapping[str, str]]
    read_lock: threading.Lock
    stop: Stop
    once: bool = False

    def run(self) -> bool:
        """Ship until the stop, or with `once` until the end of the stream. Return whether nothing was left behind."""
        lingered = False
        try:
            while True:
                batch = self._ship_batch()
                if batch.full or (len(batch) and self._ending):
                    continue
                self.status.set_caught_up()
                if self._ending:
                    if lingered or self.once:
                        return True
                    lingered = True
                    self.stop.wait(_LINGER_SECONDS)
                    continue
                self.reader.wait(_IDLE_SECONDS, self.stop)
                self.stop.wait(self.settings.batch_age, urgent_seconds=_URGENT_AGE_SECONDS)
        except DeliveryAborted:
            return False
        finally:
            self.reader.close()

    @property
    def _ending(self) -> bool:
        return self.once or self.stop.is_set

    def _ship_batch(self) -> Batch:
        """Ship one batch. Return it as it was read."""
        if self.stop.expired:
            raise DeliveryAborted
        with self.read_lock:
            read = self.reader.read(self.settings.batch_entries, self.settings.batch_bytes)
            batch = self.scrub(with_loss(read)) if len(read) or read.lost else read
        if read.skipped:
            self.status.add_skipped(read.skipped)
        if read.lost:
            self.status.add_lost(read.lost, "vacuumed, rotated away or truncated before they were shipped")
        if len(batch):
            self.status.set_oldest(batch.times[0])
            self.delivery.deliver(replace(batch, labels=self.labels()))
        self._save(read)
        return read

    def _save(self, read: Batch) -> None:
        if self.checkpoint is None:
            return
        try:
            self.checkpoint.save(read.position)
        except StateError as error:
            # Shipping goes on: an operator needs the lines that tell why the disk is full.
            log.error("%s; after a restart entries would be sent again", error)


def with_loss(batch: Batch) -> Batch:
    """Return the batch with an entry about its lost entries in front, so that the gap is visible at the receiver."""
    if not batch.lost:
        return batch
    now = time.time_ns() // 1000
    text = f"parbake: {batch.lost} entries were gone before they were shipped"
    loss = {
        "MESSAGE": text.encode(),
        "PRIORITY": PRIORITY_OF_LOSS,
        "SYSLOG_IDENTIFIER": b"parbake-ship",
        "PARBAKE_LOST": str(batch.lost).encode(),
    }
    names = {*batch.columns, *loss}
    columns = {name: [loss.get(name), *batch.columns.get(name, [None] * len(batch))] for name in names}
    times = [batch.times[0] if len(batch) else now, *batch.times]
    # An empty batch does not show whether the sink wants ids. A sink that wants none ignores them.
    ids = [_loss_id(batch), *batch.ids] if len(batch.ids) == len(batch) else ()
    return replace(batch, times=times, columns=columns, ids=ids)


def _loss_id(batch: Batch) -> str:
    """Return a short digest. The position itself would be too long, and it holds the key of the ids of files."""
    text = json.dumps([batch.position, batch.lost], sort_keys=True)
    return f"lost-{hashlib.sha256(text.encode()).hexdigest()[:32]}"
