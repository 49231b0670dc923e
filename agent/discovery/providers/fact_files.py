"""Facts from files: /run/parbake/facts.d (written at run time), then /etc/parbake/facts.d (baked).

Each *.toml, *.json, *.yaml or *.yml holds a table of facts. In one directory a later name overrides an earlier one. A fact of
the first directory wins over the second.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.discovery import Context, ProviderName, RawFacts
from agent.errors import DiscoveryError
from agent.model import Attempt

DIRECTORIES = ("/run/parbake/facts.d", "/etc/parbake/facts.d")
SUFFIXES = (".toml", ".json", ".yaml", ".yml")
MAX_BYTES = 1024 * 1024


class File:
    """Reads every fact file. A file that cannot be read or parsed is recorded as failed, and the others are used."""

    def discover(self, context: Context) -> RawFacts:
        """Return the facts of both directories."""
        facts: dict[str, Any] = {}
        for name in DIRECTORIES:
            directory_facts: dict[str, Any] = {}
            for path in _fact_files(context.paths.host(name)):
                try:
                    directory_facts.update(_parse(path, context.paths.shown(path)))
                except DiscoveryError as error:
                    context.attempts.append(Attempt(ProviderName.FILE, f"failed: {error.message}", 0.0))
            facts = directory_facts | facts
        return facts


def _parse(path: Path, shown: str) -> dict[str, Any]:
    # Imported here, because imports are most of the cost on a machine without fact files.
    from agent.discovery import parsers

    parse = {".toml": parsers.toml_table, ".json": parsers.json_table}.get(path.suffix, parsers.yaml_table)
    return parse(read(path, shown), shown)


def _fact_files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    except OSError:
        return []


def read(path: Path, shown: str) -> bytes:
    """Return the content of a file of at most MAX_BYTES. `shown` is its path in errors. Raises DiscoveryError."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DiscoveryError(f"{shown} cannot be read: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise DiscoveryError(f"{shown} is longer than {MAX_BYTES} bytes")
    return raw
