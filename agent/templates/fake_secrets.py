"""A run config with every secret replaced by another of its shape: what a rendering of it shows, depends on no secret. Pure.

Masking finds a secret that a template prints as it is, or in a form that is known. A filter can give it any form; but a
line that is the same with other secrets holds none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.model import RunConfig
from agent.secret import Secret

_DIGITS, _LOWER, _UPPER = "0123456789", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TURNED = str.maketrans(_DIGITS + _LOWER + _UPPER, "".join(letters[1:] + letters[0] for letters in (_DIGITS, _LOWER, _UPPER)))


def of(config: RunConfig) -> RunConfig:
    """The same run config with other secrets."""
    return RunConfig(_tree(config.tree), config.origins, config.secrets)


def _tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _entry(value) for key, value in tree.items()}


def _entry(value: Any) -> Any:
    if isinstance(value, Secret):
        return Secret(_other(value.reveal()))
    return _tree(value) if isinstance(value, Mapping) else value


def _other(value: Any) -> Any:
    """Another value of the same type, length and punctuation, so that templates take the same way through it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        turned = value.translate(_TURNED)
        return turned if turned != value else f"{value}x"
    if isinstance(value, bytes):
        return bytes((byte + 1) % 256 for byte in value) or b"x"
    if isinstance(value, (list, tuple)):
        return [_other(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _other(item) for key, item in value.items()}
    return value
