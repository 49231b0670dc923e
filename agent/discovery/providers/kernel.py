"""Facts from the kernel command line: parbake.NAME=value, or parbake.NAME="two words".

The quoting is the kernel's: double quotes around a value or a whole word, no escapes (kernel-parameters.rst).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.discovery import Context
from agent.discovery.container import in_container
from agent.paths import Paths

PREFIX = "parbake."
_WORD = re.compile(r'(?:[^\s"]|"[^"]*(?:"|$))+')
_MAX_BYTES = 64 * 1024


class Kernel:
    """Reads the kernel command line. A container has the host's, so init's arguments are read there, as systemd does."""

    def discover(self, context: Context) -> Mapping[str, str]:
        """Return the facts. The last of several words with one name wins."""
        facts: dict[str, str] = {}
        for word in words(context.paths):
            name, equals, value = word.partition("=")
            if name.startswith(PREFIX) and equals:
                facts[name.removeprefix(PREFIX)] = value
        return facts


def parse(text: str) -> list[str]:
    """Return the words of a kernel command line without their quotes."""
    return [word.replace('"', "") for word in _WORD.findall(text)]


def words(paths: Paths) -> Iterator[str]:
    """Yield the words of the command line of this machine or container."""
    cmdline = paths.host("/proc/cmdline")
    if not in_container(paths):
        yield from parse(_read(cmdline))
        return
    yield from _read(paths.host("/proc/1/cmdline")).split("\0")[1:]
    if _is_mounted(cmdline):
        yield from parse(_read(cmdline))


def _is_mounted(path: Path) -> bool:
    """Return whether a file is mounted over the host's, which gives the container a separate command line."""
    try:
        return os.stat(path).st_dev != os.stat(path.parent).st_dev
    except OSError:
        return False


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
