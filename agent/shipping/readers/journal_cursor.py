"""Journal cursors: whether two name the same entry, and how many entries are between two."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HEX = "([0-9a-f]{1,16})"
_SHAPE = re.compile(f"s=([0-9a-f]{{32}});i={_HEX};b=([0-9a-f]{{32}});m={_HEX};t={_HEX};x={_HEX}")


@dataclass(frozen=True, slots=True)
class Cursor:
    """The parts of "s=..;i=..;b=..;m=..;t=..;x=.." (sd_journal_get_cursor(3)).

    `family`: the files with one sequence of numbers, and `number` in that sequence. `boot`, `monotonic`: the boot and the
    time since. `realtime_us`: microseconds since 1970. `digest`: a hash of the entry.
    """

    family: str
    number: int
    boot: str
    monotonic: str
    realtime_us: int
    digest: str

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """Parse a cursor. None if `text` is not a cursor, such as a part of one after a full disk."""
        match = _SHAPE.fullmatch(text)
        if match is None:
            return None
        family, number, boot, monotonic, realtime, digest = match.groups()
        return cls(family, int(number, 16), boot, monotonic, int(realtime, 16), digest)

    def same_entry(self, other: Cursor) -> bool:
        """Return whether both name one entry, also after journald has copied it from /run to /var under another number."""
        if (self.family, self.number) == (other.family, other.number):
            return True
        return (self.boot, self.monotonic, self.digest) == (other.boot, other.monotonic, other.digest)

    def missing_before(self, later: Cursor) -> int | None:
        """Return how many entries are gone between this one, which is gone too, and `later`. None if it is unknown."""
        if self.same_entry(later):
            return 0
        if self.family == later.family:
            return max(0, later.number - self.number - 1)
        return None
