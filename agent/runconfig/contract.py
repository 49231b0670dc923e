"""The merged tree under the contract: types, required, secret, default. Pure; every problem is reported at once."""

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
from agent.settings.models import Key
from agent.settings.schema import kind_of

_ABSENT = object()
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def enforce(merged: Merged, keys: Mapping[KeyPath, Key]) -> RunConfig:
    """The run config. Raises ContractError with every key that is missing or of the wrong type; never shows a value."""
    declared, problems = _declared(merged, keys)
    if problems:
        raise ContractError(
            f"the run config breaks the contract: {len(problems)} key(s)",
            problems,
            hint="nothing was changed; set the keys in the store, or correct [keys] in the image",
        )
    return _config(merged, declared)


def valid_subset(merged: Merged, keys: Mapping[KeyPath, Key]) -> RunConfig:
    """The run config without the keys that break the contract: for finding what else is missing, never for a target."""
    return _config(merged, _declared(merged, keys)[0])


def _declared(merged: Merged, keys: Mapping[KeyPath, Key]) -> tuple[dict[KeyPath, Any], list[str]]:
    problems: list[str] = []
    declared: dict[KeyPath, Any] = {}
    tree = _copy(merged.tree)
    for path in sorted(keys, key=len):  # a table that is text in the store is known only once it is converted
        key, value = keys[path], lookup(tree, path, _ABSENT)
        around = _value_around(tree, path)
        if around:
            problems.append(f"{dotted(path)}: {dotted(around)} is a value, expected a table, from {_place(merged, around)}")
            continue
        if value is _ABSENT and key.default is None:
            if key.required:
                problems.append(f"{dotted(path)}: required, and in no layer{_near(path, merged)}{_described(key)}")
            continue
        try:
            converted = _default(key) if value is _ABSENT else _convert(value, key.type)
        except ValueError as error:
            converted = ""
            problems.append(f"{dotted(path)}: {error}, from {_place(merged, path)}")
        declared[path] = Secret(converted) if key.secret else converted
        _put(tree, path, declared[path])
    return declared, problems


def _value_around(tree: Mapping[str, Any], path: KeyPath) -> KeyPath | None:
    """The nearest part of a path that holds a value, so that nothing can be below it."""
    for length in range(1, len(path)):
        found = lookup(tree, path[:length], _ABSENT)
        if found is not _ABSENT and not isinstance(found, Mapping):
            return path[:length]
    return None


def _config(merged: Merged, declared: Mapping[KeyPath, Any]) -> RunConfig:
    tree = _copy(merged.tree)
    for path in declared:
        _put(tree, path, declared[path])
    origins = dict(merged.origins)
    defaulted = [path for path in declared if lookup(merged.tree, path, _ABSENT) is _ABSENT]
    origins.update({path: Origin("contract", "default") for path in defaulted})
    return RunConfig(tree, origins, frozenset(path for path, value in leaves(tree) if isinstance(value, Secret)))


def _default(key: Key) -> Any:
    return _bytes(key.default) if key.type == "bytes" else key.default


def _described(key: Key) -> str:
    return f" ({key.description})" if key.description else ""


def _near(path: KeyPath, merged: Merged) -> str:
    import difflib

    near = difflib.get_close_matches(dotted(path), [dotted(p) for p in merged.origins], 1, 0.8)
    return f"; there is {near[0]}" if near else ""


def _place(merged: Merged, path: KeyPath) -> str:
    for known, origin in merged.origins.items():
        if known[: len(path)] == path:
            return f"source {origin.source}, layer {origin.layer or '(top)'}"
    return "no layer"


def _put(tree: dict[str, Any], path: KeyPath, value: Any) -> None:
    for segment in path[:-1]:
        tree = tree.setdefault(segment, {})
    tree[path[-1]] = _copy(value) if isinstance(value, Mapping) else value


def _copy(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy(value) if isinstance(value, Mapping) else value for key, value in sorted(tree.items())}


def _convert(value: Any, kind: str) -> Any:
    """`value` as `kind`. Raises ValueError that says what was expected and never what was found, but for its type."""
    return _CONVERTERS[kind](value)


def _string(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise _wrong(value, "a string; quote it in the store")


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,4000}\s*", value):
        return int(value)
    raise _wrong(value, "an integer")


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
            raise _wrong(value, "a number") from None
        if math.isfinite(number):
            return number
    raise _wrong(value, "a number")


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in (*_TRUE, *_FALSE):
        return value.strip().lower() in _TRUE
    raise _wrong(value, "true or false")


def _list(value: Any) -> list[Any]:
    found: list[Any] = _parsed(value, list, "a list, or a JSON list as text")
    return found


def _mapping(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = _parsed(value, dict, "a table, or a JSON object as text")
    return found


def _parsed(value: Any, kind: type, expected: str) -> Any:
    if isinstance(value, str):
        try:
            value = strict_json.parse(value)
        except ValueError:
            raise ValueError(f"found a string, expected {expected}") from None
    if isinstance(value, Mapping):
        value = dict(value)
    if not isinstance(value, kind):
        raise _wrong(value, expected)
    return value


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode("".join(value.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("found a string that is not base64, expected bytes in base64") from None
    if isinstance(value, bytes):
        return value
    raise _wrong(value, "bytes in base64")


def _wrong(value: Any, expected: str) -> ValueError:
    return ValueError(f"found {kind_of(value)}, expected {expected}")


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "list": _list,
    "table": _mapping,
    "bytes": _bytes,
}


def undeclared(reads: Iterable[KeyPath], keys: Mapping[KeyPath, Key]) -> list[KeyPath]:
    """The keys of `reads` that the contract says nothing about: neither they, nor a table around or below them."""
    return sorted(
        path for path in reads if not any(known[: len(path)] == path or path[: len(known)] == known for known in keys)
    )
