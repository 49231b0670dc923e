"""Counts generations of a log that were compressed or removed before they could be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.shipping.readers import rotation
from agent.shipping.readers.rotation import Key, Sibling
from agent.shipping.readers.tail import Tail

_COARSE_NS = 1_000_000_000
"""Some compressors restore only the whole seconds of a modification time."""
_SIZE_BYTES = 4


class RotationGaps:
    """Counts each compressed generation once.

    `belongs(older, path)` returns whether the file that was compressed is a generation of the log `path`.
    """

    def __init__(self, belongs: Callable[[Path, Path], bool]) -> None:
        self._belongs = belongs
        self._counted: set[Key] = set()

    def after_last(self, path: Path, last: Tail | None, since_ns: int, oldest: Sibling | None) -> int:
        """Return the least number of generations that were lost after the file of `path` that was read last.

        `last` is that file, None if a start did not find it. It was last written at `since_ns`. `oldest` is the first
        generation that was found after it.
        """
        if last is not None and not last.removed:
            return 0
        packed = self._packed(path)
        newer = self._uncounted(packed, since_ns)
        if any(0 <= since_ns - sibling.modified_ns < _COARSE_NS for sibling in packed):
            return len(newer)  # the last file exists, compressed, and so do its successors
        if newer:
            # A compressor that does not restore the time may have made one of them from a file that is still open here.
            return len(newer) - (last is not None)
        return int(oldest is not None and not (last and rotation.follows(oldest, path, last.changed_ns)))

    def in_copies(self, path: Path, since_ns: int, offset: int) -> int:
        """Return the least number of losses in compressed copies of a truncated log that had been read up to `offset`."""
        newer = self._uncounted(self._packed(path), since_ns)
        if not newer:
            return 0
        size = _unpacked_size(newer[0].path)
        return len(newer) - 1 + (size is not None and size > offset % (1 << 32))

    def _packed(self, path: Path) -> list[Sibling]:
        return [sibling for sibling in rotation.packed(path) if self._belongs(rotation.unpacked(sibling.path), path)]

    def _uncounted(self, packed: list[Sibling], since_ns: int) -> list[Sibling]:
        """Return the generations after `since_ns` that are not counted yet, and mark them as counted."""
        newer = [sibling for sibling in packed if sibling.modified_ns > since_ns and sibling.key not in self._counted]
        self._counted |= {sibling.key for sibling in newer}
        return newer


def _unpacked_size(path: Path) -> int | None:
    """Return the size of the content of a .gz file, modulo 4 GiB (RFC 1952). None for other files."""
    if path.suffix != ".gz":
        return None
    try:
        with path.open("rb") as file:
            file.seek(-_SIZE_BYTES, 2)
            return int.from_bytes(file.read(_SIZE_BYTES), "little")
    except OSError:
        return None
