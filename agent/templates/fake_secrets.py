"""Replace every secret of a run config with a fake one of the same shape. A rendering with fake secrets reveals none. Pure.

Masking finds a secret that a template prints unchanged or in a known encoding. A filter can print a secret in any other
form. A line that is equal in the renderings with real and with fake secrets does not depend on a secret.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any

from agent.model import RunConfig
from agent.secret import Secret

_ALPHABETS = (string.digits, string.ascii_lowercase, string.ascii_uppercase)
_NEXT_CHARACTER = str.maketrans("".join(_ALPHABETS), "".join(letters[1:] + letters[0] for letters in _ALPHABETS))


def of(config: RunConfig) -> RunConfig:
    """Return the same run config with fake secrets."""
    return RunConfig(_fake_tree(config.tree), config.origins, config.secrets)


def _fake_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    fake: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Secret):
            fake[key] = Secret(_fake_value(value.reveal()))
        else:
            fake[key] = _fake_tree(value) if isinstance(value, Mapping) else value
    return fake


def _fake_value(value: Any) -> Any:
    """Return another value of the same type, length and punctuation, so that templates take the same branches."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        fake = value.translate(_NEXT_CHARACTER)
        return fake if fake != value else f"{value}x"
    if isinstance(value, bytes):
        return bytes((byte + 1) % 256 for byte in value) or b"x"
    if isinstance(value, (list, tuple)):
        return [_fake_value(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _fake_value(item) for key, item in value.items()}
    return value
