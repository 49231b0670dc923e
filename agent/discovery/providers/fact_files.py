"""Facts from files: /run/parbake/facts.d (written at run time), then /etc/parbake/facts.d (baked).

Each *.toml, *.json, *.yaml or *.yml holds a table of facts. In one directory a later name overrides an earlier one;
a fact of the first directory wins over the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.discovery import Context
from agent.errors import DiscoveryError
from agent.model import Attempt

DIRECTORIES = ("/run/parbake/facts.d", "/etc/parbake/facts.d")
MAX_BYTES = 1024 * 1024
_PARSERS = {".toml": "toml_table", ".json": "json_table", ".yaml": "yaml_table", ".yml": "yaml_table"}


class File:
    """A file that cannot be read or parsed is noted, and the others are taken."""

    def discover(self, context: Context) -> Mapping[str, Any]:
        found: dict[str, Any] = {}
        for name in DIRECTORIES:
            facts: dict[str, Any] = {}
            for path in _files(context.paths.host(name)):
                shown = context.paths.shown(path)
                try:
                    facts.update(_parse(path, shown))
                except DiscoveryError as error:
                    context.attempts.append(Attempt("file", f"failed: {error.message}", 0.0))
            found = facts | found
        return found


def _parse(path: Path, shown: str) -> dict[str, Any]:
    # Not before there is a file: its imports are most of what looking would cost.
    from agent.discovery import userdata

    table: dict[str, Any] = getattr(userdata, _PARSERS[path.suffix])(read(path, shown), shown)
    return table


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix in _PARSERS and not path.name.startswith("."))
    except OSError:
        return []


def read(path: Path, shown: str) -> bytes:
    """At most MAX_BYTES of a file. Raises DiscoveryError, also where the file is longer."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DiscoveryError(f"{shown} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise DiscoveryError(f"{shown} is longer than {MAX_BYTES} bytes")
    return raw
