"""The type of a secret value: printing one by accident gives a mask."""

from __future__ import annotations

import base64
import contextlib
import hmac
import json
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from agent.formats import toml_writer
from agent.keypath import same

MASK = "********"


class Secret:
    """A value that only `reveal()` gives away: repr, str, format, pickle and deepcopy all give the mask.

    Equality and hash are those of the value, so that a rotated secret counts as changed.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value.reveal() if isinstance(value, Secret) else value

    def reveal(self) -> Any:
        """The value itself. Call it only where the value leaves for its target, its store or its peer."""
        return self._value

    def text(self) -> str:
        """The value as text, for masking and for credentials."""
        value = self._value
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def texts(self) -> Iterator[str]:
        """Every text that gives the value away: itself, each part of a list or table and the whole as JSON and TOML, of bytes
        their base64. Bytes that are no UTF-8 stand in it as templates take them, as surrogates."""
        yield self.text()
        yield from _parts(self._value)

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = self._value, other._value
        if isinstance(mine, str) and isinstance(theirs, str):
            return hmac.compare_digest(mine.encode("utf-8", "surrogatepass"), theirs.encode("utf-8", "surrogatepass"))
        return same(mine, theirs)

    def __hash__(self) -> int:
        return hash(repr(self._value))

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return (Secret, (MASK,))

    def __iter__(self) -> NoReturn:
        raise TypeError("a Secret has no parts; reveal() it where it is used")


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, bytes):
        yield value.decode("utf-8", "surrogateescape")
        yield base64.b64encode(value).decode("ascii")
    elif isinstance(value, (list, tuple, Mapping)):
        yield from _wholes(value)
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from Secret(part).texts()


def _wholes(value: Any) -> Iterator[str]:
    """A list or table as templates write it in one line: its parts may be too short to be masked by themselves."""
    for separators in (None, (",", ":")):
        yield json.dumps(value, ensure_ascii=False, sort_keys=True, separators=separators, default=_as_text)
    with contextlib.suppress(ValueError):  # TOML has no null
        yield toml_writer.inline(value)


def _as_text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else dict(value)
