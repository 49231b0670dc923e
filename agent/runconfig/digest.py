"""The digest of everything that a render may depend on. Pure."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any

from agent.model import RunConfig
from agent.secret import Secret


def digest(config: RunConfig, facts: Mapping[str, Any], build: Mapping[str, str], key: bytes) -> str:
    """Return "sha256:" and the hexadecimal digest of the run config, the facts and the build config.

    `key` is this instance's digest key, 32 bytes. A secret enters the digest as an HMAC with this key, so that the digest
    cannot be used to test guesses of the secret.
    """
    inputs = [_keyed(config.tree, key), _keyed(dict(facts), key), dict(build)]
    text = json.dumps(inputs, sort_keys=True, default=str)
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _keyed(value: Any, key: bytes) -> Any:
    """Return a value for JSON: each secret as its HMAC, bytes as base64."""
    if isinstance(value, Secret):
        return hmac.new(key, repr(value.reveal()).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
    if isinstance(value, Mapping):
        return {name: _keyed(item, key) for name, item in value.items()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value
