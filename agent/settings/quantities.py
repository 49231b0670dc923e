"""Durations, sizes and file modes, for which TOML has no type: read from text and written as text."""

from __future__ import annotations

import re
from typing import NewType

Seconds = NewType("Seconds", float)
"""A duration, written "200ms", "5s", "2m", "1h", "1d" or a bare number of seconds."""
Size = NewType("Size", int)
"""A number of bytes, written "512KiB", "10MiB", "1GiB" or a bare number of bytes."""
Mode = NewType("Mode", int)
"""File permission bits, written as an octal string such as "0640"."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|d)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, None: 1.0}
_LONGEST = 100 * 365 * 86400.0
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|kB|MB|GB)?")
_SIZES = {None: 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def seconds(value: object) -> Seconds | None:
    """Return a duration in seconds. None if `value` is not a duration, is negative, or is longer than a century."""
    if isinstance(value, bool):
        return None
    if isinstance(value, (int, float)):
        return Seconds(float(value)) if 0 <= value <= _LONGEST else None
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        duration = float(match[1]) * _UNITS[match[2]]
        return Seconds(duration) if duration <= _LONGEST else None
    return None


def duration_text(duration: float) -> str:
    """Return a duration in seconds as the settings write it: 0.2 -> "200ms", 90 -> "90s", 604800 -> "7d"."""
    for unit in ("d", "h"):
        if duration and duration % _UNITS[unit] == 0:
            return f"{duration / _UNITS[unit]:.0f}{unit}"
    return f"{duration * 1000:g}ms" if 0 < duration < 1 else f"{duration:g}s"


def size(value: object) -> Size | None:
    """Return a size in bytes. None if `value` is not a size."""
    if isinstance(value, int) and not isinstance(value, bool):
        return Size(value) if value >= 0 else None
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        return Size(int(match[1]) * _SIZES[match[2]])
    return None


def size_text(count: int) -> str:
    """Return a number of bytes as the settings write it: 1048576 -> "1MiB", 100000 -> "100kB"."""
    unit = next((unit for unit in ("GiB", "MiB", "KiB", "GB", "MB", "kB") if count and count % _SIZES[unit] == 0), "B")
    return f"{count // _SIZES[unit]}{unit}"


def mode(value: object) -> Mode | None:
    """Return file permission bits. None if `value` is not an octal string."""
    return Mode(int(value, 8)) if isinstance(value, str) and re.fullmatch(r"0?[0-7]{3,4}", value) else None
