"""One open log file, read from an offset. Neither a rename nor a removal ends the reading."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.shipping import OVERLAP_BYTES

_IDENTITY_BYTES = 256
CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines, or entries of several lines, and the offset of each. `more`: whether there may be more now."""

    texts: list[bytes]
    offsets: list[int]
    more: bool


def identity(descriptor: int, offset: int) -> str:
    """Return a digest of the first and the last bytes before `offset`. It differs for another file with the same inode."""
    if not offset:
        return ""
    head = os.pread(descriptor, min(_IDENTITY_BYTES, offset), 0)
    start = max(0, offset - _IDENTITY_BYTES)
    return hashlib.sha256(head + b"\0" + os.pread(descriptor, offset - start, start)).hexdigest()[:32]


class Tail:
    """Reads whole lines.

    `path`: the path of the log, which the file has or had before a rotation moved it.
    `key`: device and inode.
    `name`: a permanent name, which a copy of the file shares. It changes after a truncation, and differs for another file
    with the same inode.
    `offset`: the end of the last line that was returned.
    `seen`: the end of the file at the last read.
    `looked_ns`: the modification time at the last look, in nanoseconds since 1970.
    `rotated`: whether a rotation has moved the file.
    """

    def __init__(self, path: Path, descriptor: int, line_max: int, start: str = "", pause_seconds: float = 1.0) -> None:
        self.path, self._descriptor = path, descriptor
        status = os.fstat(descriptor)
        self.key = (status.st_dev, status.st_ino)
        self.name = ""
        self.offset = 0
        self.seen = 0
        self.rotated = False
        self._identity = ""
        self._skipping = False
        self._limit = line_max + OVERLAP_BYTES
        self._start = re.compile(start.encode()) if start else None
        self._pause_seconds = pause_seconds
        self._size, self._grew = status.st_size, time.monotonic()
        self.looked_ns = status.st_mtime_ns

    @classmethod
    def open(cls, location: Path, path: Path, line_max: int, start: str = "", pause_seconds: float = 1.0) -> Tail | None:
        """Open the file at `location`. None if it is not a regular file. Raises OSError."""
        descriptor = os.open(location, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return cls(path, descriptor, line_max, start, pause_seconds)

    def close(self) -> None:
        os.close(self._descriptor)

    def resume(self, state: Mapping[str, Any]) -> bool:
        """Continue where the saved `state` ended. False, without any change, if it is the state of another file."""
        offset, digest = state["offset"], state["identity"]
        if os.fstat(self._descriptor).st_size < offset or identity(self._descriptor, offset) != digest:
            return False
        self.offset, self._identity, self._skipping = offset, digest, bool(state.get("skipping"))
        self.seen = offset + max(0, state["unread"])
        self.name = name if isinstance(name := state.get("name"), str) else ""
        self.looked_ns = state["modified_ns"]
        return True

    def state(self) -> dict[str, Any]:
        """Return what `resume` needs, as JSON."""
        status = os.fstat(self._descriptor)
        self.looked_ns = status.st_mtime_ns
        return {
            "path": str(self.path),
            "name": self.name,
            "device": self.key[0],
            "inode": self.key[1],
            "offset": self.offset,
            "identity": self._identity,
            "skipping": self._skipping,
            "unread": status.st_size - self.offset,
            "modified_ns": status.st_mtime_ns,
        }

    @property
    def unread(self) -> int:
        return os.fstat(self._descriptor).st_size - self.offset

    @property
    def modified_ns(self) -> int:
        return os.fstat(self._descriptor).st_mtime_ns

    @property
    def changed_ns(self) -> int:
        """When the file was last written, renamed or removed, in nanoseconds since 1970."""
        return os.fstat(self._descriptor).st_ctime_ns

    @property
    def grown(self) -> bool:
        """Whether the size of the file has changed since the last read."""
        return os.fstat(self._descriptor).st_size != self.seen

    @property
    def removed(self) -> bool:
        """Whether the file has no path any more."""
        return os.fstat(self._descriptor).st_nlink == 0

    @property
    def idle_seconds(self) -> float:
        """The time since a call of this property first saw the present size."""
        size = os.fstat(self._descriptor).st_size
        if size != self._size:
            self._size, self._grew = size, time.monotonic()
        return time.monotonic() - self._grew

    def truncated(self) -> bool:
        """Return whether the content before `offset` has changed, by copytruncate or by another write in place."""
        if not self.offset:
            return os.fstat(self._descriptor).st_size < self.seen
        return self.unread < 0 or identity(self._descriptor, self.offset) != self._identity

    def restart(self) -> None:
        """Read from the beginning, after a truncation."""
        self.offset, self.seen, self._identity, self._skipping = 0, 0, "", False

    def read(self, max_lines: int, max_bytes: int, *, final: bool) -> Lines:
        """Return the next whole lines, and with `final` also a last line without its end."""
        chunk_bytes = max(min(max_bytes, CHUNK_BYTES), self._limit)
        content = os.pread(self._descriptor, chunk_bytes, self.offset)
        at_end = len(content) < chunk_bytes
        self.seen = self.offset + len(content)
        if self._skipping:
            content = self._skip(content)
        end = content.rfind(b"\n") + 1
        if not end and len(content) >= self._limit:
            self._skipping = True  # memory never holds the rest of a line without an end
            return self._advance([content], len(content), more=True)
        if final and at_end:
            end = len(content)
        texts = content[:end].removesuffix(b"\n").split(b"\n") if end else []
        if self._start is not None:
            texts = self._join(texts, at_end=at_end, final=final)
        more = not at_end or len(texts) > max_lines
        del texts[max_lines:]
        return self._advance(texts, min(end, sum(map(len, texts)) + len(texts)), more=more)

    def _skip(self, content: bytes) -> bytes:
        """Skip the rest of a line whose beginning was returned."""
        end = content.find(b"\n") + 1
        self.offset += end or len(content)
        self._skipping = not end
        self._identity = identity(self._descriptor, self.offset)
        return content[end:] if end else b""

    def _join(self, lines: list[bytes], *, at_end: bool, final: bool) -> list[bytes]:
        """Join lines to entries that begin with a match of `start`. The last entry is held back while it may continue."""
        assert self._start is not None
        entries: list[list[bytes]] = []
        size = 0
        for line in lines:
            if not entries or self._start.search(line) or size > self._limit:
                entries.append([])
                size = 0
            entries[-1].append(line)
            size += len(line) + 1
        paused = final or self.idle_seconds >= self._pause_seconds
        # The last entry may continue in the next chunk. An entry that fills a chunk is not held back.
        hold = not paused if at_end else len(entries) > 1
        if hold and entries and size <= self._limit:
            entries.pop()
        return [b"\n".join(entry) for entry in entries]

    def _advance(self, texts: list[bytes], length: int, *, more: bool) -> Lines:
        offsets, at = [], self.offset
        for text in texts:
            offsets.append(at)
            at += len(text) + 1
        if length:
            self.offset += length
            self._identity = identity(self._descriptor, self.offset)
        return Lines([text.removesuffix(b"\r") for text in texts], offsets, more)
