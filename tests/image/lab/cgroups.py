"""A control group of its own for every container.

`systemd-nspawn --keep-unit` puts the payload below the group it was started in: two machines started by one test run
would both own `payload`, and each systemd would take the other's services for strays of its own.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path
from types import TracebackType


def hierarchies() -> list[Path]:
    """Where cgroup v2 is mounted, and then on a hybrid host the hierarchy that systemd keeps besides."""
    found: list[Path] = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2" or (kind == "cgroup" and "name=systemd" in options):
            found.insert(0 if kind == "cgroup2" else len(found), Path(before.split(" ")[4]))
    return found


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
    """End whatever runs in a group and remove it with those below it, as soon as the kernel lets go of them."""
    # A container outlives its systemd-nspawn when that is killed: its processes are ended by the group that is theirs.
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
