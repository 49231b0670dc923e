"""Whether this is a container: there the DMI and the kernel command line are the host's, and say nothing about us."""

from __future__ import annotations

import os
from pathlib import Path

from agent.paths import Paths

_HINTS = ("docker", "lxc", "kubepods", "libpod", "containerd", "machine.slice/machine-")
_MARKERS = ("run/systemd/container", ".dockerenv", "run/.containerenv")
_VARIABLES = (b"container=", b"KUBERNETES_SERVICE_HOST=")
_FIRST_PIDS = "pid:[4026531836]"
"""The process namespace that the machine booted with: its number is part of the kernel's interface (PROC_PID_INIT_INO)."""


def in_container(paths: Paths) -> bool:
    """The checks of `systemd-detect-virt --container`, without starting it.

    Below --root only DIR/run/systemd/container counts, for the machine's own state says nothing about an image.
    """
    return is_container(Path("/")) if paths.is_host else paths.host("/run/systemd/container").exists()


def is_container(root: Path) -> bool:
    """Whether what is below `root`, a whole machine's /run and /proc among it, is a container's. Root or not."""
    if any((root / marker).exists() for marker in _MARKERS) or (root / "dev/lxd/sock").is_socket():
        return True
    proc = root / "proc"
    if (proc / "vz").exists() and not (proc / "bc").exists():
        return True
    if any(variable.startswith(_VARIABLES) for variable in _read(proc / "1/environ").split(b"\0")):
        return True
    if b"Microsoft" in (release := _read(proc / "sys/kernel/osrelease")) or b"WSL" in release:
        return True
    if any(hint in _read(proc / "1/cgroup").decode("ascii", "replace") for hint in _HINTS):
        return True
    return _processes(proc) not in ("", _FIRST_PIDS)


def _processes(proc: Path) -> str:
    try:
        return os.readlink(proc / "self/ns/pid")
    except OSError:
        return ""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
