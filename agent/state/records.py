"""Files in the state directory: written whole and durably, and never able to stop a convergence by being damaged."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.errors import StateError
from agent.system.safe_files import sync_directory, write_atomic

log = logging.getLogger("parbake.state")
_KEY_BYTES = 32


class Records:
    """Records by file name below one directory. Nothing is created before the first write."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.writable = False
        """Whether a convergence has prepared the directory. A command that changes nothing does not write to it."""

    def load(self, name: str) -> dict[str, Any]:
        """Return a JSON record. Returns {} if the record is absent, damaged, or not readable by this user.

        Raises StateError if it may exist and cannot be read: an unfinished commit or a hold must not be passed over.
        """
        path = self.directory / name
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return {}
        except OSError as error:
            raise StateError(
                f"{path} cannot be read: {error.strerror}", hint="nothing was changed; check the disk, then start parbake again"
            ) from None
        try:
            record = json.loads(content)
            if isinstance(record, dict):
                return record
            raise ValueError("not an object")
        except (ValueError, RecursionError) as error:
            self.quarantine_file(path, error)
            return {}

    def save(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a JSON record. It must hold no secret. Raises StateError."""
        self.write(self.directory / name, json.dumps(record, sort_keys=True).encode())

    def remove(self, name: str) -> None:
        """Remove a record, durably. An absent one is no error. Raises StateError."""
        path = self.directory / name
        try:
            path.unlink()
            sync_directory(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateError(f"{path} cannot be removed: {error.strerror}") from None

    def overwrite(self, name: str, offset: int, content: bytes, *, sync: bool = True) -> None:
        """Replace some bytes of a record in place, which needs no space on a full disk.

        `content` must fit into one sector of the disk, so that a crash leaves the old bytes or the new ones. Raises StateError.
        """
        path = self.directory / name
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                os.pwrite(descriptor, content, offset)
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise StateError(f"{path} cannot be written: {error.strerror}", hint="check the disk") from None

    def read(self, path: Path) -> bytes | None:
        """Return the content of a file, or None if it is absent or cannot be read."""
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror)
            return None

    def write(self, path: Path, content: bytes) -> None:
        """Write a file whole and durably, readable by root alone. Raises StateError."""
        try:
            write_atomic(path, content, 0o600)
        except OSError as error:
            raise StateError(
                f"{path} cannot be written: {error.strerror}", hint="free space there, or let parbake write there"
            ) from None

    def quarantine_file(self, path: Path, error: Exception) -> None:
        """Rename a damaged file to NAME.damaged, with a warning, so that it is read no more and can still be examined."""
        log.warning("%s is damaged (%s); it is kept as %s.damaged", path, error, path.name)
        try:
            os.replace(path, path.with_name(f"{path.name}.damaged"))
        except OSError as failure:
            log.warning("%s cannot be renamed: %s", path, failure.strerror)

    def digest_key(self) -> bytes:
        """Return the key of this instance, so that a digest of a secret cannot be used to guess the secret.

        A command that changes nothing, or may not read the key, uses one for itself alone.
        """
        path = self.directory / "digest.key"
        key = self.read(path) if os.access(self.directory, os.R_OK | os.X_OK) else None
        if key is None or len(key) != _KEY_BYTES:
            key = os.urandom(_KEY_BYTES)
            if self.writable:
                self.write(path, key)
        return key
