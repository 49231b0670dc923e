"""Facts from systemd credentials named parbake.NAME: the service's credentials, then those of the system.

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
    """Each credential parbake.NAME is the fact NAME. Facts are not secret, so a token needs a name without this prefix."""

    def discover(self, context: Context) -> Mapping[str, str]:
        """Return the facts. Raises DiscoveryError for a credential that is not text or cannot be read."""
        facts: dict[str, str] = {}
        for directory in _directories(context.paths):
            for path in _credential_files(directory):
                facts.setdefault(path.name.removeprefix(PREFIX), _read(path))
        return facts


def _directories(paths: Paths) -> Iterator[Path]:
    service_directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if service_directory and paths.is_host:
        yield Path(service_directory)
    yield paths.host("/run/credentials/@system")


def _credential_files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.name.startswith(PREFIX))
    except OSError:
        # Absent, or not readable: `parbake debug` runs without root.
        return []


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8").removesuffix("\n")
    except UnicodeDecodeError:
        raise DiscoveryError(f"the credential {path.name} is not UTF-8 text") from None
    except OSError as error:
        raise DiscoveryError(f"the credential {path.name} cannot be read: {error.strerror}") from None
