"""The first process of a container, found and entered by its pid, since there is no machined here."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from tests.servers.processes import Child

#: The environment of programs in a machine: nothing of the environment of the tests.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
}


def wait_for_leader(nspawn: Child, timeout_seconds: float) -> int:
    """Wait until the container's pid 1 is systemd, and return its pid on the host. Raises ServerError with nspawn's output."""
    leaders: list[int] = []

    def started() -> bool:
        leaders[:] = [pid for pid in _children_of(nspawn.pid) if _is_init(pid)]
        return bool(leaders)

    nspawn.wait_ready(started, timeout_seconds, "the container's first process")
    return leaders[0]


def entry(leader: int) -> tuple[str, ...]:
    """Put before an argument list, it runs that program in the container of `leader`."""
    namespaces = ("--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup")
    return ("nsenter", f"--target={leader}", *namespaces, "--root", "--wd", "--")


def kill_leader(leader: int) -> None:
    """End a whole container: the kernel kills all others of a pid namespace with its first."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(leader, signal.SIGKILL)


def _children_of(parent: int) -> list[int]:
    children = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent:
                children.append(int(status.parent.name))
    return children


def _is_init(pid: int) -> bool:
    """Return whether `pid` is the first process of a pid namespace and has become systemd."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        inner = next(line for line in lines if line.startswith("NSpid:")).split()[-1]
        return inner == "1" and Path(f"/proc/{pid}/comm").read_text().strip() == "systemd"
    return False
