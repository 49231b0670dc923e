"""Journal cursors, taken apart: whether two name one entry, and how many entries were between two."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cursor:
    """The parts of "s=..;i=..;b=..;m=..;t=..;x=.." (sd_journal_get_cursor(3)): the file family and the number in it, the
    boot and the monotonic time, the realtime, and a hash of the entry."""

    family: str
    number: int
    boot: str
    monotonic: str
    realtime_us: int
    digest: str

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """None where `text` is no cursor, such as what a full disk left of one."""
        parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
        try:
            return cls(parts["s"], int(parts["i"], 16), parts["b"], parts["m"], int(parts["t"], 16), parts["x"])
        except (KeyError, ValueError):
            return None

    def same_entry(self, other: Cursor) -> bool:
        """Also true for an entry that journald has copied from /run to /var, where it has another number."""
        if (self.family, self.number) == (other.family, other.number):
            return True
        return (self.boot, self.monotonic, self.digest) == (other.boot, other.monotonic, other.digest)

    def missing_before(self, later: Cursor) -> int | None:
        """How many entries are gone between this one, which is gone too, and `later`; None where it cannot be told."""
        if self.same_entry(later):
            return 0
        if self.family == later.family:
            return max(0, later.number - self.number - 1)
        return None
