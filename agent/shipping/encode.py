"""Batches as JSON, encoded once: values that repeat are looked up, those that do not are escaped all in one go."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from json.encoder import encode_basestring

from agent.shipping import Batch, Column

_SEPARATOR = "\uffff"
_JOIN = _SEPARATOR.encode()
_MEMO_MAX = 20_000


def literal(text: str) -> str:
    """A JSON string literal."""
    return encode_basestring(text)


class JsonFields:
    """The columns of batches as JSON members. Kept for the life of a sink, whose entries repeat themselves."""

    def __init__(self) -> None:
        self._memo: dict[str, dict[bytes | None, str]] = {}

    def literals(self, column: Column) -> Sequence[str]:
        """Each value as a JSON string; "" for None."""
        return _escape_all(column)

    def members(self, name: str, column: Column) -> Iterable[str]:
        """Each value as `,"NAME":"value"`; "" for None."""
        distinct = set(column)
        prefix = f",{encode_basestring(name)}:"
        if len(distinct) * 4 > len(column) > 8:
            return [prefix + text if text else "" for text in _escape_all(column)]
        memo = self._memo.setdefault(name, {})
        if len(memo) > _MEMO_MAX:
            memo.clear()
        for value in distinct - memo.keys():
            memo[value] = "" if value is None else prefix + encode_basestring(value.decode("utf-8", "replace"))
        return repeat(memo[column[0]], len(column)) if len(distinct) == 1 else map(memo.__getitem__, column)

    def bodies(self, batch: Batch, *, skip: frozenset[str] = frozenset()) -> list[str]:
        """The fields of each entry as one JSON object, without time and labels."""
        columns = [self.members(name, column) for name, column in batch.columns.items() if name not in skip]
        if not columns:
            return ["{}"] * len(batch)
        return [f"{{{row[1:]}}}" for row in map("".join, zip(*columns, strict=True))]

    def objects(self, batch: Batch, *, skip: frozenset[str] = frozenset()) -> list[str]:
        """Each entry as one JSON object: its time (RFC 3339), its fields, then the labels."""
        columns = [self.members(name, column) for name, column in batch.columns.items() if name not in skip]
        return list(map("".join, zip(_heads(batch.times), *columns, repeat(label_members(batch.labels) + "}"))))


def _heads(times: Sequence[int]) -> list[str]:
    return [f'{{"timestamp":"{stamp}"' for stamp in timestamps(times)]


def seconds(times: Sequence[int]) -> list[str]:
    """Microseconds since 1970 as decimal seconds."""
    return [f"{moment // 1_000_000}.{moment % 1_000_000:06d}" for moment in times]


def label_members(labels: Mapping[str, str]) -> str:
    return "".join(f",{encode_basestring(name)}:{encode_basestring(value)}" for name, value in labels.items())


def _escape_all(column: Column) -> Sequence[str]:
    """One decoding and one escaping for the whole column. U+FFFF is no character, so that it hardly ever is in a text."""
    joined = _JOIN.join([b"" if value is None else value for value in column]).decode("utf-8", "replace")
    parts = encode_basestring(joined)[1:-1].split(_SEPARATOR)
    if len(parts) != len(column):
        return ["" if value is None else encode_basestring(value.decode("utf-8", "replace")) for value in column]
    if None in column:
        return ["" if value is None else f'"{part}"' for value, part in zip(column, parts, strict=True)]
    return [f'"{part}"' for part in parts]


def timestamps(times: Sequence[int]) -> Iterator[str]:
    """Microseconds since 1970 as RFC 3339 in UTC."""
    second, prefix = -1, ""
    for moment in times:
        whole, rest = divmod(moment, 1_000_000)
        if whole != second:
            second, prefix = whole, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
        yield f"{prefix}.{rest:06d}Z"
