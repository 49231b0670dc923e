"""Facts from systemd credentials named parbake.NAME: the service's own, then those of the whole system.

Protocol: https://systemd.io/CREDENTIALS/ (set by SMBIOS, fw_cfg, the boot loader, or a container's manager).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent.discovery import Context
from agent.errors import DiscoveryError
from agent.paths import Paths

PREFIX = "parbake."
_MAX_BYTES = 64 * 1024


class Credentials:
    """A credential called parbake.NAME is a fact, and facts are no secrets: call a token something else."""

    def discover(self, context: Context) -> Mapping[str, str]:
        found: dict[str, str] = {}
        for directory in _directories(context.paths):
            for path in _entries(directory):
                found.setdefault(path.name.removeprefix(PREFIX), _read(path))
        return found


def _directories(paths: Paths) -> Iterator[Path]:
    own = os.environ.get("CREDENTIALS_DIRECTORY")
    if own and paths.is_host:
        yield Path(own)
    yield paths.host("/run/credentials/@system")


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.name.startswith(PREFIX))
    except OSError:
        # Not there, or not ours to read: `parbake debug` runs without root.
        return []


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise DiscoveryError(f"the credential {path.name} is not UTF-8 text") from None
    except OSError as error:
        raise DiscoveryError(f"the credential {path.name} cannot be read: {error.strerror}") from None
