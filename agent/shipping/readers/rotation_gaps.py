"""What rotations tell of lines that nobody read: generations that were compressed or removed before anybody looked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.shipping.readers import rotation
from agent.shipping.readers.rotation import Key, Sibling
from agent.shipping.readers.tail import Tail

_COARSE_NS = 1_000_000_000
"""Some compressors put back the whole seconds of a time only."""
_SIZE_BYTES = 4


class RotationGaps:
    """Counts each compressed generation once. `ours` says whether what a compressed file was is one of the log's own."""

    def __init__(self, ours: Callable[[Path, Path], bool]) -> None:
        self._ours = ours
        self._told: set[Key] = set()

    def after_last(self, path: Path, last: Tail | None, since_ns: int, oldest: Sibling | None) -> int:
        """How many losses there were at least between the file of `path` that was read last, at `since_ns`, and `oldest`,
        the first one that was found after it. `last` is None where it was missed by a start."""
        if last is not None and not last.removed:
            return 0
        packed = self._packed(path)
        newer = self._uncounted(packed, since_ns)
        if any(0 <= since_ns - found.modified_ns < _COARSE_NS for found in packed):
            return len(newer)  # it is there, compressed, and what came after it as well
        if newer:
            # a compressor that does not put back the time may have made one of them of a file that is still open here
            return len(newer) - (last is not None)
        return int(oldest is not None and not (last and rotation.follows(oldest, path, last.changed_ns)))

    def in_copies(self, path: Path, since_ns: int, offset: int) -> int:
        """How many losses there were at least in compressed copies of a log, read up to `offset`, that was truncated."""
        newer = self._uncounted(self._packed(path), since_ns)
        if not newer:
            return 0
        size = _unpacked_size(newer[0].path)
        return len(newer) - 1 + (size is not None and size > offset % (1 << 32))

    def _packed(self, path: Path) -> list[Sibling]:
        return [found for found in rotation.packed(path) if self._ours(rotation.unpacked(found.path), path)]

    def _uncounted(self, packed: list[Sibling], since_ns: int) -> list[Sibling]:
        newer = [found for found in packed if found.modified_ns > since_ns and found.key not in self._told]
        self._told |= {found.key for found in newer}
        return newer


def _unpacked_size(path: Path) -> int | None:
    """How long the content of a .gz file is, modulo 4 GiB (RFC 1952); None of others."""
    if path.suffix != ".gz":
        return None
    try:
        with path.open("rb") as file:
            file.seek(-_SIZE_BYTES, 2)
            return int.from_bytes(file.read(_SIZE_BYTES), "little")
    except OSError:
        return None
