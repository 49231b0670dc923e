"""The step between reader and sink: masks secrets, cuts long texts, and drops entries that the shipper itself has caused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from agent.masking.masker import Masker
from agent.shipping import OVERLAP_BYTES, Batch, Column, Constant

CUT = b" ...[cut]"
_OWN_NAME = b"parbake"
_NAME_BYTES = 65
"""The longest field name, 64 characters, and the equals sign: libsystemd counts both when it cuts a field."""


def own_lines(pid: int) -> re.Pattern[bytes]:
    """Return a pattern for lines of this process in the file of a syslog daemon.

    Two words (ISO time, host) to four (traditional time, host) come before the tag.
    """
    return re.compile(rb"(?:\S+ +){2,4}parbake(?:-ship)?\[%d\]:" % pid)


def scrub(batch: Batch, masker: Masker, line_max: int, loop_marker: str = "", own: re.Pattern[bytes] | None = None) -> Batch:
    """Return the batch that may leave this host.

    Distinct texts are masked in one pass. Texts longer than `line_max` bytes are cut. An entry is dropped if its message
    contains `loop_marker` (a receiver on this host has logged a request) or begins with `own`: otherwise the warning about
    a failed batch would be shipped in another batch.
    """
    texts = _texts(batch)
    masked = masker.mask_all(texts)
    longest = max(map(len, texts), default=0)
    # The reader may have cut a text inside a secret, and masking earlier secrets moves that end towards the front.
    read_max = line_max + OVERLAP_BYTES - _NAME_BYTES
    if longest >= read_max:
        masked = [masker.mask_cut(text) if len(text) >= read_max else new for text, new in zip(texts, masked, strict=True)]
    if masked is not texts or longest > line_max:
        new = {old: _cut(text, line_max) for old, text in zip(texts, masked, strict=True)}
        batch = replace(batch, columns={name: _replaced(column, new) for name, column in batch.columns.items()})
    return _without_own_entries(batch, loop_marker.encode(), own) if loop_marker or own else batch


def _texts(batch: Batch) -> list[bytes]:
    """Return each text once, except messages: finding equal messages costs more than masking them twice."""
    messages: Column = ()
    others = set[bytes | None]()
    for name, column in batch.columns.items():
        if isinstance(column, Constant):
            others.add(column.value)
        elif name == "MESSAGE":
            messages = column
        else:
            others.update(column)
    return [*filter(None, others), *filter(None, messages)]


def _cut(text: bytes, line_max: int) -> bytes:
    return text if len(text) <= line_max else text[:line_max] + CUT


def _replaced(column: Column, new: Mapping[bytes, bytes]) -> Column:
    if isinstance(column, Constant):
        return Constant(column.value and new[column.value], len(column))
    return [value and new[value] for value in column]


def _without_own_entries(batch: Batch, marker: bytes, own: re.Pattern[bytes] | None) -> Batch:
    messages = batch.columns.get("MESSAGE", ())
    joined = b"\n".join(filter(None, messages))  # one search costs less than a test of each message
    if _OWN_NAME not in joined and not (marker and marker in joined):
        return batch

    def is_own(text: bytes) -> bool:
        return bool((marker and marker in text) or (own and own.match(text)))

    return batch.pick([i for i, text in enumerate(messages) if not text or not is_own(text)])
