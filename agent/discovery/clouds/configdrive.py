"""OpenStack's config drive: https://docs.openstack.org/nova/latest/user/metadata.html#config-drives"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.discovery import Context, RawFacts, parsers, userdata
from agent.discovery.clouds import openstack
from agent.discovery.providers.fact_files import read
from agent.discovery.providers.imds import CONFIG_DRIVE_SEED, config_drive
from agent.errors import DiscoveryError
from agent.paths import Paths
from agent.system import process

_UNMOUNT_SECONDS = 5.0


class ConfigDrive:
    """Replaces the network service, which often does not exist beside a config drive."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with _opened(context) as directory:
            latest = directory / "openstack/latest"
            document = _read(latest / "meta_data.json")
            if document is None:
                raise DiscoveryError("the config drive has no openstack/latest/meta_data.json")
            yield openstack.parse(parsers.json_table(document, "meta_data.json of the config drive"))
            network = _read(latest / "network_data.json")
            if network is not None:
                yield openstack.parse_network(parsers.json_table(network, "network_data.json of the config drive"))
            yield {"userdata": userdata.parbake_table(_read(latest / "user_data") or b"")}


def _read(path: Path) -> bytes | None:
    return read(path, f"{path.name} of the config drive") if path.is_file() else None


@contextlib.contextmanager
def _opened(context: Context) -> Iterator[Path]:
    """Yield the drive's directory: the seed's, the mount point, or a temporary mount point."""
    drive = config_drive(context.paths)
    if not drive:
        raise DiscoveryError(
            "there is no config drive", hint="a config drive has the filesystem label config-2; see `lsblk -f`"
        )
    if drive == CONFIG_DRIVE_SEED:
        yield context.paths.host(drive)
        return
    device = os.path.realpath(context.paths.host(drive))
    mount_point = _mount_point(context.paths, device)
    if mount_point is not None:
        yield mount_point
        return
    if os.geteuid() != 0 or not context.paths.is_host:
        raise DiscoveryError(f"the config drive {drive} is not mounted, and only root can mount it", hint="run it as root")
    directory = tempfile.mkdtemp(prefix="parbake-config-drive-")
    try:
        seconds = max(0.1, context.deadline - time.monotonic())
        _run(["mount", "-o", "ro,nosuid,nodev,noexec", device, directory], seconds, context.stopping.is_set)
        try:
            yield Path(directory)
        finally:
            _run(["umount", directory], _UNMOUNT_SECONDS)
    finally:
        os.rmdir(directory)


def _mount_point(paths: Paths, device: str) -> Path | None:
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


def _run(command: list[str], timeout_seconds: float, cancelled: Callable[[], bool] = lambda: False) -> None:
    result = process.run(command, timeout_seconds, cancelled)
    if not result.ok:
        reason = result.output[:200] or f"exit code {result.code}"
        raise DiscoveryError(f"{command[0]} of the config drive failed: {reason}")
