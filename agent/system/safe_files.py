"""Targets on the disk, reached so that nobody else's symlink can lead a write away.

Every directory on the way is opened by descriptor, one segment at a time. A symlink on the way is followed only when it
belongs to root or to the user parbake runs as; one of anybody else is an error. Links are resolved below the root, so that
--root DIR never reaches out of DIR. A symlink in the target's own place is not followed: it is replaced by the file.
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
_LINKS_MAX = 40
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
"""FS_IMMUTABLE_FL and FS_APPEND_FL of linux/fs.h."""

READ_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class TargetLocation:
    """A place for a file: its directory's descriptor, and its name there."""

    directory: int
    name: str


@dataclass(frozen=True, slots=True)
class ParentDirectory:
    """How a missing directory is made; -1 leaves the owner or group to be parbake's own."""

    mode: int = 0o755
    uid: int = -1
    gid: int = -1


@contextmanager
def slot(paths: Paths, target: str, *, create: ParentDirectory | None = None) -> Iterator[TargetLocation]:
    """The place of `target`. With `create`, missing directories are made so.

    Raises FileNotFoundError without `create`, ApplyError where the way there cannot be trusted or made.
    """
    *parents, name = [segment for segment in target.split("/") if segment]
    descriptor = _walk(paths, target, parents, create)
    try:
        yield TargetLocation(descriptor, name)
    finally:
        os.close(descriptor)


def _walk(paths: Paths, target: str, parents: list[str], create: ParentDirectory | None) -> int:
    trail = [os.open(paths.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
    todo, links = list(reversed(parents)), 0
    try:
        while todo:
            segment = todo.pop()
            if segment == ".":
                continue
            if segment == "..":
                if len(trail) > 1:
                    os.close(trail.pop())
                continue
            try:
                trail.append(_enter(trail[-1], segment, create))
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                links += 1
                destination = _trusted_link(trail[-1], segment, target, links)
                if destination.startswith("/"):
                    while len(trail) > 1:
                        os.close(trail.pop())
                todo.extend(reversed([part for part in destination.split("/") if part]))
        return trail.pop()
    finally:
        for descriptor in trail:
            os.close(descriptor)


def _enter(directory: int, segment: str, create: ParentDirectory | None) -> int:
    try:
        return os.open(segment, _DIRECTORY, dir_fd=directory)
    except FileNotFoundError:
        if create is None:
            raise
        # closed to others until it has its owner, and never left to the umask: the service that reads it is another user
        os.mkdir(segment, 0o700, dir_fd=directory)
        made = os.open(segment, _DIRECTORY, dir_fd=directory)
        if (create.uid, create.gid) != (-1, -1):
            os.fchown(made, create.uid, create.gid)
        os.fchmod(made, create.mode)
        os.fsync(directory)
        return made


def _trusted_link(directory: int, segment: str, target: str, links: int) -> str:
    found = os.stat(segment, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        raise ApplyError(f"target {target}: {segment} on its path is not a directory", hint="nothing was replaced")
    if found.st_uid not in (0, os.geteuid()):
        raise ApplyError(
            f"target {target}: {segment} on its path is a symlink that belongs to uid {found.st_uid}",
            hint="nothing was replaced; only links of root are followed",
        )
    if links > _LINKS_MAX:
        raise ApplyError(f"target {target}: too many symlinks on its path", hint="nothing was replaced")
    return os.readlink(segment, dir_fd=directory)


def read_target(paths: Paths, target: str) -> TargetFile | None:
    """The target as it stands; None where there is no file. A symlink counts as no file: it will be replaced.

    Raises ApplyError where it cannot be read or is no regular file.
    """
    try:
        with slot(paths, target) as place:
            try:
                descriptor = os.open(
                    place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.directory
                )
            except OSError as error:
                if error.errno == errno.ELOOP:
                    return None
                raise
            with open(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode):
                    raise ApplyError(f"target {target} is not a regular file", hint="nothing was replaced; move it away")
                if found.st_size > READ_MAX_BYTES:
                    raise ApplyError(f"target {target} is larger than {READ_MAX_BYTES} bytes; parbake did not write it")
                return TargetFile(file.read(), stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ApplyError(f"target {target} cannot be read: {error.strerror}", hint="nothing was replaced") from None


def owner_id(paths: Paths, name: str) -> int:
    """A uid by name or number. Below --root, DIR/etc/passwd is asked where it exists. Raises ApplyError."""
    return _id(paths, name, "passwd", "user", lambda n: pwd.getpwnam(n).pw_uid)


def group_id(paths: Paths, name: str) -> int:
    """A gid by name or number. Below --root, DIR/etc/group is asked where it exists. Raises ApplyError."""
    return _id(paths, name, "group", "group", lambda n: grp.getgrnam(n).gr_gid)


def _id(paths: Paths, name: str, file: str, what: str, ask: object) -> int:
    if name.isdigit():
        return int(name)
    table = paths.host(f"/etc/{file}")
    if not paths.is_host and table.is_file():
        for line in table.read_text("utf-8", "replace").splitlines():
            fields = line.split(":")
            if fields[0] == name and len(fields) > 2:
                return int(fields[2])
    try:
        return int(ask(name))  # type: ignore[operator]
    except KeyError:
        raise ApplyError(
            f'there is no {what} "{name}" on this instance',
            hint="nothing was replaced; create it in the image, or correct the template's owner or group",
        ) from None


def fsync_directory(descriptor: int) -> None:
    """Make renames in a directory durable."""
    os.fsync(descriptor)


def write_atomic(
    path: Path, content: bytes, mode: int, *, sync: bool = True, made: Callable[[int], None] | None = None
) -> None:
    """Write a file of parbake's own (state, status), whole or not at all. `made` is given its descriptor before it has its
    mode. With `sync` it is durable before this returns. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            if made is not None:
                made(descriptor)
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
    """Make what was renamed or removed in a directory durable. Raises OSError."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def unprivileged() -> bool:
    return os.geteuid() != 0


def own_ids() -> tuple[int, int]:
    return os.geteuid(), os.getegid()


def is_mount(place: TargetLocation) -> bool:
    """Whether a target is a mount point of its own, such as a file that a container's runtime binds. False without /proc."""
    try:
        path = os.path.join(os.readlink(f"/proc/self/fd/{place.directory}"), place.name)
        lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:
        return False
    wanted = path.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011").replace("\n", "\\012")
    return wanted.encode("utf-8", "surrogateescape") in (line.split(b" ")[4] for line in lines)


def is_immutable(place: TargetLocation) -> bool:
    """Whether a target has the attribute that chattr(1) calls immutable or append-only; ioctl_iflags(2)."""
    flags = array("l", [0])
    try:
        descriptor = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.directory)
    except OSError:
        return False
    try:
        fcntl.ioctl(descriptor, 0x80006601 | flags.itemsize << 16, flags)
    except OSError:
        return False  # a filesystem without attributes
    finally:
        os.close(descriptor)
    return bool(flags[0] & (_IMMUTABLE | _APPEND_ONLY))
