"""Reads what the daemon publishes for the shipper: facts and generation for labels, and the texts to mask."""

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


class _ReplacedFile:
    """Detects that a file was replaced."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._identity: tuple[int, int, int] | None = None

    def changed(self) -> bool:
        """Return whether the file was replaced since the last call. False if it does not exist."""
        try:
            status = os.stat(self.path)
        except OSError:
            return False
        previous, self._identity = self._identity, (status.st_ino, status.st_mtime_ns, status.st_size)
        return self._identity != previous


class PlaceholderValues:
    """The values of placeholders, {"facts": {...}, "build": {...}}: facts of status.json override [facts] of the settings.

    A daemon that restarts writes the state "starting" before it has discovered facts. The earlier values are kept then.
    """

    def __init__(self, settings: Settings, paths: Paths) -> None:
        self._settings = settings
        self._file = _ReplacedFile(paths.status)
        self._values = self._from_status({})
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether the daemon has discovered facts since the boot."""
        self.current()
        return self._ready

    def current(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the values. The same object is returned until they change."""
        if self._file.changed():
            try:
                status = json.loads(self._file.path.read_bytes())
            except (OSError, ValueError):
                status = None
            if isinstance(status, dict) and (status.get("state") != "starting" or status.get("facts")):
                self._values, self._ready = self._from_status(status), True
        return self._values

    def _from_status(self, status: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
        component, facts = self._settings.component, status.get("facts")
        build = {"component": component.name, "version": component.version, "generation": status.get("generation") or ""}
        return {"facts": {**self._settings.facts, **(facts if isinstance(facts, dict) else {})}, "build": build}


class Labels:
    """The labels of a sink, filled with current values. A label that needs an unknown fact is omitted, with one warning."""

    def __init__(self, sink: str, labels: Mapping[str, str], values: PlaceholderValues) -> None:
        self._sink, self._labels, self._values = sink, labels, values
        self._filled: dict[str, str] = {}
        self._filled_from: Mapping[str, Mapping[str, Any]] | None = None
        self._warned: set[str] = set()

    def current(self) -> Mapping[str, str]:
        """Return label names and texts."""
        values = self._values.current()
        if values is not self._filled_from:
            self._filled_from = values
            self._filled = {name: filled for name, text in self._labels.items() if (filled := self._fill(name, text, values))}
        return self._filled

    def _fill(self, name: str, text: str, values: Mapping[str, Mapping[str, Any]]) -> str:
        try:
            return interpolation.fill(text, values)
        except DiscoveryError as error:
            if name not in self._warned:
                self._warned.add(name)
                log.warning("sink %s: the label %s is left out: %s", self._sink, name, error)
            return ""


class Masking:
    """Holds the current masker, and replaces it when the daemon writes other texts to mask."""

    def __init__(self, settings: Settings, paths: Paths) -> None:
        self._patterns = settings.ship.mask
        self._needed = any(key.secret for key in settings.keys.values())
        self._file = _ReplacedFile(paths.run / "mask")
        self._texts: tuple[str, ...] | None = None
        self._masker = Masker((), self._patterns)
        self._lock = threading.Lock()

    @property
    def ready(self) -> bool:
        """Whether the texts to mask are known, or the contract has no secret key."""
        self.current()
        return self._texts is not None or not self._needed

    def current(self) -> Masker:
        """Return the masker. Replaced secrets stay masked until the shipper ends, because older lines still hold them."""
        with self._lock:
            if self._file.changed():
                try:
                    texts = read_mask_file(self._file.path)
                except (OSError, ValueError) as error:
                    log.error("%s cannot be read, so new secrets are not masked in shipped lines: %s", self._file.path, error)
                    texts = None
                if texts is not None:
                    self._texts = tuple(dict.fromkeys((*(self._texts or ()), *texts)))
                    self._masker = Masker(self._texts, self._patterns)
            return self._masker
