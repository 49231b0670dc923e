"""Where a sink is with a reader: one small file, moved after the sink's acknowledgement only.

It has two places for a record, written in turns: one that a crash left half written is known by its checksum, and the
other one holds. So a record is written over an old one, which costs a tenth of a new file's way onto the disk, and a
disk that is full takes it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import StateError
from agent.system.safe_files import write_atomic

log = logging.getLogger("parbake")
_BLOCK_BYTES = 4096
"""No write touches both records' sectors."""


class Checkpoint:
    """`DIRECTORY/SINK.READER.json`."""

    def __init__(self, directory: Path, sink: str, reader: str) -> None:
        self._path = directory / f"{sink}.{reader}.json"
        self._saved: Mapping[str, Any] | None = None
        self._turn = 0
        self._place_bytes = 0

    def load(self) -> Mapping[str, Any] | None:
        """The position; None where there is none yet, and where the file is damaged, which is logged: shipping goes on
        from the oldest entry. Raises StateError where it may not be read."""
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{self._path} cannot be read: {error.strerror}", hint="it belongs to parbake-ship") from None
        half = len(content) // 2
        records = [found for place in (content[:half], content[half:]) if (found := _parsed(place)) is not None]
        if not records:
            log.warning("the checkpoint %s is damaged; shipping starts again from the oldest entry", self._path.name)
            return None
        self._turn, self._saved = max(records, key=lambda record: record[0])
        self._place_bytes = half
        return self._saved

    def save(self, position: Mapping[str, Any]) -> None:
        """Durable before it returns. Raises StateError."""
        if not position or position == self._saved:
            return
        turn = self._turn + 1
        record = _record(turn, position)
        try:
            if len(record) > self._place_bytes or not self._overwrite(record, turn):
                self._create(record, turn)
        except OSError as error:
            raise StateError(f"{self._path} cannot be written: {error.strerror}", hint="is the disk full?") from None
        self._saved, self._turn = position, turn

    def _overwrite(self, record: bytes, turn: int) -> bool:
        """False where the file is not there any more, or another, or a link."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            return False
        try:
            if os.fstat(descriptor).st_size != 2 * self._place_bytes:
                return False
            written = os.pwrite(descriptor, record.ljust(self._place_bytes), turn % 2 * self._place_bytes)
            if written < self._place_bytes:
                raise OSError(errno.EIO, "only a part of it was written")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return True

    def _create(self, record: bytes, turn: int) -> None:
        """A file with room for this record and another, whole or not at all."""
        place_bytes = -(-len(record) // _BLOCK_BYTES) * _BLOCK_BYTES
        slots = (record, b"") if turn % 2 == 0 else (b"", record)
        content = b"".join(place.ljust(place_bytes) for place in slots)
        write_atomic(self._path, content, 0o600, on_created=functools.partial(give_to_owner, directory=self._path.parent))
        self._place_bytes = place_bytes


def _record(turn: int, position: Mapping[str, Any]) -> bytes:
    """A line: its checksum, and what it says in JSON."""
    text = json.dumps({"schema": 1, "turn": turn, "position": position}).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _parsed(place: bytes) -> tuple[int, Mapping[str, Any]] | None:
    """The turn and the position; None where no whole record is in its place."""
    checksum, _, text = place.partition(b"\n")[0].partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        document = json.loads(text)
        turn, position = document["turn"], document["position"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (turn, position) if isinstance(turn, int) and isinstance(position, dict) else None


def give_to_owner(descriptor: int, directory: Path) -> None:
    """A file that root has made by hand must not shut the service out."""
    if os.geteuid() == 0:
        owner = directory.stat()
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
