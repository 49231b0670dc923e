"""The reader and sink contracts.

A reader reads from a position; a batch goes to a sink; the sink's checkpoint moves when it has acknowledged. The journal
and the files are the queue: nothing is spooled a second time, so that a sink that hangs costs one batch of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, ClassVar, Protocol, overload

from agent.errors import SinkRefused
from agent.paths import Paths
from agent.shipping.shutdown import Stop

__all__ = [
    "Batch",
    "Column",
    "Constant",
    "Reader",
    "SendResult",
    "Sink",
    "SinkContext",
    "SinkTooLarge",
    "daemon_view",
    "feedback_loops",
    "shipper",
    "shutdown",
    "sinks",
    "termination",
]

Column = Sequence[bytes | None]
PRIORITY_OF_LOSS = b"4"
OVERLAP_BYTES = 64 * 1024
"""Read beyond the longest line, so that a secret across the cut is seen whole before the line is cut."""


class SinkTooLarge(SinkRefused):
    """The batch is more than the sink takes at once: it is halved, and a single entry is set aside."""


class Constant(Sequence[bytes | None]):
    """A column of `count` entries that all have the same value, so that each step looks at it once."""

    __slots__ = ("_count", "value")

    def __init__(self, value: bytes | None, count: int) -> None:
        self.value = value
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes | None]:
        return repeat(self.value, self._count)

    @overload
    def __getitem__(self, index: int) -> bytes | None: ...

    @overload
    def __getitem__(self, index: slice) -> Constant: ...

    def __getitem__(self, index: int | slice) -> bytes | Constant | None:
        found = range(self._count)[index]
        return self.value if isinstance(found, int) else Constant(self.value, len(found))


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of one reader, in order, by column: `columns[NAME][i]` is the field NAME of entry i, None where it has none.
    What is the same for all of them is a `Constant`.

    `times` are microseconds since 1970. `ids` name the entries for ever, and are there where the sink wants them.
    `position` is where to read on once all of it is acknowledged. `labels` belong to every entry.
    """

    times: Sequence[int]
    columns: Mapping[str, Column]
    position: Mapping[str, Any] = field(default_factory=dict)
    ids: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    full: bool = False
    lost: int = 0
    skipped: int = 0

    def __len__(self) -> int:
        return len(self.times)

    def pick(self, wanted: Sequence[int]) -> Batch:
        """Some of the entries, in the order of `wanted`."""
        return replace(
            self,
            times=[self.times[i] for i in wanted],
            columns={name: _picked(column, wanted) for name, column in self.columns.items()},
            ids=[self.ids[i] for i in wanted] if self.ids else (),
        )

    def rows(self) -> list[dict[str, str]]:
        """The entries one by one, for sinks that send them one by one."""
        found: list[dict[str, str]] = [{} for _ in self.times]
        for name, column in self.columns.items():
            for row, value in zip(found, column, strict=True):
                if value is not None:
                    row[name] = value.decode("utf-8", "replace")
        return found


def _picked(column: Column, wanted: Sequence[int]) -> Column:
    return Constant(column.value, len(wanted)) if isinstance(column, Constant) else [column[i] for i in wanted]


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of a batch that the sink answered for: entries it will never take, with the reason, and entries to
    send again. All the others are acknowledged. `dropped` were refused by a sink that does not say which, and `why`."""

    refused: Sequence[tuple[int, str]] = ()
    again: Sequence[int] = ()
    dropped: int = 0
    why: str = ""
    retry_after_seconds: float | None = None


ACCEPTED = SendResult()


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink is given besides its options. `mark` is in what it sends where a receiver on this host may log it, so
    that a line that comes back is known."""

    name: str
    paths: Paths
    stop: Stop
    mark: str = ""


class Reader(Protocol):
    """One stream of entries. The constructor does no I/O; it takes the position to read on from."""

    def read(self, max_entries: int, max_bytes: int) -> Batch:
        """What comes next, at once; an empty batch at the end of the stream. `full` where there may be more.

        Never raises for a damaged entry or file: it is skipped and counted in `skipped`.
        """
        ...

    def wait(self, timeout_seconds: float, stop: Stop) -> None:
        """Return when there may be something to read, when `stop` is set, or after the time-out."""
        ...

    def close(self) -> None: ...


class Sink(Protocol):
    """Where batches go. The constructor takes (options, context) and does no I/O.

    `wants_ids`: whether the batches must carry `ids`.
    """

    options_class: ClassVar[type[Any]]
    wants_ids: ClassVar[bool]

    def send(self, batch: Batch) -> SendResult:
        """Return once the receiver has answered for the whole batch.

        Raises SinkUnavailable or SinkDenied (sent again later), SinkTooLarge (halved), SinkRefused (halved, until the
        entry that is refused stands alone and is set aside).
        """
        ...

    def close(self) -> None: ...
