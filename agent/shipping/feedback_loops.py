"""Finds settings that would ship the shipper's own output, and drops such lines if the settings do not reveal them."""

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
"""A placeholder for the value of a fact in a path. It matches any text within one file name."""
_PLACEHOLDER = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_SYSLOG_FILES = tuple(
    f"/var/log/{name}"
    for name in (
        "syslog", "messages", "debug", "secure", "maillog", "cron", "auth.log", "cron.log", "daemon.log", "kern.log", "lpr.log",
        "mail.log", "mail.info", "mail.warn", "mail.err", "user.log", "error", "local.log", "all.log",
    )
)  # fmt: skip
"""The files of rsyslog and syslog-ng with the settings of the distributions."""


def problems(settings: Settings, paths: Paths) -> Iterator[str]:
    """Yield every feedback loop that shipping would start now.

    The settings do not reveal a receiver on this host that logs its requests. The loop marker in requests does.
    """
    yield from of_image(settings, paths)
    if settings.ship.journal and _stdout_is_journal():
        for sink in to_stdout(settings):
            yield f'[[sink]] "{sink.name}" writes to the journal, which would be shipped again; use it in a terminal or a pipe'


def of_image(settings: Settings, paths: Paths) -> Iterator[str]:
    """Yield the feedback loops that the settings alone show: a sink writes, or sets entries aside, in a file that is read."""
    globs = [_Glob(file.path if isinstance(file, LogFile) else file, paths) for file in settings.ship.files]
    for sink in settings.sinks:
        for written in _written_paths(sink, settings):
            for pattern in globs:
                if shipped := next((path for path in written if pattern.reads(path)), ""):
                    verb = f"may write {shipped.replace(_ANY, '*')}" if _ANY in shipped else f"writes {shipped}"
                    yield f'[[sink]] "{sink.name}" {verb}, which [ship] files "{pattern.text}" would ship again'
        if _is_local_syslog(sink):
            for pattern in globs:
                if shipped := next((path for path in _SYSLOG_FILES if pattern.reads(path)), ""):
                    yield (
                        f'[[sink]] "{sink.name}" sends to {sink.options.url}, on this host, and a syslog daemon writes what it '
                        f'receives to files such as {shipped}, which [ship] files "{pattern.text}" would ship again: name '
                        "files that no syslog daemon writes; the messages of this host are in the journal"
                    )


def to_stdout(settings: Settings) -> Sequence[Sink]:
    """Return the sinks that write to standard output, which is the journal in a service."""
    return [sink for sink in settings.sinks if sink.type == "stdout"]


def _written_paths(sink: Sink, settings: Settings) -> Iterator[Sequence[str]]:
    """Yield each file that a sink writes, with the names it is rotated to. Values that vary are `_ANY`."""
    if sink.type == "file":
        component = settings.component
        build = {"build.component": component.name, "build.version": component.version}
        path = _PLACEHOLDER.sub(lambda match: build.get(match[1], _ANY), sink.options.path)
        yield [path, *(f"{path}.{number}" for number in range(1, sink.options.keep + 1))]
    letters = f"{Paths().ship}/dead-letter/{sink.name}.ndjson"
    yield [letters, f"{letters}.1"]


class _Glob:
    """An entry of [ship] files: the files that it matches now, and those that it would match."""

    def __init__(self, text: str, paths: Paths) -> None:
        self.text = text
        self._paths = paths
        pattern = str(paths.host(text))
        # A rotated file is read under its number, too.
        self._patterns = [os.path.realpath(f"{pattern}{suffix}").split("/") for suffix in ("", ".[0-9]*")]
        self._matched = frozenset(map(os.path.realpath, glob.iglob(pattern, recursive=True)))

    def reads(self, path: str) -> bool:
        """Return whether `path` is or may become one of the files that are read."""
        real = os.path.realpath(self._paths.host(path))
        # A fact is not expected to end like a rotated file: `*.log.1*` would match every path that ends in a fact.
        patterns = self._patterns[:1] if _ANY in path else self._patterns
        if real in self._matched or any(_matches_path(real.split("/"), pattern) for pattern in patterns):
            return True
        existing = glob.escape(str(self._paths.host(path))).replace(_ANY, "*") if _ANY in path else ""
        return bool(existing) and any(os.path.realpath(file) in self._matched for file in glob.iglob(existing))


def _matches_path(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """Match the segments of a path as the glob module does: `*` stays within one directory, `**` does not."""
    if not pattern or not path:
        return not pattern and not path
    if pattern[0] == "**":
        return any(_matches_path(path[skipped:], pattern[1:]) for skipped in range(len(path) + 1))
    matches = _may_match if _ANY in path[0] else fnmatch.fnmatchcase
    return matches(path[0], pattern[0]) and _matches_path(path[1:], pattern[1:])


def _may_match(name: str, pattern: str) -> bool:
    """Return whether a name with `_ANY` in it can match the pattern, for some value of each `_ANY`."""
    tokens = re.findall(r"\[!?\]?[^\]]*\]|.", pattern, re.DOTALL)

    @functools.cache
    def rest_may_match(i: int, j: int) -> bool:
        if i == len(name) or j == len(tokens):
            return all(c == _ANY for c in name[i:]) and set(tokens[j:]) <= {"*"}
        if name[i] == _ANY or tokens[j] == "*":
            return rest_may_match(i + 1, j) or rest_may_match(i, j + 1)
        return fnmatch.fnmatchcase(name[i], tokens[j]) and rest_may_match(i + 1, j + 1)

    return rest_may_match(0, 0)


class SinkFiles:
    """The files that `file` sinks write, with current facts.

    A fact, or a link, can turn such a path into one of the files that are read. Shipping its lines would fill the disk.
    """

    def __init__(self, settings: Settings, paths: Paths, values: Callable[[], Mapping[str, Mapping[str, Any]]]) -> None:
        self._texts = [sink.options.path for sink in settings.sinks if sink.type == "file"]
        self._paths, self._values = paths, values
        self._filled_from: Mapping[str, Mapping[str, Any]] | None = None
        self._written: frozenset[str] = frozenset()
        self._reported: set[bytes] = set()

    def without_own_lines(self, batch: Batch) -> Batch:
        """Return a batch of log files without the lines of files that sinks write."""
        files = batch.columns.get("FILE", ())
        own = {name for name in set(files) if name is not None and self._is_own(name)}
        if not own:
            return batch
        for name in own - self._reported:
            log.error("%s is written by a sink and read by [ship] files: its lines are not shipped again", os.fsdecode(name))
        self._reported |= own
        return batch.pick([i for i, name in enumerate(files) if name not in own])

    def _is_own(self, name: bytes) -> bool:
        if (values := self._values()) is not self._filled_from:
            self._filled_from = values
            self._written = frozenset(self._fill(values))
        real = os.path.realpath(self._paths.host(os.fsdecode(name)))
        return real in self._written or re.sub(r"\.\d+\Z", "", real) in self._written

    def _fill(self, values: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
        for text in self._texts:
            try:
                yield os.path.realpath(self._paths.host(interpolation.fill(text, values)))
            except DiscoveryError:
                continue  # the sink writes nothing until the fact is known


def _is_local_syslog(sink: Sink) -> bool:
    """Return whether the sink sends to this host in a protocol whose receivers may drop the loop marker from their files."""
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


def _stdout_is_journal() -> bool:
    """Return whether standard output is a stream to journald (systemd.exec(5), $JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    status = os.fstat(1)
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
