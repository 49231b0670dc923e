"""Whether this is a container: there the DMI and the kernel command line are the host's, and say nothing about us."""

from __future__ import annotations

from pathlib import Path

from agent.places import Places

_HINTS = ("docker", "lxc", "kubepods", "libpod", "containerd", "machine.slice/machine-")


def in_container(places: Places) -> bool:
    """The checks of `systemd-detect-virt --container`, without starting it.

    Below --root only DIR/run/systemd/container counts, for the machine's own state says nothing about an image.
    """
    marker = places.host("/run/systemd/container")
    if not places.is_host or marker.exists():
        return marker.exists()
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists() or Path("/dev/lxd/sock").is_socket():
        return True
    if Path("/proc/vz").exists() and not Path("/proc/bc").exists():
        return True
    if b"container=" in b"\0" + _read("/proc/1/environ") and any(
        variable.startswith(b"container=") for variable in _read("/proc/1/environ").split(b"\0")
    ):
        return True
    if b"Microsoft" in (release := _read("/proc/sys/kernel/osrelease")) or b"WSL" in release:
        return True
    return any(hint in _read("/proc/1/cgroup").decode("ascii", "replace") for hint in _HINTS)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
