"""Candidates beside their targets, then renamed: each target is the whole old file or the whole new one, whatever is killed.

The candidate of NAME is `.NAME.parbake-new`, complete and durable, with its final owner, mode, label and ACL. At the commit
the old file is kept as `.NAME.parbake-old` (a hard link), and the candidate takes the name of the target.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from agent.errors import ApplyError
from agent.model import Change
from agent.paths import Paths
from agent.system import safe_files

_COPIED_ATTRIBUTES = ("security.selinux", "system.posix_acl_access")


@dataclass(frozen=True, slots=True)
class Rename:
    """One target of a commit.

    `created`: the target did not exist, so a rollback removes it. `sha256` is that of the new content; it is empty for a
    target that was replaced by an earlier commit that this one includes.
    """

    target: str
    created: bool
    template: str = ""
    group: str = ""
    sha256: str = ""

    @property
    def is_earlier(self) -> bool:
        """Whether an earlier commit replaced the target. A candidate beside it was never checked: it was left behind."""
        return not self.sha256

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> Rename:
        """Raises KeyError for a record that lacks a field."""
        return cls(str(item["target"]), bool(item["created"]), str(item["template"]), str(item["group"]), str(item["sha256"]))


def candidate_name(name: str) -> str:
    return f".{name}.parbake-new"


def backup_name(name: str) -> str:
    return f".{name}.parbake-old"


def stage(
    paths: Paths,
    changes: Iterable[Change],
    directories: Mapping[str, safe_files.ParentDirectory] | None = None,
    kept: Collection[str] = (),
) -> list[Rename]:
    """Write the candidate of every change.

    `directories` maps a target to how its missing parent directories are made. `kept` are targets whose old files an
    unconfirmed commit still needs.

    Raises ApplyError after removing what was staged: nothing is left, and nothing was replaced.
    """
    changes = list(changes)
    staged: list[Rename] = []
    try:
        for change in changes:
            parent = (directories or {}).get(change.target, safe_files.ParentDirectory())
            with _explained(change.target, "staged"), safe_files.slot(paths, change.target, create=parent) as location:
                exists = _exists(location, location.name)
                if change.target not in kept:
                    _unlink(location, backup_name(location.name))
                if exists:
                    _refuse_irreplaceable(location, change.target)
                digest = hashlib.sha256(change.content).hexdigest()
                staged.append(Rename(change.target, not exists, change.template, change.group, digest))
                _write_candidate(location, change, paths)
    except BaseException:
        discard(paths, [change.target for change in changes])
        raise
    return staged


def _write_candidate(location: safe_files.TargetLocation, change: Change, paths: Paths) -> None:
    name = candidate_name(location.name)
    _unlink(location, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=location.directory), "wb") as file:
        file.write(change.content)
        file.flush()
        descriptor = file.fileno()
        try:
            os.fchown(descriptor, change.uid, change.gid)
        except PermissionError:
            if paths.is_host or os.geteuid() == 0:
                raise
        _copy_attributes(location, descriptor)
        os.fchmod(descriptor, change.mode)
        os.fsync(descriptor)


def _refuse_irreplaceable(location: safe_files.TargetLocation, target: str) -> None:
    """Refuse a mount point or an immutable file before anything is replaced, so that only its own group waits for it.

    Raises ApplyError.
    """
    with _explained(target, "replaced"):
        if safe_files.is_mount(location):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if safe_files.is_immutable(location):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def _copy_attributes(location: safe_files.TargetLocation, descriptor: int) -> None:
    """Copy the SELinux label and the ACL of the old file, if it has them."""
    try:
        old = os.open(location.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=location.directory)
    except OSError:
        return  # there is no old file, or a symlink in its place
    try:
        for name in set(os.listxattr(old)) & set(_COPIED_ATTRIBUTES):
            os.setxattr(descriptor, name, os.getxattr(old, name))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.EPERM):
            raise
    finally:
        os.close(old)


def commit(paths: Paths, renames: Iterable[Rename]) -> None:
    """Rename every candidate that is still there. A commit that was cut off at any point can be done again.

    Raises ApplyError half way, also if a candidate is gone and the target does not hold its content. The caller then rolls
    back what was replaced.
    """
    for rename in renames:
        with _explained(rename.target, "replaced"), safe_files.slot(paths, rename.target) as location:
            name = location.name
            if rename.is_earlier:
                _unlink(location, candidate_name(name))
                continue
            if not _exists(location, candidate_name(name)):
                if _digest(location) != rename.sha256:
                    raise ApplyError(
                        f"target {rename.target} could not be replaced: the candidate beside it is gone",
                        hint="the old file is kept; find what removes files there: a check that tidies up, another program",
                    )
                continue
            if not rename.created:
                _keep_old(location)
            os.rename(candidate_name(name), name, src_dir_fd=location.directory, dst_dir_fd=location.directory)
            safe_files.fsync_directory(location.directory)


def _digest(location: safe_files.TargetLocation) -> str:
    """Return the SHA-256 of the target, or "" if it is not a file."""
    try:
        descriptor = os.open(location.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=location.directory)
        with open(descriptor, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return ""


def _keep_old(location: safe_files.TargetLocation) -> None:
    """Keep the old file. One that is kept already belongs to this commit, or to an earlier one that is not confirmed yet."""
    name, directory = location.name, location.directory
    if _exists(location, backup_name(name)):
        return
    with suppress(FileNotFoundError):  # removed by hand since it was planned
        os.link(name, backup_name(name), src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        safe_files.fsync_directory(directory)


def restore_targets(paths: Paths, renames: Iterable[Rename]) -> list[str]:
    """Give the old files their names again and remove the targets that were created. Returns the restored targets.

    It can be done again after it was cut off. Raises one ApplyError for all targets that could not be restored, after all
    others were.
    """
    restored, failed = [], []
    for rename in reversed(list(renames)):
        try:
            if _restore(paths, rename):
                restored.append(rename.target)
        except FileNotFoundError:
            continue
        except (OSError, ApplyError) as error:
            failed.append(f"{rename.target}: {error.strerror if isinstance(error, OSError) else error}")
    if failed:
        raise ApplyError(
            f"the old file could not be restored: {'; '.join(failed)}",
            hint="it is kept beside the target as .NAME.parbake-old; the next start tries again",
        )
    return restored


def _restore(paths: Paths, rename: Rename) -> bool:
    """Restore one target. Returns whether it had been replaced. Raises OSError, ApplyError."""
    restored = False
    with safe_files.slot(paths, rename.target) as location:
        name, directory = location.name, location.directory
        not_replaced = not rename.is_earlier and _exists(location, candidate_name(name))
        _unlink(location, candidate_name(name))
        if _exists(location, backup_name(name)):
            os.rename(backup_name(name), name, src_dir_fd=directory, dst_dir_fd=directory)
            # renaming one link of a file to another of its links does nothing and leaves both
            _unlink(location, backup_name(name))
            restored = True
        elif rename.created and not not_replaced:
            _unlink(location, name)
            restored = True
        safe_files.fsync_directory(directory)
    return restored


def discard(paths: Paths, targets: Iterable[str], *, backups: bool = False) -> None:
    """Remove the candidates, and with `backups` the kept old files. One that cannot be reached is left to the next start."""
    for target in targets:
        with suppress(OSError, ApplyError), safe_files.slot(paths, target) as location:
            _unlink(location, candidate_name(location.name))
            if backups:
                _unlink(location, backup_name(location.name))


def _exists(location: safe_files.TargetLocation, name: str) -> bool:
    try:
        status = os.stat(name, dir_fd=location.directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return True


def _unlink(location: safe_files.TargetLocation, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=location.directory)


_HINTS = {
    errno.EISDIR: "a directory has the name of the target; move it away",
    errno.ENOSPC: "the disk is full; free space on it",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "its filesystem is read-only; let the image mount it writable, or move the target",
    errno.EPERM: "it may be immutable (lsattr) or have another owner",
    errno.EACCES: "parbake has no permission there; run it as root",
    errno.EBUSY: "the target is a mount point, which cannot be replaced; mount its directory instead",
    errno.EXDEV: "the target is a mount point, which cannot be replaced; mount its directory instead",
}


@contextmanager
def _explained(target: str, verb: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = _HINTS.get(error.errno or 0, "see the message above")
        raise ApplyError(
            f"target {target} could not be {verb}: {error.strerror}", hint=f"the old file is kept; {advice}"
        ) from None
