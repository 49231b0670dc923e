"""The digest of a run config: the same for the same inputs of a render, and no help in guessing a secret. Pure."""

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
    """Return "sha256:HEX" over everything that a render may depend on. Secrets enter it as an HMAC under `key`."""

    def keyed(value: Any) -> Any:
        if isinstance(value, Secret):
            return hmac.new(key, repr(value.reveal()).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        if isinstance(value, Mapping):
            return {name: keyed(item) for name, item in value.items()}
        if isinstance(value, bytes):
            return base64.b64encode(value).decode("ascii")
        return value

    plain = json.dumps([keyed(config.tree), keyed(dict(facts)), dict(build)], sort_keys=True, default=str)
    return "sha256:" + hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()
