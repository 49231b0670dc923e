"""One reader's way to one sink: read, clean, deliver, move the checkpoint. Each lane is a thread and delays only itself."""

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
from agent.shipping.status_file import Progress

log = logging.getLogger("parbake")
_IDLE_SECONDS = 60.0
_LINGER_SECONDS = 0.3
"""At a stop, how long to wait for lines that services said last and journald has not written yet."""

_URGENT_AGE_SECONDS = 0.1
"""In place of batch_age once the instance is to go: long enough for what is written in one breath to go together."""


@dataclass(frozen=True, slots=True)
class Lane:
    """`turn` is held while a batch is read and cleaned: libsystemd's calls give up Python's lock for a microsecond each,
    and a second busy lane would take five milliseconds to give it back."""

    reader: Reader
    delivery: Delivery
    checkpoint: Checkpoint | None
    progress: Progress
    settings: SinkSettings
    clean: Callable[[Batch], Batch]
    labels: Callable[[], Mapping[str, str]]
    turn: threading.Lock
    stop: Stop
    once: bool = False

    def run(self) -> bool:
        """Ship until the stop, or once until the end of what is there. False where something had to stay behind."""
        lingered = False
        try:
            while True:
                read = self._step()
                if read.full or (len(read) and self._ending):
                    continue
                self.progress.caught_up()
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

    def _step(self) -> Batch:
        """Ship one batch. What was read of it is returned."""
        if self.stop.over:
            raise DeliveryAborted
        with self.turn:
            read = self.reader.read(self.settings.batch_entries, self.settings.batch_bytes)
            batch = self.clean(with_loss(read)) if len(read) or read.lost else read
        if read.skipped:
            self.progress.skipped(read.skipped)
        if read.lost:
            self.progress.lost(read.lost, "vacuumed, rotated away or truncated before they were shipped")
        if len(batch):
            self.progress.pending(batch.times[0])
            self.delivery.deliver(replace(batch, labels=self.labels()))
        self._save(read)
        return read

    def _save(self, read: Batch) -> None:
        if self.checkpoint is None:
            return
        try:
            self.checkpoint.save(read.position)
        except StateError as error:
            # Shipping goes on: the lines that tell why the disk is full are wanted elsewhere.
            log.error("%s; after a restart entries would be sent again", error)


def with_loss(batch: Batch) -> Batch:
    """Lost entries leave an entry of their own, so that whoever reads the logs elsewhere knows of the hole."""
    if not batch.lost:
        return batch
    now = time.time_ns() // 1000
    text = f"parbake: {batch.lost} entries were gone before they were shipped"
    told = {
        "MESSAGE": text.encode(),
        "PRIORITY": PRIORITY_OF_LOSS,
        "SYSLOG_IDENTIFIER": b"parbake-ship",
        "PARBAKE_LOST": str(batch.lost).encode(),
    }
    names = {*batch.columns, *told}
    columns = {name: [told.get(name), *batch.columns.get(name, [None] * len(batch))] for name in names}
    times = [batch.times[0] if len(batch) else now, *batch.times]
    # A batch of this entry alone has no ids to tell by whether they are wanted; one that is not is looked at by no sink.
    ids = [_loss_id(batch), *batch.ids] if len(batch.ids) == len(batch) else ()
    return replace(batch, times=times, columns=columns, ids=ids)


def _loss_id(batch: Batch) -> str:
    """Short however many files there are, and telling nothing of the position, which holds the key to the files' ids."""
    told = json.dumps([batch.position, batch.lost], sort_keys=True)
    return f"lost-{hashlib.sha256(told.encode()).hexdigest()[:32]}"
