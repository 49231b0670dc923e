"""What would ship the shipper's own output, found before it runs in circles."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator

from agent.places import Places
from agent.settings.tables import LogFile, Settings


def problems(settings: Settings, places: Places) -> Iterator[str]:
    """Sinks that write where a reader reads. What no settings show, a receiver on this host that logs what it is sent,
    is known by the mark in it."""
    globs = [file.path if isinstance(file, LogFile) else file for file in settings.ship.files]
    for sink in settings.sinks:
        if sink.type == "file":
            path = os.path.realpath(places.host(sink.options.path))
            for glob in globs:
                if any(fnmatch.fnmatch(path, os.path.realpath(places.host(g))) for g in (glob, f"{glob}.[0-9]*")):
                    yield f'[[sink]] "{sink.name}" writes {sink.options.path}, which [ship] files "{glob}" would ship again'
        if sink.type == "stdout" and settings.ship.journal and _on_journal():
            yield f'[[sink]] "{sink.name}" writes to the journal, which would be shipped again; use it in a terminal or a pipe'


def _on_journal() -> bool:
    """Whether standard output is a stream to journald (systemd.exec(5), $JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    found = os.fstat(1)
    return (device, inode) == (str(found.st_dev), str(found.st_ino))
