"""What the shipper learns from the daemon while it runs: facts and generation for labels, and what to mask."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import DiscoveryError
from agent.masking.mask_file import read_mask_file
from agent.masking.masker import Masker
from agent.paths import Paths
from agent.settings import interpolation
from agent.settings.models import Settings

log = logging.getLogger("parbake")


class _Watched:
    """A file that is read again when it was replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Whether it is another one than at the last call. False where it is gone: what was known stays true."""
        try:
            found = os.stat(self.path)
        except OSError:
            return False
        now = (found.st_ino, found.st_mtime_ns, found.st_size)
        before, self._seen = self._seen, now
        return now != before


class PlaceholderValues:
    """`facts` and `build` for placeholders: facts of status.json over [facts] of the settings.

    A daemon that starts anew says "starting" before it has found out anything: what was known then stays true.
    """

    def __init__(self, settings: Settings, paths: Paths) -> None:
        self._settings = settings
        self._status = _Watched(paths.status)
        self._spaces = self._from({})
        self._told = False

    @property
    def known(self) -> bool:
        """Whether the daemon has found out since the boot which instance this is."""
        self.current()
        return self._told

    def current(self) -> Mapping[str, Mapping[str, Any]]:
        if self._status.changed():
            try:
                status = json.loads(self._status.path.read_bytes())
            except (OSError, ValueError):
                status = None
            if isinstance(status, dict) and (status.get("state") != "starting" or status.get("facts")):
                self._spaces, self._told = self._from(status), True
        return self._spaces

    def _from(self, status: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        component, facts = self._settings.component, status.get("facts")
        build = {"component": component.name, "version": component.version, "generation": status.get("generation") or ""}
        return {"facts": {**self._settings.facts, **(facts if isinstance(facts, dict) else {})}, "build": build}


class Labels:
    """A sink's labels, filled from what is known now. One that needs an unknown fact is left out, with one warning."""

    def __init__(self, sink: str, labels: Mapping[str, str], spaces: PlaceholderValues) -> None:
        self._sink, self._labels, self._source = sink, labels, spaces
        self._filled: dict[str, str] = {}
        self._from: Mapping[str, Mapping[str, Any]] | None = None
        self._warned: set[str] = set()

    def current(self) -> Mapping[str, str]:
        spaces = self._source.current()
        if spaces is not self._from:
            self._from = spaces
            self._filled = {name: value for name, text in self._labels.items() if (value := self._fill(name, text, spaces))}
        return self._filled

    def _fill(self, name: str, text: str, spaces: Mapping[str, Mapping[str, Any]]) -> str:
        try:
            return interpolation.fill(text, spaces)
        except DiscoveryError as error:
            if name not in self._warned:
                self._warned.add(name)
                log.warning("sink %s: the label %s is left out: %s", self._sink, name, error)
            return ""


class Masking:
    """The masker, made anew when the daemon says that there are other secrets."""

    def __init__(self, settings: Settings, paths: Paths) -> None:
        self._patterns = settings.ship.mask
        self._needed = any(key.secret for key in settings.keys.values())
        self._file = _Watched(paths.run / "mask")
        self._texts: tuple[str, ...] | None = None
        self._masker = Masker((), self._patterns)
        self._lock = threading.Lock()

    @property
    def known(self) -> bool:
        """Whether it is known what to mask. Where the contract has no secret key, nothing has to be."""
        self.current()
        return self._texts is not None or not self._needed

    def current(self) -> Masker:
        """Secrets that were replaced stay masked until the shipper ends: lines with the old ones are still on their way."""
        with self._lock:
            if self._file.changed():
                try:
                    texts = read_mask_file(self._file.path)
                except (OSError, ValueError) as error:
                    log.error("%s cannot be read, so that new secrets are not masked: %s", self._file.path, error)
                    texts = None
                if texts is not None:
                    self._texts = tuple(dict.fromkeys((*(self._texts or ()), *texts)))
                    self._masker = Masker(self._texts, self._patterns)
            return self._masker
