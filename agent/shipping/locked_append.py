"""Appends whole batches to a file that several pipelines share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path


def append(
    path: Path,
    body: bytes,
    *,
    max_bytes: int,
    rotate: Callable[[], None],
    mode: int,
    sync: bool = True,
    on_create: Callable[[int], None] | None = None,
) -> None:
    """Append `body` to the file at `path`, under a lock of its directory.

    `rotate` renames the file if it would grow beyond `max_bytes`. A new file gets `mode` regardless of the umask, and
    `on_create` receives its descriptor. With `sync` the bytes are on the disk when this returns.

    If the write fails, the file is cut to its earlier length; otherwise a retry would write part of the batch twice. Raises
    OSError.
    """
    lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        descriptor, is_new = _open(path, mode)
        if (size := os.fstat(descriptor).st_size) and size + len(body) > max_bytes:
            os.close(descriptor)
            rotate()
            (descriptor, is_new), size = _open(path, mode), 0
        try:
            if is_new:
                os.fchmod(descriptor, mode)
                if on_create is not None:
                    on_create(descriptor)
            try:
                _write_all(descriptor, body)
                if sync:
                    os.fdatasync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if is_new and sync:
            os.fsync(lock)  # makes the directory's entry for the new file durable
    finally:
        os.close(lock)


def _open(path: Path, mode: int) -> tuple[int, bool]:
    """Return a descriptor for appending, and whether the file is new."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags), False
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, mode), True


def _write_all(descriptor: int, body: bytes) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]
