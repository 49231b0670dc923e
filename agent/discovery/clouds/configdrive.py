"""OpenStack's config drive: https://docs.openstack.org/nova/latest/user/metadata.html#config-drives"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.discovery import Context, userdata
from agent.discovery.clouds import openstack
from agent.discovery.providers.fact_files import read
from agent.discovery.providers.imds import CONFIG_DRIVE_SEED, config_drive
from agent.errors import DiscoveryError
from agent.paths import Paths


class ConfigDrive:
    """Where there is one, the network service is not asked: often there is none beside it."""

    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with _opened(context) as directory:
            latest = directory / "openstack/latest"
            document = _read(latest / "meta_data.json")
            if document is None:
                raise DiscoveryError("the config drive has no openstack/latest/meta_data.json")
            yield openstack.parse(userdata.json_table(document, "meta_data.json of the config drive"))
            network = _read(latest / "network_data.json")
            if network is not None:
                yield openstack.parse_network(userdata.json_table(network, "network_data.json of the config drive"))
            yield {"userdata": userdata.userdata(_read(latest / "user_data") or b"")}


def _read(path: Path) -> bytes | None:
    return read(path, f"{path.name} of the config drive") if path.is_file() else None


@contextlib.contextmanager
def _opened(context: Context) -> Iterator[Path]:
    """The drive's directory: the seed's, where it is mounted already, or mounted by us for as long as it takes."""
    drive = config_drive(context.paths)
    if not drive:
        raise DiscoveryError("there is no config drive", hint="a filesystem labelled config-2 is looked for")
    if drive == CONFIG_DRIVE_SEED:
        yield context.paths.host(drive)
        return
    device = os.path.realpath(context.paths.host(drive))
    mounted = _mounted_at(context.paths, device)
    if mounted is not None:
        yield mounted
        return
    if os.geteuid() != 0 or not context.paths.is_host:
        raise DiscoveryError(f"the config drive {drive} is not mounted, and only root can mount it")
    directory = tempfile.mkdtemp(prefix="parbake-config-drive-")
    try:
        _run(["mount", "-o", "ro,nosuid,nodev,noexec", device, directory], context.deadline)
        try:
            yield Path(directory)
        finally:
            _run(["umount", directory], time.monotonic() + 5)
    finally:
        os.rmdir(directory)


def _mounted_at(paths: Paths, device: str) -> Path | None:
    try:
        lines = paths.host("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    except OSError:
        return None
    for line in lines:
        source, directory = line.split(" ")[:2]
        if source.startswith("/") and os.path.realpath(source) == device:
            # The kernel writes blanks in paths as octal escapes.
            return paths.host(directory.replace("\\040", " "))
    return None


def _run(command: list[str], deadline: float) -> None:
    try:
        subprocess.run(
            command,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=max(0.1, deadline - time.monotonic()),
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode("utf-8", "replace").strip()[:200]
        raise DiscoveryError(f"{command[0]} of the config drive failed: {said}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DiscoveryError(f"{command[0]} of the config drive failed: {type(error).__name__}") from None
