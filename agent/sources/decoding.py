"""Parse TOML, YAML and JSON documents into the tables of a layer."""

from __future__ import annotations

import base64
import datetime
import math
import tomllib
from collections.abc import Mapping
from typing import Any

from agent.errors import SourceInvalid
from agent.formats import strict_json

FORMATS = {".toml": "TOML", ".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}
"""File suffix -> format."""
CONTENT_TYPES = {
    "application/json": "JSON",
    "text/json": "JSON",
    "application/toml": "TOML",
    "text/x-toml": "TOML",
    "application/yaml": "YAML",
    "application/x-yaml": "YAML",
    "text/yaml": "YAML",
    "text/x-yaml": "YAML",
}
_MAX_VALUES = 1_000_000
_INTEGER_LIMIT = 10**4000
"""Python refuses to write an integer of more than 4300 digits, but reads a longer one from hexadecimal."""


def parse(content: bytes | str, document_format: str, where: str) -> dict[str, Any]:
    """Return the table of a document; an empty document gives an empty table.

    `document_format` is a value of FORMATS, `where` names the document in messages. Dates become ISO 8601 text, and YAML's
    !!binary becomes base64 text, as a key of type bytes expects it. Raises SourceInvalid with the line of the mistake and
    without the document's text.
    """
    try:
        text = content.decode("utf-8-sig") if isinstance(content, bytes) else content
    except UnicodeDecodeError as error:
        raise SourceInvalid(f"{where}: byte {error.start} is not UTF-8") from None
    try:
        value = _load(text, document_format)
    except ValueError as error:
        raise SourceInvalid(f"{where} is not valid {document_format}: {error}") from None
    return plain_table({} if value is None else value, where)


def _load(text: str, document_format: str) -> Any:
    if document_format == "TOML":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ValueError(_without_quotes(str(error))) from None
        except RecursionError:
            raise ValueError("nested too deeply") from None
    if document_format == "JSON":
        return strict_json.parse(text) if text.strip() else None
    from agent.formats.strict_yaml import load

    return load(text)


def _without_quotes(message: str) -> str:
    """Return tomllib's message without the quotes from the document that some messages have."""
    problem, _, position = message.rpartition(" (at ")
    return f"{problem.split(':')[0].split(chr(39))[0].strip()} (at {position}" if problem else "it breaks off"


def plain_table(value: Any, where: str) -> dict[str, Any]:
    """Return a document's value as plain tables with text as keys. Raises SourceInvalid if that is not possible."""
    if not isinstance(value, Mapping):
        raise SourceInvalid(f"{where} holds {_type_name(value)} instead of keys and values")
    remaining = [_MAX_VALUES]
    try:
        plain: dict[str, Any] = _plain(value, "", remaining)
    except ValueError as error:
        raise SourceInvalid(f"{where}: {error}") from None
    except RecursionError:
        raise SourceInvalid(f"{where} is nested too deeply") from None
    return plain


def _plain(value: Any, path: str, remaining: list[int]) -> Any:
    remaining[0] -= 1
    if remaining[0] < 0:
        raise ValueError(f"it has more than {_MAX_VALUES} values")
    if isinstance(value, Mapping):
        items = ((_key(key, path), item) for key, item in value.items())
        return {name: _plain(item, f"{path}.{name}".lstrip("."), remaining) for name, item in items}
    if isinstance(value, list):
        return [_plain(item, f"{path}[{index}]", remaining) for index, item in enumerate(value)]
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} is not a finite number")
    if isinstance(value, int) and abs(value) >= _INTEGER_LIMIT:
        raise ValueError(f"{path} is a number with too many digits")
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise ValueError(f"{path} is {_type_name(value)}, which run config cannot hold")


def _key(key: Any, path: str) -> str:
    if isinstance(key, int) and not isinstance(key, bool) and abs(key) < _INTEGER_LIMIT:
        return str(key)
    if not isinstance(key, str) or not key:
        raise ValueError(f"a key{' below ' + path if path else ''} is {_type_name(key)}; put it in quotes")
    return key


def _type_name(value: Any) -> str:
    names = {
        bool: "true or false",
        list: "a list",
        str: "text",
        type(None): "nothing",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), f"a {type(value).__name__}")
