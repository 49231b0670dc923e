"""The shipper's directory, /var/lib/parbake/ship: held by one shipper at a time, with the loop marker of this instance."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import BusyError, StateError

_MARKER_BYTES = 12


@contextmanager
def hold(directory: Path, *, write: bool) -> Iterator[str]:
    """Hold the directory and yield the loop marker.

    With `write` the directory is created if it is missing and locked against a second shipper, which checkpoints need.
    Raises BusyError if another shipper runs, StateError if the directory cannot be used.
    """
    lock: int | None = None
    try:
        if write:
            directory.mkdir(parents=True, exist_ok=True)
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield _loop_marker(directory, write=write)
    except BlockingIOError:
        raise BusyError("another `parbake ship` is running", hint="stop parbake-ship.service, or add --since") from None
    except PermissionError as error:
        raise StateError(
            f"{error.filename} cannot be used: {error.strerror}",
            hint="run as parbake-ship: `sudo -u parbake-ship parbake ship`",
        ) from None
    finally:
        if lock is not None:
            os.close(lock)


def _loop_marker(directory: Path, *, write: bool) -> str:
    """Return the random text of this instance. A log contains it only if a receiver has logged a request."""
    path = directory / "mark"
    try:
        if text := path.read_text("ascii").strip():
            return text
    except (OSError, UnicodeDecodeError):
        pass
    marker = f"parbake-{secrets.token_hex(_MARKER_BYTES)}"
    if write:
        path.write_text(marker + "\n", "ascii")
    return marker
