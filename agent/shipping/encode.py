"""Batches as JSON, encoded once: values that repeat are looked up, those that do not are escaped all in one go."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from json.encoder import encode_basestring

from agent.shipping import Batch, Column

_SEPARATOR = "\x7f"
"""Hardly ever in a text, not escaped in JSON, and ASCII: another one would make every text a wide one."""
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
            return _escape_all(column, prefix)
        memo = self._memo.setdefault(name, {})
        if len(memo) > _MEMO_MAX:
            memo.clear()
        for value in distinct - memo.keys():
            memo[value] = "" if value is None else prefix + encode_basestring(value.decode("utf-8", "replace"))
        return repeat(memo[column[0]], len(column)) if len(distinct) == 1 else map(memo.__getitem__, column)

    def bodies(self, batch: Batch, *, skip: frozenset[str] = frozenset()) -> list[str]:
        """The fields of each entry as one JSON object, without time and labels."""
        columns, same = self._columns(batch, skip)
        if not columns:
            return [f"{{{same[1:]}}}"] * len(batch)
        return [f"{{{row[1:]}}}" for row in map("".join, zip(*columns, repeat(same)))]

    def objects(self, batch: Batch, *, skip: frozenset[str] = frozenset()) -> list[str]:
        """Each entry as one JSON object: its time (RFC 3339), its fields, then the labels."""
        columns, same = self._columns(batch, skip)
        return list(map("".join, zip(_heads(batch.times), *columns, repeat(f"{same}{label_members(batch.labels)}}}"))))

    def _columns(self, batch: Batch, skip: frozenset[str]) -> tuple[list[Iterable[str]], str]:
        """The members of the columns that vary, and those of the others, which are the same for every entry, in one."""
        varying, same = [], []
        for name, column in batch.columns.items():
            if name not in skip:
                members = self.members(name, column)
                if isinstance(members, repeat):
                    same.append(next(members))
                else:
                    varying.append(members)
        return varying, "".join(same)


def _heads(times: Sequence[int]) -> list[str]:
    return timestamps(times, '{"timestamp":"', '"')


def seconds(times: Sequence[int]) -> list[str]:
    """Microseconds since 1970 as decimal seconds."""
    return [f"{moment // 1_000_000}.{moment % 1_000_000:06d}" for moment in times]


def label_members(labels: Mapping[str, str]) -> str:
    return "".join(f",{encode_basestring(name)}:{encode_basestring(value)}" for name, value in labels.items())


def _escape_all(column: Column, prefix: str = "") -> Sequence[str]:
    """One decoding and one escaping for the whole column."""
    joined = _JOIN.join([b"" if value is None else value for value in column]).decode("utf-8", "replace")
    parts = encode_basestring(joined)[1:-1].split(_SEPARATOR)
    if len(parts) != len(column):
        return ["" if value is None else prefix + encode_basestring(value.decode("utf-8", "replace")) for value in column]
    if None in column:
        return ["" if value is None else f'{prefix}"{part}"' for value, part in zip(column, parts, strict=True)]
    return [f'{prefix}"{part}"' for part in parts]


def timestamps(times: Sequence[int], before: str = "", after: str = "") -> list[str]:
    """Microseconds since 1970 as RFC 3339 in UTC, with other text around each."""
    found: list[str] = []
    second, prefix, suffix = "", "", f"Z{after}"
    # cutting digits off a text is faster than dividing
    texts = map(str, times) if min(times, default=0) >= 1_000_000 else map("{:07d}".format, times)
    for text in texts:
        if text[:-6] != second:
            second = text[:-6]
            prefix = before + time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(int(second)))
        found.append(prefix + text[-6:] + suffix)
    return found
