"""What a fact's value may be. Facts come from outside and enter paths, labels and templates: none is trusted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from agent.discovery import NAMES, TABLES
from agent.errors import DiscoveryError
from agent.model import FactValue

MAX_TEXT = 1024
"""Characters of a fact that is a string."""
MAX_TABLE_TEXT = 16 * 1024
"""Characters of one string inside `tags` or `userdata`."""
MAX_TABLE = 64 * 1024
"""Characters of all keys and strings of one table together."""
MAX_SEGMENT = 255
"""Bytes of a fact where it is part of a layer's path: the longest file name."""
_DEPTH = 8
_LONGEST_INTEGER = 10**MAX_TEXT

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
"""What a fact may be called: what `{{ facts.NAME }}` in a setting can say."""
_FORBIDDEN = "\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROL = re.compile(f"[\x00-\x1f\x7f-\x9f{_FORBIDDEN}]")
_CONTROL_BUT_LINES = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f{_FORBIDDEN}]")


class FactRejected(ValueError):
    """A value that is not taken, and why."""


def validate(name: str, value: Any) -> FactValue | None:
    """The value as facts hold it, or None where it says nothing (None, "", {}).

    Numbers and booleans become text. Raises Refused, never quoting the value.
    """
    if not NAME.fullmatch(name):
        raise FactRejected("is not a name for a fact: a letter, then letters, digits, - and _, at most 64")
    if value is None or value == "" or value == {}:
        return None
    if isinstance(value, Mapping):
        if name in NAMES and name not in TABLES:
            raise FactRejected("is a table, expected a string")
        return _table(value)
    if name in TABLES:
        raise FactRejected("is not a table")
    text = scalar(value)
    if text is None:
        raise FactRejected(f"is a {type(value).__name__}, expected a string")
    if len(text) > MAX_TEXT:
        raise FactRejected(f"is {len(text)} characters long, more than {MAX_TEXT}")
    if _CONTROL.search(text):
        raise FactRejected("holds control characters")
    return text


def scalar(value: Any) -> str | None:
    """A string, number or boolean as a fact's text; None for anything else."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and abs(value) >= _LONGEST_INTEGER:
        raise FactRejected(f"is a number of more than {MAX_TEXT} digits")
    if isinstance(value, (str, int, float)):
        return str(value)
    return None


def _table(table: Mapping[Any, Any]) -> dict[str, Any]:
    room = [MAX_TABLE]
    accepted: dict[str, Any] = _part(table, room, _DEPTH)
    return accepted


def _part(value: Any, room: list[int], depth: int) -> Any:
    """A part of a table, checked; what is no string, number, boolean, list or table becomes its text (a YAML date)."""
    if depth == 0:
        raise FactRejected(f"is nested deeper than {_DEPTH} levels")
    if isinstance(value, Mapping):
        return {_text(_name(key), room): _part(item, room, depth - 1) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_part(item, room, depth - 1) for item in value]
    room[0] -= 8
    if value is None or isinstance(value, (bool, int, float)):
        scalar(value)
        return value
    return _text(value if isinstance(value, str) else str(value), room)


def _name(key: Any) -> str:
    scalar(key)
    return str(key)


def _text(text: str, room: list[int]) -> str:
    room[0] -= len(text)
    if len(text) > MAX_TABLE_TEXT or room[0] < 0:
        raise FactRejected(f"is too long: more than {MAX_TABLE_TEXT} characters in one value or {MAX_TABLE} in all")
    if _CONTROL_BUT_LINES.search(text):
        raise FactRejected("holds control characters")
    return text


def check_segment(name: str, value: str) -> str:
    """`value` of the fact `name`, if it can be part of a layer's path without leaving it.

    Raises DiscoveryError, naming the fact, for an empty value, a slash, "." or "..", control or invisible characters,
    and more than 255 bytes.
    """
    problem = None
    if not value:
        problem = "is empty"
    elif "/" in value or "\\" in value:
        problem = "holds a slash"
    elif value == "." or ".." in value:
        problem = 'is "." or holds ".."'
    elif not value.isprintable():
        problem = "holds control or invisible characters"
    elif len(value.encode()) > MAX_SEGMENT:
        problem = f"is longer than {MAX_SEGMENT} bytes"
    if problem is None:
        return value
    raise DiscoveryError(
        f"the fact {name} cannot be part of a layer's path: its value {problem}",
        hint=f"see `parbake facts` for where {name} comes from; [facts_from] can take it from elsewhere",
    )
