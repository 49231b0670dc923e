"""Opens, reads and writes files so that another user's symlink cannot redirect a write.

Every directory of a path is opened by descriptor, one segment at a time. A symlink among the directories is followed only if
it belongs to root or to the user of this process; any other is an error. Links are resolved below the root, so that
--root DIR never leaves DIR. A symlink at the target itself is not followed: the file replaces it.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import stat
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent.errors import ApplyError
from agent.model import TargetFile
from agent.paths import Paths

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LINKS_MAX = 40
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
"""FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h."""

READ_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TargetLocation:
    """The location of a file: the descriptor of its directory, and its name in it."""

    directory: int
    name: str


@dataclass(frozen=True, slots=True)
class ParentDirectory:
    """Mode and ownership of a directory that is created; -1 keeps the owner or group of this process."""

    mode: int = 0o755
    uid: int = -1
    gid: int = -1


@contextmanager
def slot(paths: Paths, target: str, *, create: ParentDirectory | None = None) -> Iterator[TargetLocation]:
    """Open the directory of `target` and yield the target's location. `create` describes missing directories.

    Raises FileNotFoundError if a directory is missing and `create` is None, and ApplyError if a symlink on the path is not
    trusted or a segment is not a directory. Other OSErrors pass.
    """
    *parents, name = [segment for segment in target.split("/") if segment]
    descriptor = _walk(paths, target, parents, create)
    try:
        yield TargetLocation(descriptor, name)
    finally:
        os.close(descriptor)


def _walk(paths: Paths, target: str, parents: list[str], create: ParentDirectory | None) -> int:
    """Open the directories from the root down, and return the descriptor of the last."""
    opened = [os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    remaining, links = list(reversed(parents)), 0
    try:
        while remaining:
            segment = remaining.pop()
            if segment == ".":
                continue
            if segment == "..":
                if len(opened) > 1:
                    os.close(opened.pop())
                continue
            try:
                opened.append(_open_directory(opened[-1], segment, create))
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                links += 1
                destination = _read_trusted_link(opened[-1], segment, target, links)
                if destination.startswith("/"):
                    while len(opened) > 1:
                        os.close(opened.pop())
                remaining.extend(reversed([part for part in destination.split("/") if part]))
        return opened.pop()
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _open_directory(parent: int, segment: str, create: ParentDirectory | None) -> int:
    try:
        return os.open(segment, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if create is None:
            raise
        # 0700 until the owner is set. The mode does not depend on the umask, because another user's service reads there.
        os.mkdir(segment, 0o700, dir_fd=parent)
        descriptor = os.open(segment, _DIRECTORY, dir_fd=parent)
        if (create.uid, create.gid) != (-1, -1):
            os.fchown(descriptor, create.uid, create.gid)
        os.fchmod(descriptor, create.mode)
        os.fsync(parent)
        return descriptor


def _read_trusted_link(directory: int, segment: str, target: str, links: int) -> str:
    status = os.stat(segment, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        raise ApplyError(f"target {target}: {segment} on its path is not a directory", hint="nothing was replaced")
    if status.st_uid not in (0, os.geteuid()):
        raise ApplyError(
            f"target {target}: {segment} on its path is a symlink that belongs to uid {status.st_uid}",
            hint="nothing was replaced; only symlinks of root are followed: remove it, or chown it to root",
        )
    if links > _LINKS_MAX:
        raise ApplyError(f"target {target}: too many symlinks on its path", hint="nothing was replaced")
    return os.readlink(segment, dir_fd=directory)


def read_target(paths: Paths, target: str) -> TargetFile | None:
    """Read a target. Returns None if there is no file, or a symlink, which a write replaces.

    Raises ApplyError if it cannot be read, is not a regular file, or is larger than READ_MAX_BYTES.
    """
    try:
        with slot(paths, target) as location:
            try:
                descriptor = os.open(location.name, _READ_ONLY, dir_fd=location.directory)
            except OSError as error:
                if error.errno == errno.ELOOP:
                    return None
                raise
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise ApplyError(
                        f"target {target} is not a regular file", hint="nothing was replaced; move it out of the way"
                    )
                if status.st_size > READ_MAX_BYTES:
                    raise ApplyError(f"target {target} is larger than {READ_MAX_BYTES} bytes; parbake did not write it")
                return TargetFile(file.read(), stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ApplyError(f"target {target} cannot be read: {error.strerror}", hint="nothing was replaced") from None


def owner_id(paths: Paths, name: str) -> int:
    """Return a uid by name or number. Below --root, DIR/etc/passwd is read if it exists. Raises ApplyError."""
    return _resolve_id(paths, name, "passwd", "user", lambda user: pwd.getpwnam(user).pw_uid)


def group_id(paths: Paths, name: str) -> int:
    """Return a gid by name or number. Below --root, DIR/etc/group is read if it exists. Raises ApplyError."""
    return _resolve_id(paths, name, "group", "group", lambda group: grp.getgrnam(group).gr_gid)


def _resolve_id(paths: Paths, name: str, file: str, kind: str, query: Callable[[str], int]) -> int:
    if name.isdigit():
        return int(name)
    table = paths.host(f"/etc/{file}")
    if not paths.is_host and table.is_file():
        for line in table.read_text("utf-8", "replace").splitlines():
            fields = line.split(":")
            if fields[0] == name and len(fields) > 2:
                return int(fields[2])
    try:
        return query(name)
    except KeyError:
        raise ApplyError(
            f'there is no {kind} "{name}" on this instance',
            hint="nothing was replaced; create it in the image, or correct the template's owner or group",
        ) from None


def fsync_directory(descriptor: int) -> None:
    """Make renames in a directory durable. Raises OSError."""
    os.fsync(descriptor)


def write_atomic(
    path: Path, content: bytes, mode: int, *, sync: bool = True, on_created: Callable[[int], None] | None = None
) -> None:
    """Write a file of parbake (state, status), whole or not at all.

    `on_created` is called with the descriptor while the mode is still 0600. With `sync` the file is durable on return.
    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            if on_created is not None:
                on_created(descriptor)
            os.fchmod(descriptor, mode)
            file.flush()
            if sync:
                os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and removals in a directory durable. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def unprivileged() -> bool:
    return os.geteuid() != 0


def own_ids() -> tuple[int, int]:
    return os.geteuid(), os.getegid()


def is_mount(location: TargetLocation) -> bool:
    """Return whether a target is a mount point, such as a file that a container runtime binds. False without /proc."""
    try:
        path = os.path.join(os.readlink(f"/proc/self/fd/{location.directory}"), location.name)
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    escaped = path.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return escaped.encode("utf-8", "surrogateescape") in (line.split(b" ")[4] for line in lines)  # proc_pid_mountinfo(5)


def is_immutable(location: TargetLocation) -> bool:
    """Return whether a target has the attribute immutable or append-only of chattr(1), by ioctl_iflags(2)."""
    flags = array("l", [0])
    try:
        descriptor = os.open(location.name, _READ_ONLY, dir_fd=location.directory)
    except OSError:
        return False
    try:
        fcntl.ioctl(descriptor, 0x80006601 | flags.itemsize << 16, flags)
    except OSError:
        return False  # a filesystem without attributes
    finally:
        os.close(descriptor)
    return bool(flags[0] & (_IMMUTABLE | _APPEND_ONLY))
