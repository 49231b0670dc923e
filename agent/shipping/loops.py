"""What would ship the shipper's own output, found before it runs in circles."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterator, Sequence

from agent.places import Places
from agent.settings.tables import LogFile, Settings, Sink


def problems(settings: Settings, places: Places) -> Iterator[str]:
    """All that would go in circles if it were shipped now. What no settings show, a receiver on this host that logs what it
    is sent, is known by the mark in it."""
    yield from of_image(settings, places)
    if settings.ship.journal and _on_journal():
        for sink in to_stdout(settings):
            yield f'[[sink]] "{sink.name}" writes to the journal, which would be shipped again; use it in a terminal or a pipe'


def of_image(settings: Settings, places: Places) -> Iterator[str]:
    """What is in the settings alone: a sink that writes, or sets entries aside, where a reader reads."""
    globs = [_Glob(file.path if isinstance(file, LogFile) else file, places) for file in settings.ship.files]
    for sink in settings.sinks:
        for paths in _written(sink):
            for pattern in globs:
                if shipped := next((path for path in paths if pattern.reads(path)), ""):
                    yield f'[[sink]] "{sink.name}" writes {shipped}, which [ship] files "{pattern.text}" would ship again'


def to_stdout(settings: Settings) -> Sequence[Sink]:
    """The sinks that go in circles where standard output is the journal, as that of a service is."""
    return [sink for sink in settings.sinks if sink.type == "stdout"]


def _written(sink: Sink) -> Iterator[Sequence[str]]:
    """The files of a sink as the settings would name them, each with what it is renamed to."""
    if sink.type == "file":
        path = sink.options.path
        yield [path, *(f"{path}.{number}" for number in range(1, sink.options.keep + 1))]
    letters = f"{Places().ship}/dead-letter/{sink.name}.ndjson"
    yield [letters, f"{letters}.1"]


class _Glob:
    """An entry of [ship] files: what it matches now, and what it would match."""

    def __init__(self, text: str, places: Places) -> None:
        self.text = text
        self._places = places
        wanted = str(places.host(text))
        # A rotated file is followed under its number, too.
        self._patterns = [os.path.realpath(f"{wanted}{more}").split("/") for more in ("", ".[0-9]*")]
        self._found = frozenset(map(os.path.realpath, glob.iglob(wanted, recursive=True)))

    def reads(self, path: str) -> bool:
        real = os.path.realpath(self._places.host(path))
        return real in self._found or any(_fits(real.split("/"), pattern) for pattern in self._patterns)


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """As the glob module has it: `*` stays within one directory, `**` does not."""
    if not pattern or not path:
        return not pattern and not path
    if pattern[0] == "**":
        return any(_fits(path[skipped:], pattern[1:]) for skipped in range(len(path) + 1))
    return fnmatch.fnmatchcase(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _on_journal() -> bool:
    """Whether standard output is a stream to journald (systemd.exec(5), $JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    found = os.fstat(1)
    return (device, inode) == (str(found.st_dev), str(found.st_ino))
