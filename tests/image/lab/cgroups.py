"""One control group for each container.

`systemd-nspawn --keep-unit` puts the payload below the group it was started in. Two machines in one group would share
`payload`, and each systemd would kill the services of the other.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path
from types import TracebackType


def hierarchies() -> list[Path]:
    """Return the mount points of cgroup v2 and, on a hybrid host, of the systemd hierarchy."""
    paths: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
            paths.insert(0 if kind == "cgroup2" else len(paths), Path(before.split(" ")[4]))
    return paths


class ControlGroup:
    """`with ControlGroup(name) as group:` makes it, `group.wrapper` starts a program in it, leaving removes it."""

    def __init__(self, name: str) -> None:
        self._directories = [each / name for each in hierarchies()]

    def __enter__(self) -> ControlGroup:
        for each in self._directories:
            each.mkdir(exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for each in self._directories:
            remove_tree(each)

    @property
    def wrapper(self) -> tuple[str, ...]:
        """Put before an argument list, it joins the group and then becomes that program."""
        join = "; ".join(f"echo $$ > '{each}/cgroup.procs'" for each in self._directories)
        return ("sh", "-ec", f'{join}; exec "$@"', "sh")


def remove_tree(directory: Path, timeout_seconds: float = 10.0) -> None:
    """End all processes of a group and remove it with its children, once the kernel has released them."""
    # The processes of a container outlive a killed systemd-nspawn: they are ended through their group.
    if (kill := directory / "cgroup.kill").exists():
        kill.write_text("1")
    deadline = time.monotonic() + timeout_seconds
    while directory.is_dir() and time.monotonic() < deadline:
        below = sorted(directory.rglob("*/"), key=lambda path: len(path.parts), reverse=True)
        for each in itertools.chain(below, [directory]):
            with contextlib.suppress(OSError):
                each.rmdir()
        if directory.is_dir():
            time.sleep(0.02)
