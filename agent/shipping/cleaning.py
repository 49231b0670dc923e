"""What happens to every batch between its reader and its sink: masked, cut to length, and free of what came back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from agent.masking import Masker
from agent.shipping import OVERLAP_BYTES, Batch, Column

CUT = b" ...[cut]"
_OWN_NAME = b"parbake"
_NAME_BYTES = 65
"""libsystemd cuts a field with its name and the equals sign, of 64 characters at most."""


def own_lines(pid: int) -> re.Pattern[bytes]:
    """The lines of a syslog daemon's file that this process has logged: two words (ISO time, host) to four (old style, host)
    are before their tag."""
    return re.compile(rb"(?:\S+ +){2,4}parbake(?:-ship)?\[%d\]:" % pid)


def clean(
    batch: Batch, masker: Masker, line_max: int, mark: str = "", own: re.Pattern[bytes] | None = None
) -> Batch:
    """The batch as it may leave: one masking pass over its distinct texts, then long ones cut, then entries dropped that
    carry our own mark, because a receiver on this host has logged them, or begin with `own`: a warning for each batch that
    fails would be shipped in a batch."""
    texts = [text for text in set().union(*batch.columns.values()) if text is not None]
    masked = masker.mask_all(texts)
    longest = max(map(len, texts), default=0)
    # what the reader cut may end in the head of a secret, and masking what is before it brings that nearer
    read_max = line_max + OVERLAP_BYTES - _NAME_BYTES
    if longest >= read_max:
        masked = [masker.mask_cut(text) if len(text) >= read_max else new for text, new in zip(texts, masked, strict=True)]
    if masked is not texts or longest > line_max:
        new = {old: _cut(text, line_max) for old, text in zip(texts, masked, strict=True)}
        batch = replace(batch, columns={name: _replaced(column, new) for name, column in batch.columns.items()})
    batch = _without_echoes(batch, mark.encode()) if mark else batch
    return _without_own(batch, own) if own is not None else batch


def _cut(text: bytes, line_max: int) -> bytes:
    return text if len(text) <= line_max else text[:line_max] + CUT


def _replaced(column: Column, new: Mapping[bytes, bytes]) -> Sequence[bytes | None]:
    return [None if value is None else new[value] for value in column]


def _without_echoes(batch: Batch, mark: bytes) -> Batch:
    messages = batch.columns.get("MESSAGE", ())
    if mark not in b"\n".join(filter(None, messages)):
        return batch
    return batch.pick([i for i, text in enumerate(messages) if not text or mark not in text])


def _without_own(batch: Batch, own: re.Pattern[bytes]) -> Batch:
    messages = batch.columns.get("MESSAGE", ())
    if _OWN_NAME not in b"\n".join(filter(None, messages)):  # one search is cheaper than a match for each line
        return batch
    return batch.pick([i for i, text in enumerate(messages) if not text or not own.match(text)])
