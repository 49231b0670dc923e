"""Detects a container, in which the firmware strings and the kernel command line are those of the host."""

from __future__ import annotations

import os
from pathlib import Path

from agent.paths import Paths

_CGROUPS = ("docker", "lxc", "kubepods", "libpod", "containerd", "machine.slice/machine-")
_MARKERS = ("run/systemd/container", ".dockerenv", "run/.containerenv")
_VARIABLES = (b"container=", b"KUBERNETES_SERVICE_HOST=")
_INITIAL_PID_NAMESPACE = "pid:[4026531836]"
"""The process namespace of the booted machine. Its number is part of the kernel's interface (PROC_PID_INIT_INO)."""


def in_container(paths: Paths) -> bool:
    """Return the result of the checks of `systemd-detect-virt --container`, without starting that program.

    Below --root only DIR/run/systemd/container counts, because the state of this machine has nothing to do with an image.
    """
    return is_container(Path("/")) if paths.is_host else paths.host("/run/systemd/container").exists()


def is_container(root: Path) -> bool:
    """Return whether the running system whose filesystem is at `root` is a container. Works without root privileges."""
    if any((root / marker).exists() for marker in _MARKERS) or (root / "dev/lxd/sock").is_socket():
        return True
    proc = root / "proc"
    if (proc / "vz").exists() and not (proc / "bc").exists():
        return True
    if any(variable.startswith(_VARIABLES) for variable in _read(proc / "1/environ").split(b"\0")):
        return True
    if b"Microsoft" in (release := _read(proc / "sys/kernel/osrelease")) or b"WSL" in release:
        return True
    if any(name in _read(proc / "1/cgroup").decode("ascii", "replace") for name in _CGROUPS):
        return True
    return _pid_namespace(proc) not in ("", _INITIAL_PID_NAMESPACE)


def _pid_namespace(proc: Path) -> str:
    try:
        return os.readlink(proc / "self/ns/pid")
    except OSError:
        return ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
