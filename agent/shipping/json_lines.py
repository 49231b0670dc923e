"""Encodes batches as JSON. Values that repeat are looked up; the others are escaped together in one call."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from json.encoder import encode_basestring

from agent.shipping import Batch, Column, Constant

_SEPARATOR = "\x7f"
"""A rare character that JSON does not escape. It is ASCII, because any other would make every string wider in memory."""
_JOIN = _SEPARATOR.encode()
_CONTROLS = bytes(range(32))
_MEMO_BYTES = 4 << 20
_SAMPLE = 64
"""How many values of a column decide whether it has few distinct ones, so that they are kept in the memo."""
Fragment = str | Sequence[str]
"""A part of each line: one text for all entries, or a text per entry."""


def literal(text: str) -> str:
    """Return a JSON string literal."""
    return encode_basestring(text)


class JsonFields:
    """Encodes columns as members of JSON objects. A sink keeps it, because values repeat from batch to batch."""

    def __init__(self) -> None:
        self._memo: dict[str, dict[bytes | None, str]] = {}
        self._memo_bytes_left = _MEMO_BYTES

    def literals(self, column: Column) -> Sequence[str]:
        """Return each value as a JSON string, "" for None."""
        if isinstance(column, Constant):
            return [_literal(column.value)] * len(column)
        return joined(_encode_distinct("", column), len(column))

    def members(self, name: str, column: Column) -> list[Fragment]:
        """Return each value as `,"NAME":"value"`, in fragments; "" for None."""
        prefix = f",{encode_basestring(name)}:"
        if isinstance(column, Constant):
            return [_member(prefix, column.value)]
        sample = column[:_SAMPLE]
        if len(set(sample)) * 4 > len(sample) > 8:
            return _encode_distinct(prefix, column)
        memo = self._memo.setdefault(name, {})
        for value in set(column) - memo.keys():
            memo[value] = text = _member(prefix, value)
            self._memo_bytes_left -= len(text)
        members = [*map(memo.__getitem__, column)]
        if self._memo_bytes_left < 0:
            self._memo.clear()
            self._memo_bytes_left = _MEMO_BYTES
        return [members]

    def bodies(self, batch: Batch, *, skip: frozenset[str] = frozenset()) -> list[str]:
        """Return the fields of each entry as a JSON object, without time and labels."""
        return [f"{{{row[1:]}}}" for row in joined(self._fields(batch, skip), len(batch))]

    def objects(self, batch: Batch) -> list[str]:
        """Return each entry as a JSON object: its time (RFC 3339), its fields, then the labels."""
        return joined(self._fragments(batch, "}"), len(batch))

    def ndjson(self, batch: Batch) -> str:
        """Return all entries as JSON objects, one per line."""
        flat: list[str] = []
        for row in _rows(self._fragments(batch, "}\n"), len(batch)):
            flat += row
        return "".join(flat)

    def _fragments(self, batch: Batch, end: str) -> list[Fragment]:
        seconds_of, micros = _clock(batch.times, '{"timestamp":"')
        return [seconds_of, micros, 'Z"', *self._fields(batch), label_members(batch.labels), end]

    def _fields(self, batch: Batch, skip: frozenset[str] = frozenset()) -> list[Fragment]:
        names = [name for name in batch.columns if name not in skip]
        return [fragment for name in names for fragment in self.members(name, batch.columns[name])]


def joined(fragments: Sequence[Fragment], count: int) -> list[str]:
    """Return the text of each of `count` entries."""
    return list(map("".join, _rows(fragments, count)))


def _rows(fragments: Sequence[Fragment], count: int) -> Iterable[tuple[str, ...]]:
    """Yield the texts of each entry. Adjacent fragments that are the same for all entries are joined first."""
    columns: list[Iterable[str]] = []
    same = ""
    for fragment in fragments:
        if isinstance(fragment, str):
            same += fragment
        else:
            columns += (repeat(same, count), fragment)
            same = ""
    return zip(*columns, repeat(same, count), strict=True)


def _literal(value: bytes | None) -> str:
    return "" if value is None else encode_basestring(value.decode("utf-8", "replace"))


def _member(prefix: str, value: bytes | None) -> str:
    return "" if value is None else prefix + _literal(value)


def _encode_distinct(prefix: str, column: Column) -> list[Fragment]:
    """Return the members of a column with many distinct values."""
    parts = _escaped(column)
    if parts is None:
        return [[_member(prefix, value) for value in column]]
    if "" in parts and None in column:
        pairs = zip(column, parts, strict=True)
        return [["" if value is None else f'{prefix}"{part}"' for value, part in pairs]]
    return [f'{prefix}"', parts, '"']


def _escaped(column: Column) -> list[str] | None:
    """Return each value escaped for JSON, without quotes, "" for None; all are decoded and escaped in one call.

    None if a value contains the separator.
    """
    try:
        raw = _JOIN.join(column)  # type: ignore[arg-type]  # the rare case is handled below
    except TypeError:
        raw = _JOIN.join([value or b"" for value in column])
    text = raw.decode("utf-8", "replace")
    if len(raw.translate(None, _CONTROLS)) == len(raw):
        # Much faster than a loop over characters. The search before each replacement is faster still.
        text = text.replace("\\", "\\\\") if "\\" in text else text
        text = text.replace('"', '\\"') if '"' in text else text
    else:
        text = encode_basestring(text)[1:-1]
    parts = text.split(_SEPARATOR)
    return parts if len(parts) == len(column) else None


def seconds(times: Sequence[int]) -> list[str]:
    """Convert microseconds since 1970 to decimal seconds."""
    return [f"{moment // 1_000_000}.{moment % 1_000_000:06d}" for moment in times]


def label_members(labels: Mapping[str, str]) -> str:
    """Return labels as `,"NAME":"value"` each."""
    return "".join(f",{encode_basestring(name)}:{encode_basestring(value)}" for name, value in labels.items())


def timestamps(times: Sequence[int]) -> list[str]:
    """Convert microseconds since 1970 to RFC 3339 in UTC."""
    return [f"{second}{micros}Z" for second, micros in zip(*_clock(times), strict=True)]


def _clock(times: Sequence[int], before: str = "") -> tuple[list[str], list[str]]:
    """Return for each time two texts: `before` and RFC 3339 up to the decimal point, and the six digits after it."""
    starts: list[str] = []
    micros: list[str] = []
    first, end, start = 0, 0, ""
    for moment in times:
        if not first <= moment < end:
            first = moment // 1_000_000 * 1_000_000
            end = first + 1_000_000
            start = before + time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(first // 1_000_000))
        starts.append(start)
        micros.append(str(moment - first + 1_000_000)[1:])
    return starts, micros
