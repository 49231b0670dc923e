"""One log file, read on from an offset by descriptor: a rename does not lose it, and neither does its removal."""

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
    """Whole lines (or entries of several), and the offsets where each begins."""

    texts: list[bytes]
    offsets: list[int]
    more: bool


def identity(descriptor: int, offset: int) -> str:
    """What is before `offset`, in short: its first and last bytes. Tells a file from another one with its inode."""
    if not offset:
        return ""
    head = os.pread(descriptor, min(_IDENTITY_BYTES, offset), 0)
    start = max(0, offset - _IDENTITY_BYTES)
    return hashlib.sha256(head + b"\0" + os.pread(descriptor, offset - start, start)).hexdigest()[:32]


class Tail:
    """`offset` is after the last line that was given out, `seen` the end of what was seen of the file, `path` where the file
    stands or stood before a rotation moved it. `name` is the file's for ever, and a copy's of it; another one's with its
    inode, or what is written in place after a truncation, has another."""

    def __init__(self, path: Path, descriptor: int, line_max: int, start: str = "", pause_seconds: float = 1.0) -> None:
        self.path, self._descriptor = path, descriptor
        found = os.fstat(descriptor)
        self.key = (found.st_dev, found.st_ino)
        self.name = ""
        self.offset = 0
        self.seen = 0
        self.rotated = False
        self._identity = ""
        self._skipping = False
        self._limit = line_max + OVERLAP_BYTES
        self._start = re.compile(start.encode()) if start else None
        self._pause_seconds = pause_seconds
        self._size, self._grew = found.st_size, time.monotonic()
        self.looked_ns = found.st_mtime_ns
        """When what was last looked at had been written."""

    @classmethod
    def open(cls, place: Path, path: Path, line_max: int, start: str = "", pause_seconds: float = 1.0) -> Tail | None:
        """The file that is at `place` now; None for what is no regular file. Raises OSError."""
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return cls(path, descriptor, line_max, start, pause_seconds)

    def close(self) -> None:
        os.close(self._descriptor)

    def resume(self, state: Mapping[str, Any]) -> bool:
        """Read on where `state` ended, if this is the file that it speaks of."""
        offset, known = state["offset"], state["identity"]
        if os.fstat(self._descriptor).st_size < offset or identity(self._descriptor, offset) != known:
            return False
        self.offset, self._identity, self._skipping = offset, known, bool(state.get("skipping"))
        self.seen = offset + max(0, state["unread"])
        self.name = name if isinstance(name := state.get("name"), str) else ""
        self.looked_ns = state["modified_ns"]
        return True

    def state(self) -> dict[str, Any]:
        found = os.fstat(self._descriptor)
        self.looked_ns = found.st_mtime_ns
        return {
            "path": str(self.path),
            "name": self.name,
            "device": self.key[0],
            "inode": self.key[1],
            "offset": self.offset,
            "identity": self._identity,
            "skipping": self._skipping,
            "unread": found.st_size - self.offset,
            "modified_ns": found.st_mtime_ns,
        }

    @property
    def unread(self) -> int:
        return os.fstat(self._descriptor).st_size - self.offset

    @property
    def modified_ns(self) -> int:
        return os.fstat(self._descriptor).st_mtime_ns

    @property
    def changed_ns(self) -> int:
        """When the file was written, renamed or removed."""
        return os.fstat(self._descriptor).st_ctime_ns

    @property
    def grown(self) -> bool:
        """Whether the file does not end where the last look saw its end."""
        return os.fstat(self._descriptor).st_size != self.seen

    @property
    def removed(self) -> bool:
        """Whether the file has no name any more."""
        return os.fstat(self._descriptor).st_nlink == 0

    @property
    def idle_seconds(self) -> float:
        """How long the file has not grown, as far as was looked."""
        size = os.fstat(self._descriptor).st_size
        if size != self._size:
            self._size, self._grew = size, time.monotonic()
        return time.monotonic() - self._grew

    def truncated(self) -> bool:
        """Whether the file is no longer the one that was read so far (copytruncate, or written anew in place)."""
        if not self.offset:
            return os.fstat(self._descriptor).st_size < self.seen
        return self.unread < 0 or identity(self._descriptor, self.offset) != self._identity

    def restart(self) -> None:
        """Read from the beginning: it was truncated."""
        self.offset, self.seen, self._identity, self._skipping = 0, 0, "", False

    def read(self, max_lines: int, max_bytes: int, *, final: bool) -> Lines:
        """What follows, whole lines only; with `final` also one that is not ended. More may follow where `more`."""
        wanted = max(min(max_bytes, CHUNK_BYTES), self._limit)
        content = os.pread(self._descriptor, wanted, self.offset)
        at_end = len(content) < wanted
        self.seen = self.offset + len(content)
        if self._skipping:
            content = self._skip(content)
        end = content.rfind(b"\n") + 1
        if not end and len(content) >= self._limit:
            self._skipping = True  # the rest of a line without an end is never held in memory
            return self._give([content], len(content), more=True)
        if final and at_end:
            end = len(content)
        texts = content[:end].removesuffix(b"\n").split(b"\n") if end else []
        if self._start is not None:
            texts = self._join(texts, at_end=at_end, final=final)
        more = not at_end or len(texts) > max_lines
        del texts[max_lines:]
        return self._give(texts, min(end, sum(map(len, texts)) + len(texts)), more=more)

    def _skip(self, content: bytes) -> bytes:
        """Leave out the rest of a line whose beginning was given out."""
        end = content.find(b"\n") + 1
        self.offset += end or len(content)
        self._skipping = not end
        self._identity = identity(self._descriptor, self.offset)
        return content[end:] if end else b""

    def _join(self, lines: list[bytes], *, at_end: bool, final: bool) -> list[bytes]:
        """Lines as entries that begin where `start` matches. The last one is held back while it may go on."""
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
        # the next chunk may go on with the last entry; one that fills a chunk goes as it is
        hold = not paused if at_end else len(entries) > 1
        if hold and entries and size <= self._limit:
            entries.pop()
        return [b"\n".join(entry) for entry in entries]

    def _give(self, texts: list[bytes], length: int, *, more: bool) -> Lines:
        offsets, at = [], self.offset
        for text in texts:
            offsets.append(at)
            at += len(text) + 1
        if length:
            self.offset += length
            self._identity = identity(self._descriptor, self.offset)
        return Lines([text.removesuffix(b"\r") for text in texts], offsets, more)
