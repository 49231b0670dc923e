"""Reads the mapping under the `parbake` key of user-data.

User-data belongs to its writer. It may be a script, an archive or anything else, so a body without that mapping is no error.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

from agent.discovery import parsers
from agent.errors import DiscoveryError

KEY = "parbake"
MAX_BYTES = 1024 * 1024
_GZIP = b"\x1f\x8b"
_OTHER_KINDS = (b"#!", b"Content-Type:", b"MIME-Version:")


def parbake_table(raw: bytes) -> Mapping[str, Any] | None:
    """Return the mapping under the `parbake` key of user-data in YAML or JSON, gzipped or not. None if there is no mapping."""
    if raw.startswith(_GZIP):
        raw = _decompress(raw)
    if KEY.encode() not in raw or raw.startswith(_OTHER_KINDS) or len(raw) > MAX_BYTES:
        return None
    parse = parsers.json_table if raw.lstrip().startswith(b"{") else parsers.yaml_table
    try:
        table = parse(raw, "user-data").get(KEY)
    except DiscoveryError:
        return None
    return table if isinstance(table, dict) else None


def parbake_table_in(value: object, *, base64: bool = False) -> Mapping[str, Any] | None:
    """Return the same mapping of user-data that is a string in another document, plain or in base64. None as above."""
    if not isinstance(value, str):
        return None
    try:
        return parbake_table(parsers.base64_bytes(value, "user-data") if base64 else value.encode())
    except (DiscoveryError, UnicodeEncodeError):
        return None


def _decompress(raw: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(raw, MAX_BYTES)
    except zlib.error:
        return b""
