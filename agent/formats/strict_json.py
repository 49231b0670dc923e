"""Strict JSON: what parbake reads from stores, whose mistakes must not become config."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def parse(text: str) -> Any:
    """The value of a JSON text. Raises ValueError with the place, never with what stands there.

    A key that an object has twice, NaN and Infinity are errors: readers disagree on what they mean.
    """
    try:
        return json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        names = [name for name, _ in pairs]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"the key {twice[0]!r} is there twice")
    return table


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
