"""TOML, YAML and JSON documents -> the tables of a layer."""

from __future__ import annotations

import base64
import datetime
import math
import tomllib
from collections.abc import Mapping
from typing import Any

from agent.errors import SourceInvalid
from agent.formats import strict_json

FORMS = {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}
TYPES = {
    "application/json": "JSON",
    "text/json": "JSON",
    "application/toml": "TOML",
    "text/x-toml": "TOML",
    "application/yaml": "YAML",
    "application/x-yaml": "YAML",
    "text/yaml": "YAML",
    "text/x-yaml": "YAML",
}
_MOST_VALUES = 1_000_000
_LONGEST_INTEGER = 10**4000
"""Written in hexadecimal, a longer one is read, and then breaks whoever would write it: Python refuses at 4300 digits."""


def parse(content: bytes | str, form: str, where: str) -> dict[str, Any]:
    """The table that a document is; an empty document is an empty one.

    Dates become ISO strings, and YAML's !!binary its base64, as a key of type bytes expects it. Raises SourceInvalid with the
    place of the mistake, and never with what stands there.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise SourceInvalid(f"{where}: byte {error.start} is not UTF-8") from None
    try:
        value = _load(text, form)
    except ValueError as error:
        raise SourceInvalid(f"{where} is no valid {form}: {error}") from None
    return table({} if value is None else value, where)


def _load(text: str, form: str) -> Any:
    if form == "TOML":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(_place_only(str(error))) from None
        except RecursionError:
            raise ValueError("nested too deeply") from None
    if form == "JSON":
        return strict_json.parse(text) if text.strip() else None
    from agent.formats.strict_yaml import load

    return load(text)


def _place_only(message: str) -> str:
    """tomllib's message without the quotes from the document that some have."""
    what, _, place = message.rpartition(" (at ")
    return f"{what.split(':')[0].split(chr(39))[0].strip()} (at {place}" if what else "it breaks off"


def table(value: Any, where: str) -> dict[str, Any]:
    """A document's value as plain tables with text for keys. Raises SourceInvalid where it is none."""
    if not isinstance(value, Mapping):
        raise SourceInvalid(f"{where} holds {_kind(value)} where keys and their values are expected")
    left = [_MOST_VALUES]
    try:
        plain: dict[str, Any] = _plain(value, "", left)
    except ValueError as error:
        raise SourceInvalid(f"{where}: {error}") from None
    except RecursionError:
        raise SourceInvalid(f"{where} is nested too deeply") from None
    return plain


def _plain(value: Any, path: str, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"it has more than {_MOST_VALUES} values")
    if isinstance(value, Mapping):
        named = ((_key(key, path), item) for key, item in value.items())
        return {name: _plain(item, f"{path}.{name}".lstrip("."), left) for name, item in named}
    if isinstance(value, list):
        return [_plain(item, f"{path}[{index}]", left) for index, item in enumerate(value)]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} is not a finite number")
    if isinstance(value, int) and abs(value) >= _LONGEST_INTEGER:
        raise ValueError(f"{path} is too long a number")
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(f"{path} is {_kind(value)}, which run config cannot hold")


def _key(key: Any, path: str) -> str:
    if isinstance(key, int) and not isinstance(key, bool) and abs(key) < _LONGEST_INTEGER:
        return str(key)
    if not isinstance(key, str) or not key:
        raise ValueError(f"a key{' below ' + path if path else ''} is {_kind(key)}; put it in quotes")
    return key


def _kind(value: Any) -> str:
    names = {
        bool: "true or false",
        list: "a list",
        str: "text",
        type(None): "nothing",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), f"a {type(value).__name__}")
