"""A strict JSON decoder for text from stores, metadata services and receivers. The only one in parbake."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse(text: str, *, unique_keys: bool = True) -> Any:
    """Return the value of a JSON text (RFC 8259).

    NaN and Infinity are errors, because parsers disagree about them, and so are duplicate keys. `unique_keys=False` takes the
    last one, as for a document that belongs to another program. Raises ValueError, which names a position or a key and never a
    value.
    """
    hook = _unique_keys if unique_keys else None
    try:
        return json.loads(text, object_pairs_hook=hook, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        duplicate = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {duplicate!r} occurs twice")
    return table


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
