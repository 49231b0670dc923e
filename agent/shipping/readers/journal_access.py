"""Opens the journal, and answers questions that need a second handle: its boots, its newest entry, the entry at a position."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.paths import Paths
from agent.settings.models import PRIORITIES, Journal
from agent.shipping.readers.journal_cursor import Cursor

_LOCAL_ONLY = 1
_BOOT_FILE = "/proc/sys/kernel/random/boot_id"
_DIRECTORY = "/var/log/journal"
_VOLATILE_DIRECTORY = Path("/run/log/journal")


class JournalAccess:
    """The journal of this host, or below a root the one in /var/log/journal.

    A journal is a `systemd._reader._Reader`, or what `open_journal` returns.
    """

    def __init__(self, paths: Paths, open_journal: Callable[[], Any] | None = None) -> None:
        self._paths = paths
        self.open: Callable[[], Any] = open_journal or self._open_host

    def _open_host(self) -> Any:
        from systemd._reader import _Reader

        return _Reader(_LOCAL_ONLY) if self._paths.is_host else _Reader(0, path=str(self._paths.host(_DIRECTORY)))

    @property
    def directories(self) -> list[Path]:
        return [self._paths.host(_DIRECTORY), *([_VOLATILE_DIRECTORY] if self._paths.is_host else [])]

    def seek_boot(self, journal: Any) -> None:
        """Move `journal` to the oldest entry of this boot, or below a root, whose boot is over, to the oldest of all."""
        journal.seek_head()
        if not self._paths.is_host:
            return
        with contextlib.closing(self.open()) as probe:
            for boot in self._boots(probe):
                probe.add_match(b"_BOOT_ID=" + boot)
                probe.seek_head()
                if probe._next():
                    journal.seek_cursor(probe._get_cursor())
                    return
                probe.flush_matches()

    def own_boots(self) -> frozenset[bytes]:
        """Return the ids of this boot. Below a root the newest entry is from another boot."""
        if not self._paths.is_host:
            return frozenset(_kernel_boot(Path(_BOOT_FILE)))
        with contextlib.closing(self.open()) as probe:
            return frozenset(self._boots(probe))

    def _boots(self, probe: Any) -> Iterator[bytes]:
        """Yield the kernel's id of this boot, and the newest entry's.

        They differ for a service in a container whose sandbox shows the id of the host.
        """
        yield from _kernel_boot(self._paths.host(_BOOT_FILE))
        probe.seek_tail()
        if probe._previous() and (boot := probe._get_all().get("_BOOT_ID")):
            yield boot

    def newest_cursor(self) -> str:
        """Return the cursor of the newest entry, "" if the journal is empty."""
        with contextlib.closing(self.open()) as probe:
            probe.seek_tail()
            return str(probe._get_cursor()) if probe._previous() else ""

    def first_from(self, cursor: str) -> Cursor | None:
        """Return the cursor of the entry at a position, or of the next one that is left; None if there is no such entry."""
        with contextlib.closing(self.open()) as probe:
            probe.seek_cursor(cursor)
            return Cursor.parse(probe._get_cursor()) if probe._next() else None


def add_matches(journal: Any, options: Journal) -> None:
    """Apply the settings as matches of the journal: any of the units, and the priorities, and each field of `match`."""
    for unit in options.units:
        journal.add_match(f"_SYSTEMD_UNIT={unit}".encode())
        journal.add_disjunction()
        journal.add_match(f"UNIT={unit}".encode())
        journal.add_match(b"_PID=1")
        journal.add_disjunction()
    journal.add_conjunction()
    if options.priority != "debug":
        for number in range(PRIORITIES.index(options.priority) + 1):
            journal.add_match(f"PRIORITY={number}".encode())
        journal.add_conjunction()
    for match in options.match:
        journal.add_match(match.encode())


def _kernel_boot(path: Path) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        yield path.read_bytes().strip().replace(b"-", b"")
