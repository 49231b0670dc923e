"""A writer of TOML 1.0 (https://toml.io/en/v1.0.0). The standard library only reads TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any


def dumps(value: Any) -> str:
    """Return a table as a TOML document with sorted keys. Raises ValueError for a value TOML does not have, such as None."""
    if not isinstance(value, Mapping):
        raise ValueError("only a table can be written as TOML")
    lines: list[str] = []
    _table(value, (), lines)
    return "\n".join(lines).lstrip("\n") + "\n" if lines else ""


def inline(value: Any) -> str:
    """Return any value as the right side of `key = value`. Raises ValueError for a value that TOML does not have."""
    return _value(value)


def _table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    lines.extend(f"{_key(key)} = {_value(table[key])}" for key in sorted(table) if not isinstance(table[key], Mapping))
    for key in sorted(table):
        if isinstance(table[key], Mapping):
            lines.extend(["", f"[{'.'.join(_key(part) for part in (*path, key))}]"])
            _table(table[key], (*path, key), lines)


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _string(key)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(value[key])}" for key in sorted(value)) + "}"
    raise ValueError(f"TOML has no {type(value).__name__}")
