"""TOML tables -> frozen dataclasses. Problems are collected and not raised.

A dataclass is the single record of its table: the field's name is the key, its annotation the type, its default the
default, its metadata the documentation. `read` serves the settings and every plug-in's options alike.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from agent.settings.quantities import Mode, Seconds, Size, mode, seconds, size
from agent.settings.source_lines import Location

__all__ = [
    "Mode",
    "Problems",
    "Seconds",
    "Size",
    "closest",
    "convert",
    "kind_of",
    "raise_problems",
    "read",
    "seconds",
    "setting",
    "size",
    "suggestion",
    "toml_keys",
]

T = TypeVar("T")
_TEXT_MAX = 60
"""Messages cut a longer string of a file."""


class Problems:
    """The problems of one load, each "FILE:LINE: SETTING: what was found, what was expected"."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, location: Location, message: str) -> None:
        self.messages.append(f"{location}: {message}")


def setting(doc: str, default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, key: str = "") -> Any:
    """Return a field of a settings table with its documentation; `key` is the TOML key if it is not a Python name."""
    metadata = {"doc": doc, "key": key}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def raise_problems(messages: Iterable[str]) -> None:
    """Raise one ValueError that carries every message, if there is a message. For the `__post_init__` of a table.

    Each message begins with the key that it is about, so that `read` can name the key's line.
    """
    every = tuple(messages)
    if every:
        raise ValueError(*every)


def closest(word: str, names: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the name closest to `word`, or the list of all names if no name is close."""
    names = sorted(names)
    return suggestion(word, names) or (f"; known here: {', '.join(names)}" if names else "")


def suggestion(word: str, names: Iterable[str]) -> str:
    """Return "; did you mean ...?" with the name closest to `word`. "" if no name is close."""
    import difflib

    matches = difflib.get_close_matches(word, list(names), 1, 0.6)
    return f'; did you mean "{matches[0]}"?' if matches else ""


def kind_of(value: object) -> str:
    """Return the TOML name of a value's type, such as "a string"."""
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), f"a {type(value).__name__}")


def _shown(value: object) -> str:
    """Return a value of a file for a message: a string quoted and cut, a number as it is, and only the type of any other."""
    if isinstance(value, str):
        return f'"{value if len(value) <= _TEXT_MAX else f"{value[:_TEXT_MAX]}..."}"'
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else kind_of(value)


def toml_keys(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """Return the keys that a table of this class may have, with their fields."""
    return {f.metadata.get("key") or f.name: f for f in dataclasses.fields(cls) if f.init and "doc" in f.metadata}


def read(cls: type[T], table: object, location: Location, problems: Problems, extra: Iterable[str] = ()) -> T | None:
    """Return a `cls` from a TOML table, or None after adding every problem found. Keys in `extra` belong to another record.

    A ValueError of the record's `__post_init__` is a problem too, at the key that its message begins with.
    """
    if not isinstance(table, Mapping):
        problems.add(location, f"expected a table, found {kind_of(table)}")
        return None
    fields, hints, count_before = toml_keys(cls), typing.get_type_hints(cls), len(problems.messages)
    skipped = set(extra)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in skipped:
            continue
        if key not in fields:
            problems.add(location.key(key), f'unknown key "{key}"{closest(key, {*fields, *skipped})}')
            continue
        field = fields[key]
        values[field.name] = convert(hints[field.name], value, location.key(key), problems)
    for key, field in fields.items():
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and key not in table:
            problems.add(location, f'"{key}" is missing; it is required')
    if len(problems.messages) > count_before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        for message in _messages(error):
            first_word = re.match(r"[A-Za-z0-9_-]*", message)
            key = first_word[0] if first_word else ""
            problems.add(location.key(key) if key in fields else location, message)
        return None


def _messages(error: ValueError) -> tuple[str, ...]:
    """Return the messages of a `__post_init__`: those of `raise_problems`, or the one of any other ValueError."""
    is_list = type(error) is ValueError and error.args and all(isinstance(message, str) for message in error.args)
    return error.args if is_list else (str(error) or type(error).__name__,)


def convert(hint: Any, value: object, location: Location, problems: Problems) -> Any:
    """Convert `value` to the type of the annotation `hint`. On a mismatch add a problem and return None."""
    if hint in (Seconds, Size, Mode):
        return _convert_written(hint, value, location, problems)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, location, problems)
    if origin is typing.Literal:
        if value not in arguments:
            expected = [str(argument) for argument in arguments]
            closest_name = suggestion(value, expected) if isinstance(value, str) else ""
            problems.add(location, f"found {_shown(value)}, expected one of: {', '.join(expected)}{closest_name}")
        return value
    if origin is tuple:
        return _convert_list(arguments[0], value, location, problems)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return _convert_table(arguments, value, location, problems)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return read(hint, value, location, problems)
    return _convert_plain(hint, value, location, problems)


def _convert_written(hint: Any, value: object, location: Location, problems: Problems) -> Any:
    """Convert a value that has a written form: a duration, a size or a mode."""
    if hint is Seconds:
        result: Any = seconds(value)
        expected = 'a duration such as "200ms", "5s", "2m", "1h" or "7d", not negative'
    elif hint is Size:
        result, expected = size(value), 'a size such as "512KiB" or "10MiB"'
    else:
        result, expected = mode(value), 'an octal mode in quotes such as "0640"'
    if result is None:
        problems.add(location, f"found {_shown(value)}, expected {expected}")
    return result


def _convert_union(arguments: tuple[Any, ...], value: object, location: Location, problems: Problems) -> Any:
    """Convert by the first annotation that fits. If no annotation fits, the problems are those of the likeliest one."""
    attempts = []
    for hint in arguments:
        if hint is type(None):
            continue
        attempt = Problems()
        result = convert(hint, value, location, attempt)
        if not attempt.messages:
            return result
        attempts.append((hint, attempt))
    tables = [attempt for hint, attempt in attempts if isinstance(value, Mapping) and dataclasses.is_dataclass(hint)]
    problems.messages.extend((tables or [attempts[0][1]])[0].messages)
    return None


def _convert_list(item: Any, value: object, location: Location, problems: Problems) -> Any:
    if not isinstance(value, list):
        problems.add(location, f"expected a list, found {kind_of(value)}")
        return None
    return tuple(convert(item, part, location.item(index), problems) for index, part in enumerate(value))


def _convert_table(arguments: tuple[Any, ...], value: object, location: Location, problems: Problems) -> Any:
    if not isinstance(value, Mapping):
        problems.add(location, f"expected a table, found {kind_of(value)}")
        return None
    if not arguments or arguments[1] is Any:
        return dict(value)
    return {key: convert(arguments[1], part, location.key(key), problems) for key, part in value.items()}


def _convert_plain(hint: Any, value: object, location: Location, problems: Problems) -> Any:
    if hint is Any or hint is object:
        return value
    fits = type(value) is hint or (hint is float and type(value) is int)
    if not fits:
        names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
        text = f" ({_shown(value)})" if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""
        problems.add(location, f"expected {names.get(hint, hint)}, found {kind_of(value)}{text}")
        return None
    return float(typing.cast(float, value)) if hint is float else value
