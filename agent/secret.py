"""The type of secret values. Printing one by accident prints a mask."""

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
    """A value that only `reveal()` returns. repr, str, format, pickle and deepcopy return the mask.

    Equality and hash are those of the value, so that a rotated secret counts as a change.
    """

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value.reveal() if isinstance(value, Secret) else value

    def reveal(self) -> Any:
        """Return the value. Call it only at the moment when the value goes to its target, its store or its peer."""
        return self._value

    def text(self) -> str:
        """Return the value as text, for masking and for credentials."""
        value = self._value
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def texts(self) -> Iterator[str]:
        """Iterate over all texts that reveal the value.

        These are the value, each part of a list or table, a list or table as JSON and TOML, and bytes as base64. Bytes that
        are not UTF-8 become surrogates, as in templates.
        """
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
        value, other_value = self._value, other._value
        if isinstance(value, str) and isinstance(other_value, str):
            return hmac.compare_digest(value.encode("utf-8", "surrogatepass"), other_value.encode("utf-8", "surrogatepass"))
        return same(value, other_value)

    def __hash__(self) -> int:
        return hash(repr(self._value))

    def __reduce__(self) -> tuple[type[Secret], tuple[str]]:
        return (Secret, (MASK,))

    def __iter__(self) -> NoReturn:
        raise TypeError("a Secret cannot be iterated over; call reveal() where the value is used")


def _parts(value: Any) -> Iterator[str]:
    if isinstance(value, bytes):
        yield value.decode("utf-8", "surrogateescape")
        yield base64.b64encode(value).decode("ascii")
    elif isinstance(value, (list, tuple, Mapping)):
        yield from _one_line_texts(value)
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from Secret(part).texts()


def _one_line_texts(value: Any) -> Iterator[str]:
    """Iterate over a list or table as templates write it in one line. Its parts may be too short to be masked separately."""
    for separators in (None, (",", ":")):
        yield json.dumps(value, ensure_ascii=False, sort_keys=True, separators=separators, default=_as_text)
    with contextlib.suppress(ValueError):  # TOML has no null
        yield toml_writer.inline(value)


def _as_text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else dict(value)
