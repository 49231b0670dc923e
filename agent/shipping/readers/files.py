"""Reads log files by glob, through rotation by rename, by create and by copytruncate.

The position has each file with its offset and a digest of the content before it. The digest distinguishes another file with
the same inode, and identifies a copy.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.paths import Paths
from agent.settings.models import LogFile
from agent.shipping import Batch
from agent.shipping.readers.file_set import FileSet
from agent.shipping.readers.file_wait import DirectoryWatch
from agent.shipping.shutdown import Stop

_RESCAN_SECONDS = 5.0
_ENTRY_BYTES = 300
_KEY_BYTES = 32
_ID_BYTES = 16


class FilesReader:
    """All log files of the settings as one stream. The lines of one file keep their order."""

    def __init__(
        self,
        files: Sequence[str | LogFile],
        paths: Paths,
        *,
        position: Mapping[str, Any] | None = None,
        since_us: int | None = None,
        line_max: int = 100_000,
        wants_ids: bool = False,
        ending: Callable[[], bool] = lambda: False,
    ) -> None:
        """Read `files` from `position`, or else from their beginning, except files last written before `since_us`.

        `ending` returns whether a last line without its end is to be read now, because the shipper ends.
        """
        self._logs = [LogFile(path=file) if isinstance(file, str) else file for file in files]
        self._paths = paths
        self._since_us = since_us
        self._wants_ids = wants_ids
        self._ending = ending
        self._hostname = socket.gethostname().encode()
        self._files = FileSet(self._logs, paths, line_max, position or {})
        self._key = _key_of(position or {})
        self._scanned = float("-inf")
        self._watch: DirectoryWatch | None = None

    def read(self, max_entries: int, max_bytes: int) -> Batch:
        """Return the next lines. If ids are wanted, the first batch is empty and its position has their key."""
        if self._wants_ids and not self._key:
            # Saved before the first line is sent: otherwise a repeat after a kill would have other ids.
            self._key = secrets.token_bytes(_KEY_BYTES)
            return Batch((), {}, self._position(), full=True)
        self._scan()
        texts: list[bytes] = []
        names: list[bytes] = []
        ids: list[str] = []
        size, full = 0, False
        final = self._ending()
        for tail in self._files.in_order():
            while len(texts) < max_entries and size < max_bytes:
                lines = tail.read(max_entries - len(texts), max_bytes - size, final=final or self._files.done(tail))
                texts += lines.texts
                names += [self._paths.shown(tail.path).encode()] * len(lines.texts)
                size += sum(map(len, lines.texts)) + _ENTRY_BYTES * len(lines.texts)
                if self._wants_ids:
                    name = tail.name.encode()
                    ids += [self._id(name, at, text) for at, text in zip(lines.offsets, lines.texts, strict=True)]
                if not lines.more:
                    break
            else:
                full = True
                self._files.postpone(tail)
                break
        lost, skipped = self._files.take_counts()
        now = time.time_ns() // 1000
        columns = {"MESSAGE": texts, "FILE": names, "_HOSTNAME": [self._hostname] * len(texts)} if texts else {}
        return Batch([now] * len(texts), columns, self._position(), ids, full=full, lost=lost, skipped=skipped)

    def wait(self, timeout_seconds: float, stop: Stop) -> None:
        """Return when a file has changed since the last read, at the stop, or after the time-out."""
        if self._watch is None:
            self._watch = DirectoryWatch()
        held = any(tail.unread > 0 for tail in self._files.tails)
        longest = min([_RESCAN_SECONDS, timeout_seconds, *(log.pause for log in self._logs if held and log.start)])
        self._watch.wait(self._directories(), longest, stop, lambda: any(tail.grown for tail in self._files.tails))
        self._scanned = float("-inf")

    def close(self) -> None:
        self._files.close()
        if self._watch is not None:
            self._watch.close()

    def _position(self) -> dict[str, Any]:
        return self._files.state() | ({"key": self._key.hex()} if self._key else {})

    def _id(self, name: bytes, offset: int, text: bytes) -> str:
        """Return a keyed digest: without a key, a short secret could be guessed from the id of its line in an index."""
        return hashlib.blake2b(b"%b:%d:%b" % (name, offset, text), key=self._key, digest_size=_ID_BYTES).hexdigest()

    def _directories(self) -> set[Path]:
        directories = {tail.path.parent for tail in self._files.tails}
        for log_file in self._logs:
            parent = self._paths.host(log_file.path).parent
            while any(c in str(parent) for c in "*?["):
                parent = parent.parent
            directories.add(parent)
        return {directory for directory in directories if directory.is_dir()}

    def _scan(self) -> None:
        if time.monotonic() - self._scanned >= _RESCAN_SECONDS:
            self._scanned = time.monotonic()
            self._files.scan(self._since_us)


def _key_of(position: Mapping[str, Any]) -> bytes:
    """Return the key of ids; empty if an earlier version wrote the position, or if it is damaged. A new key is created then."""
    try:
        key = bytes.fromhex(position["key"])
    except (KeyError, TypeError, ValueError):
        return b""
    return key if len(key) == _KEY_BYTES and type(position.get("births")) is int else b""
