"""Facts from the kernel command line: parbake.NAME=value, or parbake.NAME="two words".

Quoting is the kernel's: double quotes around a value or the whole word, no escapes (kernel-parameters.rst).
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
    """In a container the command line is the host's: there the arguments of its init are read, as systemd does."""

    def discover(self, context: Context) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for word in words(context.paths):
            name, equals, value = word.partition("=")
            if name.startswith(PREFIX) and equals:
                found[name.removeprefix(PREFIX)] = value
        return found


def parse(text: str) -> list[str]:
    """The words of a kernel command line, quotes removed."""
    return [word.replace('"', "") for word in _WORD.findall(text)]


def words(paths: Paths) -> Iterator[str]:
    """The words of the command line that is about this machine."""
    cmdline = paths.host("/proc/cmdline")
    if not in_container(paths):
        yield from parse(_read(cmdline))
        return
    yield from _read(paths.host("/proc/1/cmdline")).split("\0")[1:]
    if _is_mounted(cmdline):
        yield from parse(_read(cmdline))


def _is_mounted(path: Path) -> bool:
    """Whether the container was given a command line of its own, by a mount over the host's."""
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
