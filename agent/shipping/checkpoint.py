"""Where a sink is with a reader: one small file, whole or not at all, moved after the sink's acknowledgement only."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import StateError

log = logging.getLogger("parbake")


class Checkpoint:
    """`DIRECTORY/SINK.READER.json`."""

    def __init__(self, directory: Path, sink: str, reader: str) -> None:
        self._path = directory / f"{sink}.{reader}.json"
        self._saved: Mapping[str, Any] | None = None

    def load(self) -> Mapping[str, Any] | None:
        """The position; None where there is none yet, and where the file is damaged, which is logged: shipping goes on
        from the oldest entry. Raises StateError where it may not be read."""
        try:
            document = json.loads(self._path.read_bytes())
            position = document["position"]
            if not isinstance(position, dict):
                raise ValueError("no position in it")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError):
            log.warning("the checkpoint %s is damaged; shipping starts again from the oldest entry", self._path.name)
            return None
        except OSError as error:
            raise StateError(f"{self._path} cannot be read: {error.strerror}", hint="it belongs to parbake-ship") from None
        self._saved = position
        return position

    def save(self, position: Mapping[str, Any]) -> None:
        """Durable before it returns. Raises StateError."""
        if not position or position == self._saved:
            return
        temporary = self._path.with_suffix(".new")
        content = json.dumps({"schema": 1, "position": position}).encode()
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                give_to_owner(file.fileno(), self._path.parent)
                os.fsync(file.fileno())
            os.replace(temporary, self._path)
            _sync(self._path.parent)
        except OSError as error:
            raise StateError(f"{self._path} cannot be written: {error.strerror}", hint="is the disk full?") from None
        self._saved = position


def give_to_owner(descriptor: int, directory: Path) -> None:
    """A file that root has made by hand must not shut the service out."""
    if os.geteuid() == 0:
        owner = directory.stat()
        with contextlib.suppress(OSError):
            os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
