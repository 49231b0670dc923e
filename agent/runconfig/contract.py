"""Enforce the contract on the merged tree: types, required keys, secrets, defaults. Pure; every problem is reported at once."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent.errors import ContractError
from agent.formats import strict_json
from agent.keypath import KeyPath, dotted, leaves, lookup
from agent.model import Merged, Origin, RunConfig
from agent.secret import Secret
from agent.settings.models import Key, KeyType
from agent.settings.schema import kind_of

_ABSENT = object()
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def enforce(merged: Merged, keys: Mapping[KeyPath, Key]) -> RunConfig:
    """Return the run config: `merged` with the declared keys converted, defaulted and, if secret, wrapped.

    Raises ContractError with every key that is missing or of the wrong type. Its messages never hold a value.
    """
    values, problems = _declared_values(merged, keys)
    if problems:
        raise ContractError(
            f"the run config breaks the contract: {len(problems)} key(s)",
            problems,
            hint="nothing was changed; set the keys in the store, or correct [keys] in the image",
        )
    return _run_config(merged, values)


def valid_subset(merged: Merged, keys: Mapping[KeyPath, Key]) -> RunConfig:
    """Return the run config without the keys that break the contract: to find further missing keys, never for a target."""
    return _run_config(merged, _declared_values(merged, keys)[0])


def _declared_values(merged: Merged, keys: Mapping[KeyPath, Key]) -> tuple[dict[KeyPath, Any], list[str]]:
    """Return the value of each declared key that has one, and the problems. A value of the wrong type is replaced by ""."""
    problems: list[str] = []
    values: dict[KeyPath, Any] = {}
    tree = _copy(merged.tree)
    for path in sorted(keys, key=len):  # a table that is text in the store has keys only once it is converted
        key, value = keys[path], lookup(tree, path, _ABSENT)
        parent = _value_above(tree, path)
        if parent:
            problems.append(
                f"{dotted(path)}: {dotted(parent)} is a value, expected a table, from {_origin_text(merged, parent)}"
            )
            continue
        if value is _ABSENT and key.default is None:
            if key.required:
                description = f" ({key.description})" if key.description else ""
                problems.append(f"{dotted(path)}: required, and in no layer{_closest_text(path, merged)}{description}")
            continue
        try:
            converted = _default(key) if value is _ABSENT else _CONVERTERS[key.type](value)
        except ValueError as error:
            converted = ""
            problems.append(f"{dotted(path)}: {error}, from {_origin_text(merged, path)}")
        values[path] = Secret(converted) if key.secret else converted
        _set(tree, path, values[path])
    return values, problems


def _value_above(tree: Mapping[str, Any], path: KeyPath) -> KeyPath | None:
    """Return the first part of a path that holds a value, so that no key can be below it."""
    for length in range(1, len(path)):
        value = lookup(tree, path[:length], _ABSENT)
        if value is not _ABSENT and not isinstance(value, Mapping):
            return path[:length]
    return None


def _run_config(merged: Merged, values: Mapping[KeyPath, Any]) -> RunConfig:
    tree = _copy(merged.tree)
    for path in values:
        _set(tree, path, values[path])
    origins = dict(merged.origins)
    defaulted = [path for path in values if lookup(merged.tree, path, _ABSENT) is _ABSENT]
    origins.update({path: Origin("contract", "default") for path in defaulted})
    return RunConfig(tree, origins, frozenset(path for path, value in leaves(tree) if isinstance(value, Secret)))


def _default(key: Key) -> Any:
    return _bytes(key.default) if key.type == "bytes" else key.default


def _closest_text(path: KeyPath, merged: Merged) -> str:
    import difflib

    matches = difflib.get_close_matches(dotted(path), [dotted(other) for other in merged.origins], 1, 0.8)
    return f"; there is {matches[0]}" if matches else ""


def _origin_text(merged: Merged, path: KeyPath) -> str:
    """Return the source and the layer of a value, or of the first value below a table."""
    for other, origin in merged.origins.items():
        if other[: len(path)] == path:
            return f"source {origin.source}, layer {origin.layer or '(top)'}"
    return "no layer"


def _set(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    for segment in path[:-1]:
        tree = tree.setdefault(segment, {})
    tree[path[-1]] = _copy(value) if isinstance(value, Mapping) else value


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in sorted(tree.items())}


# The converters. Each raises ValueError with the expected type and the type that was found, never with the value.


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _type_error(value, "a string; quote it in the store")


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,4000}\s*", value):
        return int(value)
    raise _type_error(value, "an integer")


def _number(value: Any) -> float | int:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return value
    if isinstance(value, str):
        try:
            return _integer(value)
        except ValueError:
            pass
        try:
            number = float(value)
        except ValueError:
            raise _type_error(value, "a number") from None
        if math.isfinite(number):
            return number
    raise _type_error(value, "a number")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in (*_TRUE, *_FALSE):
        return value.strip().lower() in _TRUE
    raise _type_error(value, "true or false")


def _list(value: Any) -> list[Any]:
    items: list[Any] = _parsed(value, list, "a list, or a JSON list as text")
    return items


def _table(value: Any) -> dict[str, Any]:
    table: dict[str, Any] = _parsed(value, dict, "a table, or a JSON object as text")
    return table


def _parsed(value: Any, cls: type, expected: str) -> Any:
    if isinstance(value, str):
        try:
            value = strict_json.parse(value)
        except ValueError:
            raise ValueError(f"found a string, expected {expected}") from None
    if isinstance(value, Mapping):
        value = dict(value)
    if not isinstance(value, cls):
        raise _type_error(value, expected)
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("found a string that is not base64, expected bytes in base64") from None
    if isinstance(value, bytes):
        return value
    raise _type_error(value, "bytes in base64")


def _type_error(value: Any, expected: str) -> ValueError:
    return ValueError(f"found {kind_of(value)}, expected {expected}")


_CONVERTERS: dict[KeyType, Callable[[Any], Any]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "list": _list,
    "table": _table,
    "bytes": _bytes,
}


def undeclared(reads: Iterable[KeyPath], keys: Mapping[KeyPath, Key]) -> list[KeyPath]:
    """Return the keys of `reads` that are not declared, and that have no declared table above or key below them."""
    return sorted(path for path in reads if not any(key[: len(path)] == path or path[: len(key)] == key for key in keys))
