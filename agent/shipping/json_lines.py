"""Batches as JSON, encoded once: values that repeat are looked up, those that do not are escaped all in one go."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from json.encoder import encode_basestring

from agent.shipping import Batch, Column, Constant

_SEPARATOR = "\x7f"
"""Hardly ever in a text, not escaped in JSON, and ASCII: another one would make every text a wide one."""
_JOIN = _SEPARATOR.encode()
_CONTROLS = bytes(range(32))
_MEMO_BYTES = 4 << 20
_SAMPLE = 64
"""So many values tell whether those of a column are worth remembering."""
Fragment = str | Sequence[str]
"""Of a line of JSON: a text that all entries have, or one for each entry."""


def literal(text: str) -> str:
    """A JSON string literal."""
    return encode_basestring(text)


class JsonFields:
    """The columns of batches as JSON members. Kept for the life of a sink, whose entries repeat themselves."""

    def __init__(self) -> None:
        self._memo: dict[str, dict[bytes | None, str]] = {}
        self._room = _MEMO_BYTES

    def literals(self, column: Column) -> Sequence[str]:
        """Each value as a JSON string; "" for None."""
        if isinstance(column, Constant):
            return [_literal(column.value)] * len(column)
        return joined(_encode_distinct("", column), len(column))

    def members(self, name: str, column: Column) -> list[Fragment]:
        """Each value as `,"NAME":"value"`, in pieces; "" for None."""
        prefix = f",{encode_basestring(name)}:"
        if isinstance(column, Constant):
            return [_member(prefix, column.value)]
        sample = column[:_SAMPLE]
        if len(set(sample)) * 4 > len(sample) > 8:
            return _encode_distinct(prefix, column)
        memo = self._memo.setdefault(name, {})
        for value in set(column) - memo.keys():
            memo[value] = text = _member(prefix, value)
            self._room -= len(text)
        members = [*map(memo.__getitem__, column)]
        if self._room < 0:
            self._memo.clear()
            self._room = _MEMO_BYTES
        return [members]

    def bodies(self, batch: Batch, *, skip: frozenset[str] = frozenset()) -> list[str]:
        """The fields of each entry as one JSON object, without time and labels."""
        return [f"{{{row[1:]}}}" for row in joined(self._fields(batch, skip), len(batch))]

    def objects(self, batch: Batch) -> list[str]:
        """Each entry as one JSON object: its time (RFC 3339), its fields, then the labels."""
        return joined(self._pieces(batch, "}"), len(batch))

    def ndjson(self, batch: Batch) -> str:
        """All entries as JSON objects, each on a line."""
        flat: list[str] = []
        for row in _rows(self._pieces(batch, "}\n"), len(batch)):
            flat += row
        return "".join(flat)

    def _pieces(self, batch: Batch, end: str) -> list[Fragment]:
        seconds_of, micros = _clock(batch.times, '{"timestamp":"')
        return [seconds_of, micros, 'Z"', *self._fields(batch), label_members(batch.labels), end]

    def _fields(self, batch: Batch, skip: frozenset[str] = frozenset()) -> list[Fragment]:
        return [piece for name, column in batch.columns.items() if name not in skip for piece in self.members(name, column)]


def joined(pieces: Sequence[Fragment], count: int) -> list[str]:
    """The text of each of `count` entries."""
    return list(map("".join, _rows(pieces, count)))


def _rows(pieces: Sequence[Fragment], count: int) -> Iterable[tuple[str, ...]]:
    """The pieces of each entry. Of those that are the same for all, neighbours are one."""
    columns: list[Iterable[str]] = []
    same = ""
    for piece in pieces:
        if isinstance(piece, str):
            same += piece
        else:
            columns += (repeat(same, count), piece)
            same = ""
    return zip(*columns, repeat(same, count), strict=True)


def _literal(value: bytes | None) -> str:
    return "" if value is None else encode_basestring(value.decode("utf-8", "replace"))


def _member(prefix: str, value: bytes | None) -> str:
    return "" if value is None else prefix + _literal(value)


def _encode_distinct(prefix: str, column: Column) -> list[Fragment]:
    """The members of a column whose values are hardly worth remembering."""
    parts = _escaped(column)
    if parts is None:
        return [[_member(prefix, value) for value in column]]
    if "" in parts and None in column:
        pairs = zip(column, parts, strict=True)
        return [["" if value is None else f'{prefix}"{part}"' for value, part in pairs]]
    return [f'{prefix}"', parts, '"']


def _escaped(column: Column) -> list[str] | None:
    """Every value as it stands between the quotes of a JSON string, "" for None, with one decoding and one escaping for
    them all. None where one of them holds what they are joined with."""
    try:
        raw = _JOIN.join(column)  # type: ignore[arg-type]  # what it raises for is the seldom case
    except TypeError:
        raw = _JOIN.join([value or b"" for value in column])
    text = raw.decode("utf-8", "replace")
    if len(raw.translate(None, _CONTROLS)) == len(raw):
        # a fraction of what going through every character would cost, and looking first is a fraction of that
        text = text.replace("\\", "\\\\") if "\\" in text else text
        text = text.replace('"', '\\"') if '"' in text else text
    else:
        text = encode_basestring(text)[1:-1]
    parts = text.split(_SEPARATOR)
    return parts if len(parts) == len(column) else None


def seconds(times: Sequence[int]) -> list[str]:
    """Microseconds since 1970 as decimal seconds."""
    return [f"{moment // 1_000_000}.{moment % 1_000_000:06d}" for moment in times]


def label_members(labels: Mapping[str, str]) -> str:
    return "".join(f",{encode_basestring(name)}:{encode_basestring(value)}" for name, value in labels.items())


def timestamps(times: Sequence[int]) -> list[str]:
    """Microseconds since 1970 as RFC 3339 in UTC."""
    return [f"{second}{micros}Z" for second, micros in zip(*_clock(times), strict=True)]


def _clock(times: Sequence[int], before: str = "") -> tuple[list[str], list[str]]:
    """Of each time what RFC 3339 has up to the second's point, after the text `before`, and its six digits after that."""
    heads: list[str] = []
    micros: list[str] = []
    first, end, head = 0, 0, ""
    for moment in times:
        if not first <= moment < end:
            first = moment // 1_000_000 * 1_000_000
            end = first + 1_000_000
            head = before + time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(first // 1_000_000))
        heads.append(head)
        micros.append(str(moment - first + 1_000_000)[1:])
    return heads, micros
