"""Journal files that libsystemd leaves out: it says nothing about them, and their entries are missed by nobody."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

_SIGNATURE = b"LPKSHHRH"
_SIZES = struct.Struct("<QQ")
_SIZES_AT = 88
"""Where header_size and arena_size stand (systemd.io, "Journal File Format")."""


def damaged_files(directories: Iterable[Path]) -> set[str]:
    """The journal files below `directories` whose header is none, or that are shorter than it says."""
    found = set()
    for directory in directories:
        for path in directory.glob("**/*.journal*"):
            try:
                with path.open("rb") as file:
                    head = file.read(_SIZES_AT + _SIZES.size)
                    length = file.seek(0, 2)
            except OSError:
                continue
            if not length:
                continue  # it is being made
            if head.startswith(_SIGNATURE) and len(head) == _SIZES_AT + _SIZES.size:
                header, arena = _SIZES.unpack_from(head, _SIZES_AT)
                if header + arena <= length:
                    continue
            found.add(str(path))
    return found
