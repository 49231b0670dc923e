"""Finds journal files that libsystemd omits silently."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

_SIGNATURE = b"LPKSHHRH"
_SIZES = struct.Struct("<QQ")
_SIZES_OFFSET = 88
"""The offset of header_size and arena_size (systemd.io, "Journal File Format")."""


def damaged_files(directories: Iterable[Path]) -> set[str]:
    """Return the journal files below `directories` that have an invalid header or are truncated."""
    damaged = set()
    for directory in directories:
        for path in directory.glob("**/*.journal*"):
            try:
                with path.open("rb") as file:
                    head = file.read(_SIZES_OFFSET + _SIZES.size)
                    length = file.seek(0, 2)
            except OSError:
                continue
            if not length:
                continue  # journald is creating it
            if head.startswith(_SIGNATURE) and len(head) == _SIZES_OFFSET + _SIZES.size:
                header_size, arena_size = _SIZES.unpack_from(head, _SIZES_OFFSET)
                if header_size + arena_size <= length:
                    continue
            damaged.add(str(path))
    return damaged
