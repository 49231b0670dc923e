"""What would ship the shipper's own output, found before it runs in circles."""

from __future__ import annotations

import fnmatch
import functools
import glob
import ipaddress
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from agent.errors import DiscoveryError
from agent.paths import Paths
from agent.settings import interpolation
from agent.settings.models import LogFile, Settings, Sink
from agent.shipping import Batch

log = logging.getLogger("parbake")
_ANY = "\uffff"
"""In a path, what a fact fills in: any text within a directory's name."""
_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_SYSLOG_FILES = tuple(
    f"/var/log/{name}"
    for name in (
        "syslog", "messages", "debug", "secure", "maillog", "cron", "auth.log", "cron.log", "daemon.log", "kern.log", "lpr.log",
        "mail.log", "mail.info", "mail.warn", "mail.err", "user.log", "error", "local.log", "all.log",
    )
)  # fmt: skip
"""Where rsyslog and syslog-ng write what they receive, by the settings that distributions give them."""


def problems(settings: Settings, paths: Paths) -> Iterator[str]:
    """All that would go in circles if it were shipped now. What no settings show, a receiver on this host that logs what it
    is sent, is known by the mark in it."""
    yield from of_image(settings, paths)
    if settings.ship.journal and _on_journal():
        for sink in to_stdout(settings):
            yield f'[[sink]] "{sink.name}" writes to the journal, which would be shipped again; use it in a terminal or a pipe'


def of_image(settings: Settings, paths: Paths) -> Iterator[str]:
    """What is in the settings alone: a sink that writes, or sets entries aside, where a reader reads."""
    globs = [_Glob(file.path if isinstance(file, LogFile) else file, paths) for file in settings.ship.files]
    for sink in settings.sinks:
        for written in _written(sink, settings):
            for pattern in globs:
                if shipped := next((path for path in written if pattern.reads(path)), ""):
                    what = f"may write {shipped.replace(_ANY, '*')}" if _ANY in shipped else f"writes {shipped}"
                    yield f'[[sink]] "{sink.name}" {what}, which [ship] files "{pattern.text}" would ship again'
        if _is_local_syslog(sink):
            for pattern in globs:
                if found := next((path for path in _SYSLOG_FILES if pattern.reads(path)), ""):
                    yield (
                        f'[[sink]] "{sink.name}" sends to {sink.options.url}, on this host, and a syslog daemon writes what it '
                        f'receives to files such as {found}, which [ship] files "{pattern.text}" would ship again: name files '
                        "that no syslog daemon writes; what it logs of this host is in the journal"
                    )


def to_stdout(settings: Settings) -> Sequence[Sink]:
    """The sinks that go in circles where standard output is the journal, as that of a service is."""
    return [sink for sink in settings.sinks if sink.type == "stdout"]


def _written(sink: Sink, settings: Settings) -> Iterator[Sequence[str]]:
    """The files of a sink as the settings would name them, each with what it is renamed to. Facts, and what each
    convergence makes anew, are left open."""
    if sink.type == "file":
        component = settings.component
        known = {"build.component": component.name, "build.version": component.version}
        path = _PLACEHOLDER.sub(lambda found: known.get(found[1], _ANY), sink.options.path)
        yield [path, *(f"{path}.{number}" for number in range(1, sink.options.keep + 1))]
    letters = f"{Paths().ship}/dead-letter/{sink.name}.ndjson"
    yield [letters, f"{letters}.1"]


class _Glob:
    """An entry of [ship] files: what it matches now, and what it would match."""

    def __init__(self, text: str, paths: Paths) -> None:
        self.text = text
        self._paths = paths
        wanted = str(paths.host(text))
        # A rotated file is followed under its number, too.
        self._patterns = [os.path.realpath(f"{wanted}{more}").split("/") for more in ("", ".[0-9]*")]
        self._found = frozenset(map(os.path.realpath, glob.iglob(wanted, recursive=True)))

    def reads(self, path: str) -> bool:
        real = os.path.realpath(self._paths.host(path))
        # A fact that ends as a rotated file does is not feared: `*.log.1*` would meet every open name.
        patterns = self._patterns[:1] if _ANY in path else self._patterns
        if real in self._found or any(_fits(real.split("/"), pattern) for pattern in patterns):
            return True
        there = glob.escape(str(self._paths.host(path))).replace(_ANY, "*") if _ANY in path else ""
        return bool(there) and any(os.path.realpath(found) in self._found for found in glob.iglob(there))


def _fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """As the glob module has it: `*` stays within one directory, `**` does not."""
    if not pattern or not path:
        return not pattern and not path
    if pattern[0] == "**":
        return any(_fits(path[skipped:], pattern[1:]) for skipped in range(len(path) + 1))
    meet = _meet if _ANY in path[0] else fnmatch.fnmatchcase
    return meet(path[0], pattern[0]) and _fits(path[1:], pattern[1:])


def _meet(name: str, pattern: str) -> bool:
    """Whether a name with open parts may come to match the pattern."""
    marks = re.findall(r"\[!?\]?[^\]]*\]|.", pattern, re.DOTALL)

    @functools.cache
    def may(i: int, j: int) -> bool:
        if i == len(name) or j == len(marks):
            return all(c == _ANY for c in name[i:]) and all(m == "*" for m in marks[j:])
        if name[i] == _ANY or marks[j] == "*":
            return may(i + 1, j) or may(i, j + 1)
        return fnmatch.fnmatchcase(name[i], marks[j]) and may(i + 1, j + 1)

    return may(0, 0)


class Written:
    """What the `file` sinks write now that the facts are known. A path that a fact has made one of those that are read, or a
    link that nobody saw, would fill the disk: lines from there are left out."""

    def __init__(self, settings: Settings, paths: Paths, spaces: Callable[[], Mapping[str, Mapping[str, Any]]]) -> None:
        self._texts = [sink.options.path for sink in settings.sinks if sink.type == "file"]
        self._paths, self._spaces = paths, spaces
        self._from: Mapping[str, Mapping[str, Any]] | None = None
        self._written: frozenset[str] = frozenset()
        self._told: set[bytes] = set()

    def left_out(self, batch: Batch) -> Batch:
        """`batch`, of log files, without the lines of files that sinks write."""
        files = batch.columns.get("FILE", ())
        own = {name for name in set(files) if name is not None and self._is_own(name)}
        if not own:
            return batch
        for name in own - self._told:
            log.error("%s is written by a sink and read by [ship] files: its lines are not shipped again", os.fsdecode(name))
        self._told |= own
        return batch.pick([i for i, name in enumerate(files) if name not in own])

    def _is_own(self, name: bytes) -> bool:
        if (spaces := self._spaces()) is not self._from:
            self._from = spaces
            self._written = frozenset(self._filled(spaces))
        real = os.path.realpath(self._paths.host(os.fsdecode(name)))
        return real in self._written or re.sub(r"\.\d+\Z", "", real) in self._written

    def _filled(self, spaces: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        for text in self._texts:
            try:
                yield os.path.realpath(self._paths.host(interpolation.fill(text, spaces)))
            except DiscoveryError:
                continue  # until the fact is known it is not written, either


def _is_local_syslog(sink: Sink) -> bool:
    """Whether it sends, without a mark that a daemon's files would keep, to this host."""
    if sink.type not in ("syslog", "gelf") or sink.options.url.partition(":")[0] in ("http", "https"):
        return False
    host = (urlsplit(sink.options.url).hostname or "").rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        names = ("localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", socket.gethostname().lower())
        return host in names or host.endswith(".localhost") or host.startswith("127.")
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _on_journal() -> bool:
    """Whether standard output is a stream to journald (systemd.exec(5), $JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    found = os.fstat(1)
    return (device, inode) == (str(found.st_dev), str(found.st_ino))
