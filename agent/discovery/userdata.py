"""Bytes from outside -> tables: JSON, TOML, YAML and user-data. Bounded, and every foreign error translated here."""

from __future__ import annotations

import binascii
import json
import zlib
from collections.abc import Mapping
from typing import Any

from agent.errors import DiscoveryError

MAX_BYTES = 1024 * 1024


def text(raw: bytes, what: str) -> str:
    """`raw` as UTF-8. Raises DiscoveryError."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise DiscoveryError(f"{what} is not UTF-8 text") from None


def json_table(raw: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises DiscoveryError, as for a body that was cut off."""
    try:
        value = json.loads(text(raw, what))
    except (ValueError, RecursionError):
        raise DiscoveryError(f"{what} is not valid JSON (cut off?)") from None
    if not isinstance(value, dict):
        raise DiscoveryError(f"{what} is not a JSON object")
    return value


def toml_table(raw: bytes, what: str) -> dict[str, Any]:
    """A TOML document. Raises DiscoveryError."""
    import tomllib

    try:
        return tomllib.loads(text(raw, what))
    except (ValueError, RecursionError) as error:
        raise DiscoveryError(f"{what} is not valid TOML: {error}") from None


def yaml_table(raw: bytes, what: str) -> dict[str, Any]:
    """A YAML mapping; an empty document is an empty one. Raises DiscoveryError.

    Aliases are refused, since a few hundred bytes of them expand to gigabytes, and deep nesting, on which the parser in
    C overruns the stack and takes the process with it.
    """
    import yaml

    body = text(raw, what)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for token in yaml.scan(body, Loader=loader):
            kind = type(token).__name__
            depth += (kind in _YAML_OPENS) - (kind in _YAML_CLOSES)
            if kind == "AliasToken" or depth > MAX_DEPTH:
                problem = "uses aliases" if kind == "AliasToken" else f"is nested deeper than {MAX_DEPTH} levels"
                raise DiscoveryError(f"{what} {problem}, and such YAML is not read here")
        value = yaml.load(body, Loader=loader)  # noqa: S506 - a safe loader, the C one where there is one
    except DiscoveryError:
        raise
    except Exception as error:  # noqa: BLE001 - the library says what does not fit a tag with whatever its code stumbles over
        problem = getattr(error, "problem", None) or type(error).__name__
        raise DiscoveryError(f"{what} is not valid YAML: {problem}") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise DiscoveryError(f"{what} is not a mapping")
    return value


MAX_DEPTH = 100
_YAML_OPENS = ("BlockSequenceStartToken", "BlockMappingStartToken", "FlowSequenceStartToken", "FlowMappingStartToken")
_YAML_CLOSES = ("BlockEndToken", "FlowSequenceEndToken", "FlowMappingEndToken")


def unbase64(body: str | bytes, what: str) -> bytes:
    """Raises DiscoveryError."""
    try:
        return binascii.a2b_base64(body)
    except (binascii.Error, ValueError):
        raise DiscoveryError(f"{what} is not valid base64") from None


def userdata(raw: bytes) -> Mapping[str, Any] | None:
    """The mapping under the `parbake` key of user-data, or None where user-data is something else.

    User-data belongs to its writer, and may be a script, an archive, or anything: what is no mapping with that key is
    no error.
    """
    if raw.startswith(b"\x1f\x8b"):
        raw = _gunzip(raw)
    if b"parbake" not in raw or raw.startswith((b"#!", b"Content-Type:", b"MIME-Version:")) or len(raw) > MAX_BYTES:
        return None
    try:
        value = json_table(raw, "user-data") if raw.lstrip().startswith(b"{") else yaml_table(raw, "user-data")
    except DiscoveryError:
        return None
    found = value.get("parbake")
    return found if isinstance(found, dict) else None


def _gunzip(raw: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(raw, MAX_BYTES)
    except zlib.error:
        return b""
