"""TOML tables -> frozen dataclasses, with every problem collected and none raised.

A dataclass is the single record of its table: the field's name is the key, its annotation the type, its default the
default, its metadata the documentation. `read` serves the settings and every plugin's own options alike.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, NewType, TypeVar

Seconds = NewType("Seconds", float)
"""A duration, written "200ms", "5s", "2m", "1h", "1d" or a bare number of seconds."""
Size = NewType("Size", int)
"""A number of bytes, written "512KiB", "10MiB", "1GiB" or a bare number of bytes."""
Mode = NewType("Mode", int)
"""File permission bits, written as an octal string such as "0640"."""

T = TypeVar("T")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_LONGEST = 100 * 365 * 86400.0
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|kB|MB|GB)?")
_SIZES = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


class Problems:
    """The findings of one load, each "FILE: where: what was found; what was expected"."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, what: str) -> None:
        self.found.append(f"{where}: {what}")


def setting(doc: str, default: Any = dataclasses.MISSING, *, factory: Any = dataclasses.MISSING, key: str = "") -> Any:
    """A field of a settings table, with its documentation; `key` where the TOML key is no Python name."""
    metadata = {"doc": doc, "key": key}
    if factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def closest(word: str, known: Iterable[str]) -> str:
    """ " Did you mean ...?" with the closest known word, or the list of those there are."""
    import difflib

    names = sorted(known)
    near = difflib.get_close_matches(word, names, 1, 0.6)
    if near:
        return f'; did you mean "{near[0]}"?'
    return f"; known here: {', '.join(names)}" if names else ""


def seconds(text: object) -> Seconds | None:
    """A duration in seconds, or None where `text` is not one, or longer than a century."""
    if isinstance(text, bool):
        return None
    if isinstance(text, (int, float)):
        return Seconds(float(text)) if 0 <= text <= _LONGEST else None
    if isinstance(text, str) and (match := _DURATION.fullmatch(text.strip())):
        found = float(match[1]) * _UNITS[match[2]]
        return Seconds(found) if found <= _LONGEST else None
    return None


def size(text: object) -> Size | None:
    """A size in bytes, or None where `text` is not one."""
    if isinstance(text, int) and not isinstance(text, bool):
        return Size(text) if text >= 0 else None
    if isinstance(text, str) and (match := _SIZE.fullmatch(text.strip())):
        return Size(int(match[1]) * _SIZES[match[2]])
    return None


def kind_of(value: object) -> str:
    """The TOML name of a value's type."""
    names = {bool: "a boolean", int: "an integer", float: "a number", str: "a string", list: "a list", dict: "a table"}
    return names.get(type(value), f"a {type(value).__name__}")


def toml_keys(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The keys a table of this class may have."""
    return {f.metadata.get("key") or f.name: f for f in dataclasses.fields(cls) if f.init and "doc" in f.metadata}


def read(cls: type[T], table: object, where: str, problems: Problems, extra: Iterable[str] = ()) -> T | None:
    """A `cls` from a TOML table, or None after adding every problem found. Keys in `extra` are someone else's."""
    if not isinstance(table, Mapping):
        problems.add(where, f"expected a table, found {kind_of(table)}")
        return None
    known, hints, before = toml_keys(cls), typing.get_type_hints(cls), len(problems.found)
    skipped = set(extra)
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in skipped:
            continue
        if key not in known:
            problems.add(where, f'unknown key "{key}"{closest(key, {*known, *skipped})}')
            continue
        field = known[key]
        values[field.name] = convert(hints[field.name], value, f"{where}.{key}", problems)
    for key, field in known.items():
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING and key not in table:
            problems.add(where, f'"{key}" is missing; it is required')
    if len(problems.found) > before:
        return None
    try:
        return cls(**values)
    except ValueError as error:
        problems.add(where, str(error))
        return None


def convert(hint: Any, value: object, where: str, problems: Problems) -> Any:
    """`value` as the annotation asks for; on a mismatch a problem is added and None returned."""
    if hint in (Seconds, Size, Mode):
        return _convert_written(hint, value, where, problems)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where, problems)
    if origin is typing.Literal:
        if value not in arguments:
            offered = value if isinstance(value, str) else ""
            found = f'"{value}"' if offered else kind_of(value)
            problems.add(where, f"found {found}, expected one of: {', '.join(map(str, arguments))}{_near(offered, arguments)}")
        return value
    if origin is tuple:
        return _convert_list(arguments[0], value, where, problems)
    if origin in (dict, Mapping) or hint in (dict, Mapping):
        return _convert_table(arguments, value, where, problems)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return read(hint, value, where, problems)
    return _convert_plain(hint, value, where, problems)


def _near(word: str, known: Iterable[Any]) -> str:
    import difflib

    near = difflib.get_close_matches(word, [str(k) for k in known], 1, 0.6)
    return f'; did you mean "{near[0]}"?' if near else ""


def _convert_written(hint: Any, value: object, where: str, problems: Problems) -> Any:
    found = f'"{value}"' if isinstance(value, str) else kind_of(value)
    if hint is Seconds:
        result: Any = seconds(value)
        expected = 'a duration such as "200ms", "5s", "2m" or "1h"'
    elif hint is Size:
        result, expected = size(value), 'a size such as "512KiB" or "10MiB"'
    else:
        octal = isinstance(value, str) and re.fullmatch(r"0?[0-7]{3,4}", value)
        result = Mode(int(str(value), 8)) if octal else None
        expected = 'an octal mode in quotes such as "0640"'
    if result is None:
        problems.add(where, f"found {found}, expected {expected}")
    return result


def _convert_union(arguments: tuple[Any, ...], value: object, where: str, problems: Problems) -> Any:
    tries = []
    for option in arguments:
        if option is type(None):
            continue
        attempt = Problems()
        result = convert(option, value, where, attempt)
        if not attempt.found:
            return result
        tries.append((option, attempt))
    fitting = [a for o, a in tries if isinstance(value, Mapping) and dataclasses.is_dataclass(o)]
    problems.found.extend((fitting or [tries[0][1]])[0].found)
    return None


def _convert_list(item: Any, value: object, where: str, problems: Problems) -> Any:
    if not isinstance(value, list):
        problems.add(where, f"expected a list, found {kind_of(value)}")
        return None
    return tuple(convert(item, v, f"{where}[{i}]", problems) for i, v in enumerate(value))


def _convert_table(arguments: tuple[Any, ...], value: object, where: str, problems: Problems) -> Any:
    if not isinstance(value, Mapping):
        problems.add(where, f"expected a table, found {kind_of(value)}")
        return None
    if not arguments or arguments[1] is Any:
        return dict(value)
    return {k: convert(arguments[1], v, f"{where}.{k}", problems) for k, v in value.items()}


def _convert_plain(hint: Any, value: object, where: str, problems: Problems) -> Any:
    if hint is Any or hint is object:
        return value
    fits = type(value) is hint or (hint is float and type(value) is int)
    if not fits:
        names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
        shown = f' ("{value}")' if isinstance(value, str) and len(value) <= 60 else ""
        problems.add(where, f"expected {names.get(hint, hint)}, found {kind_of(value)}{shown}")
        return None
    return float(typing.cast(float, value)) if hint is float else value
