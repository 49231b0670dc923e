"""What happens to every batch between its reader and its sink: masked, cut to length, and free of what came back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from agent.masking.masker import Masker
from agent.shipping import OVERLAP_BYTES, Batch, Column, Constant

CUT = b" ...[cut]"
_OWN_NAME = b"parbake"
_NAME_BYTES = 65
"""libsystemd cuts a field with its name and the equals sign, of 64 characters at most."""


def own_lines(pid: int) -> re.Pattern[bytes]:
    """The lines of a syslog daemon's file that this process has logged: two words (ISO time, host) to four (old style, host)
    are before their tag."""
    return re.compile(rb"(?:\S+ +){2,4}parbake(?:-ship)?\[%d\]:" % pid)


def clean(batch: Batch, masker: Masker, line_max: int, mark: str = "", own: re.Pattern[bytes] | None = None) -> Batch:
    """The batch as it may leave: one masking pass over its distinct texts, then long ones cut, then entries dropped that
    carry our own mark, because a receiver on this host has logged them, or begin with `own`: a warning for each batch that
    fails would be shipped in a batch."""
    texts = _texts(batch)
    masked = masker.mask_all(texts)
    longest = max(map(len, texts), default=0)
    # what the reader cut may end in the head of a secret, and masking what is before it brings that nearer
    read_max = line_max + OVERLAP_BYTES - _NAME_BYTES
    if longest >= read_max:
        masked = [masker.mask_cut(text) if len(text) >= read_max else new for text, new in zip(texts, masked, strict=True)]
    if masked is not texts or longest > line_max:
        new = {old: _cut(text, line_max) for old, text in zip(texts, masked, strict=True)}
        batch = replace(batch, columns={name: _replaced(column, new) for name, column in batch.columns.items()})
    return _without_returned(batch, mark.encode(), own) if mark or own else batch


def _texts(batch: Batch) -> list[bytes]:
    """The texts of a batch, each once, but for messages: to look for equal ones costs more than to look at them twice."""
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


def _without_returned(batch: Batch, mark: bytes, own: re.Pattern[bytes] | None) -> Batch:
    messages = batch.columns.get("MESSAGE", ())
    joined = b"\n".join(filter(None, messages))  # one search is cheaper than a look at each line
    if _OWN_NAME not in joined and not (mark and mark in joined):
        return batch

    def returned(text: bytes) -> bool:
        return bool((mark and mark in text) or (own and own.match(text)))

    return batch.pick([i for i, text in enumerate(messages) if not text or not returned(text)])
