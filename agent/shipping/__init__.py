"""The contracts of readers and sinks, and the batch that passes between them.

A reader reads from a position. A batch goes to a sink. The checkpoint of the sink moves when the sink has acknowledged the
batch. The journal and the log files are the queue: nothing is spooled a second time, so that a sink that hangs costs one
batch of memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import repeat
from typing import Any, Protocol, TypeVar, overload

from agent.errors import SinkRefused
from agent.paths import Paths
from agent.shipping.shutdown import Stop

__all__ = [
    "Batch",
    "Column",
    "Constant",
    "OpenSink",
    "Reader",
    "ReaderKind",
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

Options = TypeVar("Options")
"""The settings dataclass of a sink."""
Column = Sequence[bytes | None]
"""One field of each entry of a batch; None for an entry without that field."""
PRIORITY_OF_LOSS = b"4"
OVERLAP_BYTES = 64 * 1024
"""Readers read this much beyond the longest line, so that a secret across the cut is masked before the line is cut."""


class SinkTooLarge(SinkRefused):
    """The batch is larger than the sink accepts. It is halved; a single entry is set aside."""


class ReaderKind(StrEnum):
    """What a reader reads. Part of the name of its checkpoint."""

    JOURNAL = "journal"
    FILES = "files"


class Constant(Sequence[bytes | None]):
    """A column of `count` equal values. Each step of shipping processes the value once."""

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
        selected = range(self._count)[index]
        return self.value if isinstance(selected, int) else Constant(self.value, len(selected))


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries of one reader, in order, by column: `columns[NAME][i]` is the field NAME of entry i.

    A column whose value is the same for all entries is a `Constant`.

    `times`: microseconds since 1970, one per entry.
    `position`: where the reader continues once the whole batch is acknowledged.
    `ids`: a permanent id per entry; empty unless the sink sets `wants_ids`.
    `labels`: fields that every entry carries.
    `full`: whether the stream may have more entries now.
    `lost`: how many entries disappeared before they could be read.
    `skipped`: how many damaged entries or files were skipped.
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

    def pick(self, indices: Sequence[int]) -> Batch:
        """Return a batch of the entries at `indices`, in that order."""
        return replace(
            self,
            times=[self.times[i] for i in indices],
            columns={name: _picked(column, indices) for name, column in self.columns.items()},
            ids=[self.ids[i] for i in indices] if self.ids else (),
        )

    def rows(self) -> list[dict[str, str]]:
        """Return each entry as a mapping of field name to text, for sinks that send entries one by one."""
        rows: list[dict[str, str]] = [{} for _ in self.times]
        for name, column in self.columns.items():
            for row, value in zip(rows, column, strict=True):
                if value is not None:
                    row[name] = value.decode("utf-8", "replace")
        return rows


def _picked(column: Column, indices: Sequence[int]) -> Column:
    return Constant(column.value, len(indices)) if isinstance(column, Constant) else [column[i] for i in indices]


@dataclass(frozen=True, slots=True)
class SendResult:
    """The answer of a sink for each entry of a batch. Entries that no field mentions are acknowledged.

    `refused`: indices of entries that the sink will never accept, each with its reason.
    `retry`: indices of entries to send again, after `retry_after_seconds` if the sink asks for a delay.
    `dropped`: how many entries a sink discarded without naming them, and `reason` why.
    """

    refused: Sequence[tuple[int, str]] = ()
    retry: Sequence[int] = ()
    dropped: int = 0
    reason: str = ""
    retry_after_seconds: float | None = None


ACCEPTED = SendResult()
"""All entries are acknowledged."""


@dataclass(frozen=True, slots=True)
class SinkContext:
    """The arguments of a sink in addition to its options.

    `loop_marker` is a text that this shipper drops from its input. A sink puts it into requests that a receiver on this
    host may log, so that the log of a request is not shipped as another request.
    """

    name: str
    paths: Paths
    stop: Stop
    loop_marker: str = ""


class Reader(Protocol):
    """One stream of entries. The constructor takes the position to continue from and does no I/O."""

    def read(self, max_entries: int, max_bytes: int) -> Batch:
        """Return the next entries without waiting; an empty batch at the end of the stream.

        Never raises for a damaged entry or file, which is skipped and counted in `skipped`.
        """
        ...

    def wait(self, timeout_seconds: float, stop: Stop) -> None:
        """Return when there may be something to read, when `stop` is set, or after the time-out."""
        ...

    def close(self) -> None: ...


class OpenSink(Protocol):
    """A sink in use."""

    def send(self, batch: Batch) -> SendResult:
        """Return when the receiver has answered for the whole batch.

        Raises:
        - SinkUnavailable or SinkDenied: the same batch is sent again, after a back-off. Raise SinkUnavailable for any
          failure of a connection or a receiver.
        - SinkTooLarge: the batch is halved. A single entry is set aside in the dead-letter file.
        - SinkRefused: the batch is halved until the refused entry is alone. That entry is set aside.
        - Any other exception is a bug of the sink, of its `__init__` too. The batch is halved until the entry that causes
          the exception is alone. That entry is sent once more after a pause. If the sink fails on it again, it is set
          aside, provided that the sink answers for another entry: one of the batch, or else one for which it has answered
          before. If the sink fails on that one too, the entry is not to blame: nothing is set aside, the sink
          counts as unavailable and its state is `failing`. It is closed, and a new instance gets the entries again after
          a back-off. BrokenPipeError never depends on an entry and always closes the sink.
        """
        ...

    def close(self) -> None:
        """Release everything. `send` may be in progress in another thread, and may be called again afterwards."""
        ...


class Sink(OpenSink, Protocol[Options]):
    """A kind of sink, as `type` in [[sink]] names it. A class implements it without inheriting from it.

    `options_class`: a frozen dataclass with the settings of the sink.
    `wants_ids`: whether batches must carry `ids`.
    """

    options_class: type[Options]
    wants_ids: bool

    def __init__(self, options: Options, context: SinkContext) -> None:
        """Keep the options. Does no I/O. Raises ValueError for options that a fact has made invalid."""
        ...
