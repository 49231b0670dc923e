"""The limits of a fact's value. Facts come from outside and enter paths, labels and templates, so every value is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.discovery import FACT_NAMES, TABLE_FACTS
from agent.errors import DiscoveryError
from agent.model import FactValue

MAX_TEXT = 1024
"""The maximum length of a fact that is a string, in characters."""
MAX_TABLE_TEXT = 16 * 1024
"""The maximum length of one string inside `tags` or `userdata`, in characters."""
MAX_TABLE = 64 * 1024
"""The maximum length of all keys and strings of one table together, in characters."""
MAX_SEGMENT = 255
"""The maximum length in bytes of a fact that is part of a layer's path: that of a file name."""
_MAX_DEPTH = 8
_INTEGER_LIMIT = 10**MAX_TEXT
_SCALAR_COST = 8
"""The number of characters that a number, boolean or null counts for in `MAX_TABLE`."""

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
"""The names of facts, as `{{ facts.NAME }}` in a setting accepts them."""
_FORBIDDEN = "\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROL = re.compile(f"[\x00-\x1f\x7f-\x9f{_FORBIDDEN}]")
_CONTROL_EXCEPT_TAB_AND_NEWLINE = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_FORBIDDEN}]")


class FactRejected(ValueError):
    """A value that is not accepted. The message has the reason and never the value."""


def validate(name: str, value: object) -> FactValue | None:
    """Return the value in the form of a fact, or None if it is empty (None, "", {}).

    Numbers and booleans become text. Raises FactRejected.
    """
    if not NAME.fullmatch(name):
        raise FactRejected("not a valid fact name: a letter, then letters, digits, - and _, at most 64 characters")
    if value is None or value == "" or value == {}:
        return None
    if isinstance(value, Mapping):
        if name in FACT_NAMES and name not in TABLE_FACTS:
            raise FactRejected("found a table, expected a string")
        return _TableCopy().copy_table(value, _MAX_DEPTH)
    if name in TABLE_FACTS:
        raise FactRejected(f"found a {type(value).__name__}, expected a table")
    text = scalar(value)
    if text is None:
        raise FactRejected(f"found a {type(value).__name__}, expected a string")
    if len(text) > MAX_TEXT:
        raise FactRejected(f"is {len(text)} characters long, more than {MAX_TEXT}")
    if _CONTROL.search(text):
        raise FactRejected("contains control characters")
    return text


def scalar(value: object) -> str | None:
    """Return a string, number or boolean as the text of a fact, None for any other type. Raises FactRejected."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= _INTEGER_LIMIT:
        raise FactRejected(f"is a number of more than {MAX_TEXT} digits")
    if isinstance(value, (str, int, float)):
        return str(value)
    return None


class _TableCopy:
    """Copies one table, checks every part, and counts the characters of all parts together."""

    def __init__(self) -> None:
        self._left = MAX_TABLE

    def copy_table(self, table: Mapping[object, object], depth: int) -> dict[str, object]:
        self._check_depth(depth)
        return {self._copy_text(_key_text(key)): self._copy(value, depth - 1) for key, value in table.items()}

    def _copy(self, value: object, depth: int) -> object:
        """Copy a value. Strings, numbers, booleans, lists and tables keep their type. Any other type becomes text."""
        if isinstance(value, Mapping):
            return self.copy_table(value, depth)
        self._check_depth(depth)
        if isinstance(value, (list, tuple)):
            return [self._copy(item, depth - 1) for item in value]
        self._left -= _SCALAR_COST
        if value is None or isinstance(value, (bool, int, float)):
            scalar(value)
            return value
        return self._copy_text(str(value))

    def _copy_text(self, text: str) -> str:
        self._left -= len(text)
        if len(text) > MAX_TABLE_TEXT or self._left < 0:
            raise FactRejected(f"is too long: more than {MAX_TABLE_TEXT} characters in one value or {MAX_TABLE} in all")
        if _CONTROL_EXCEPT_TAB_AND_NEWLINE.search(text):
            raise FactRejected("contains control characters")
        return text

    @staticmethod
    def _check_depth(depth: int) -> None:
        if depth == 0:
            raise FactRejected(f"is nested deeper than {_MAX_DEPTH} levels")


def _key_text(key: object) -> str:
    scalar(key)  # raises for a number that is too long to print
    return str(key)


def check_segment(name: str, value: str) -> str:
    """Return `value` of the fact `name` if it is safe as part of a layer's path.

    Raises DiscoveryError, which names the fact and not the value, for an empty value, a slash, "." or "..", control or
    invisible characters, and more than 255 bytes.
    """
    problem = None
    if not value:
        problem = "is empty"
    elif "/" in value or "\\" in value:
        problem = "contains a slash"
    elif value == "." or ".." in value:
        problem = 'is "." or contains ".."'
    elif not value.isprintable():
        problem = "contains control or invisible characters"
    elif len(value.encode()) > MAX_SEGMENT:
        problem = f"is longer than {MAX_SEGMENT} bytes"
    if problem is None:
        return value
    raise DiscoveryError(
        f"the fact {name} cannot be part of a layer's path: its value {problem}",
        hint=f"`parbake facts` shows the provider of {name}; [facts_from] can take it from another origin",
    )
