"""Lines appended to a file that several lanes share: whole batches, or nothing of them."""

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
    made: Callable[[int], None] | None = None,
) -> None:
    """Append under a lock of the directory; `rotate` makes room first where the file would grow beyond `max_bytes`.

    `mode` is that of a new file, whatever the umask; `made` is given its descriptor. With `sync` all of it is on the disk
    before this returns. Of a full disk nothing stays: half a batch would be there twice after the next try. Raises OSError.
    """
    lock = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        descriptor, new = _open(path, mode)
        if (size := os.fstat(descriptor).st_size) and size + len(body) > max_bytes:
            os.close(descriptor)
            rotate()
            (descriptor, new), size = _open(path, mode), 0
        try:
            if new:
                os.fchmod(descriptor, mode)
                if made is not None:
                    made(descriptor)
            try:
                _write_all(descriptor, body)
                if sync:
                    os.fdatasync(descriptor)
            except OSError:
                os.ftruncate(descriptor, size)
                raise
        finally:
            os.close(descriptor)
        if new and sync:
            os.fsync(lock)  # its name, too
    finally:
        os.close(lock)


def _open(path: Path, mode: int) -> tuple[int, bool]:
    """A descriptor to append with, and whether the file is a new one."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags), False
    except FileNotFoundError:
        return os.open(path, flags | os.O_CREAT, mode), True


def _write_all(descriptor: int, body: bytes) -> None:
    view = memoryview(body)
    while view:
        view = view[os.write(descriptor, view) :]
