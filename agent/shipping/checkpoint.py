"""The position of a sink in a reader's stream: one small file, written only after the sink has acknowledged.

The file has two slots, written in turn. A checksum reveals a slot that a crash left half written; the other slot is then
valid. Overwriting the older record costs a tenth of creating a file, and works on a full disk.
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
"""Slots begin at multiples of this, so that no write touches the sectors of both."""


class Checkpoint:
    """The checkpoint file `DIRECTORY/SINK.READER.json`."""

    def __init__(self, directory: Path, sink: str, reader: str) -> None:
        self._path = directory / f"{sink}.{reader}.json"
        self._saved: Mapping[str, Any] | None = None
        self._turn = 0
        self._slot_bytes = 0

    def load(self) -> Mapping[str, Any] | None:
        """Return the position. None if there is no file, or if it is damaged, which is logged.

        Raises StateError if the file cannot be read.
        """
        try:
            content = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(
                f"{self._path} cannot be read: {error.strerror}", hint="make parbake-ship its owner, or run as parbake-ship"
            ) from None
        half = len(content) // 2
        records = [record for slot in (content[:half], content[half:]) if (record := _parse_record(slot)) is not None]
        if not records:
            log.warning("the checkpoint %s is damaged; shipping starts again from the oldest entry", self._path.name)
            return None
        self._turn, self._saved = max(records, key=lambda record: record[0])
        self._slot_bytes = half
        return self._saved

    def save(self, position: Mapping[str, Any]) -> None:
        """Write `position` to the disk before returning. Raises StateError."""
        if not position or position == self._saved:
            return
        turn = self._turn + 1
        record = _record(turn, position)
        try:
            if len(record) > self._slot_bytes or not self._overwrite(record, turn):
                self._create(record, turn)
        except OSError as error:
            raise StateError(
                f"{self._path} cannot be written: {error.strerror}",
                hint="see whether the disk is full (`df`), and who owns the directory",
            ) from None
        self._saved, self._turn = position, turn

    def _overwrite(self, record: bytes, turn: int) -> bool:
        """Write one slot. False if the file is gone, is a link, or has another size than expected."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):
                raise
            return False
        try:
            if os.fstat(descriptor).st_size != 2 * self._slot_bytes:
                return False
            written = os.pwrite(descriptor, record.ljust(self._slot_bytes), turn % 2 * self._slot_bytes)
            if written < self._slot_bytes:
                raise OSError(errno.EIO, "only a part of it was written")
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        return True

    def _create(self, record: bytes, turn: int) -> None:
        """Replace the file by one with two slots that are large enough for `record`."""
        slot_bytes = -(-len(record) // _BLOCK_BYTES) * _BLOCK_BYTES
        slots = (record, b"") if turn % 2 == 0 else (b"", record)
        content = b"".join(slot.ljust(slot_bytes) for slot in slots)
        write_atomic(self._path, content, 0o600, on_created=functools.partial(give_to_owner, directory=self._path.parent))
        self._slot_bytes = slot_bytes


def _record(turn: int, position: Mapping[str, Any]) -> bytes:
    """Return one line: the CRC-32 of a JSON text in hex, and the text."""
    text = json.dumps({"schema": 1, "turn": turn, "position": position}).encode()
    return b"%08x %b\n" % (zlib.crc32(text), text)


def _parse_record(slot: bytes) -> tuple[int, Mapping[str, Any]] | None:
    """Return the turn and the position. None if the slot has no complete record."""
    checksum, _, text = slot.partition(b"\n")[0].partition(b" ")
    try:
        if int(checksum, 16) != zlib.crc32(text):
            return None
        document = json.loads(text)
        turn, position = document["turn"], document["position"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return (turn, position) if isinstance(turn, int) and isinstance(position, dict) else None


def give_to_owner(descriptor: int, directory: Path) -> None:
    """Give a file that root has created to the owner of `directory`, so that the service can use it."""
    if os.geteuid() == 0:
        owner = directory.stat()
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)
