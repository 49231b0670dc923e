"""Candidates beside their targets, checked, then all renamed: the whole old file or the whole new one, whatever is killed.

The order of a commit, each step durable before the next:

1. stage: `.NAME.parbake-new` beside every target, complete, with its final owner, mode, label and ACL, fsynced;
2. check: every check of the group passes on the candidates;
3. journal: the list of renames is written to the state directory;
4. rename: the old file is kept as `.NAME.parbake-old` (a hard link), the candidate takes the target's name;
5. the units are acted on, and verified; then the old files and the journal go, or the old files come back.

A crash before 3 leaves candidates that the next start removes. A crash after 3 is finished by `resume` at the next start.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent.errors import ApplyError, CheckError
from agent.masking.masker import Masker
from agent.model import Change
from agent.paths import Paths
from agent.settings.models import Template
from agent.system import safe_files
from agent.system.process import ProcessResult

Run = Callable[[Sequence[str], float], ProcessResult]
_OTHER = re.compile(r"\{candidate:([^{}]+)\}")
_COPIED_ATTRIBUTES = ("security.selinux", "system.posix_acl_access")


@dataclass(frozen=True, slots=True)
class Rename:
    """One target of a commit. `created`: there was nothing in its place, so putting back means removing it. `sha256`: of
    what it is to hold; empty where the target took its place in an earlier commit that this one includes."""

    target: str
    created: bool
    template: str = ""
    group: str = ""
    sha256: str = ""


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
    """Write every candidate. `kept` are targets whose old files an earlier commit, not confirmed yet, has kept.

    Raises ApplyError after removing what was staged: nothing is left, nothing was replaced.
    """
    changes = list(changes)
    staged: list[Rename] = []
    try:
        for change in changes:
            create = (directories or {}).get(change.target, safe_files.ParentDirectory())
            with _explained(change.target, "staged"), safe_files.slot(paths, change.target, create=create) as place:
                there = _exists(place, place.name)
                if change.target not in kept:
                    _unlink(place, backup_name(place.name))
                if there:
                    _refuse_fixed(place, change.target)
                digest = hashlib.sha256(change.content).hexdigest()
                staged.append(Rename(change.target, not there, change.template, change.group, digest))
                _write_candidate(place, change, paths)
    except BaseException:
        discard(paths, [change.target for change in changes])
        raise
    return staged


def _write_candidate(place: safe_files.TargetLocation, change: Change, paths: Paths) -> None:
    name = candidate_name(place.name)
    _unlink(place, name)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=place.directory), "wb") as file:
        file.write(change.content)
        file.flush()
        descriptor = file.fileno()
        try:
            os.fchown(descriptor, change.uid, change.gid)
        except PermissionError:
            if paths.is_host or os.geteuid() == 0:
                raise
        _copy_attributes(place, descriptor)
        os.fchmod(descriptor, change.mode)
        os.fsync(descriptor)


def _refuse_fixed(place: safe_files.TargetLocation, target: str) -> None:
    """A mount of its own or an immutable file cannot be replaced: found out while only its own group waits for it, and
    nothing of another has been replaced. Raises ApplyError."""
    with _explained(target, "replaced"):
        if safe_files.is_mount(place):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if safe_files.is_immutable(place):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def _copy_attributes(place: safe_files.TargetLocation, descriptor: int) -> None:
    """The old file's SELinux label and ACL, where it has them."""
    try:
        old = os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=place.directory)
    except OSError:
        return  # no old file, or a symlink in its place: there is nothing to take over
    try:
        for name in set(os.listxattr(old)) & set(_COPIED_ATTRIBUTES):
            os.setxattr(descriptor, name, os.getxattr(old, name))
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA, errno.EPERM):
            raise
    finally:
        os.close(old)


def check(
    paths: Paths,
    templates: Iterable[Template],
    secrets: Sequence[str] | None,
    run: Run,
    others: Iterable[Template] = (),
) -> None:
    """Run each template's check on its candidate, and those that name another's; the same command runs once.

    `others` are the templates without a candidate: a check that names one has its target, and one of the same group whose
    check names a candidate is checked as it stands. Raises CheckError with the check's own words, secrets masked; where
    `secrets` is None they are not known, and the words are withheld.
    """
    staged = {template.name: template for template in templates}
    known = {template.name: template for template in others} | staged
    files = {name: paths.host(template.target) for name, template in known.items()}
    files |= {name: files[name].with_name(candidate_name(files[name].name)) for name in staged}
    groups = {template.group_name for template in staged.values()}
    seen: set[tuple[str, ...]] = set()
    for template in known.values():
        named = {match[1] for part in template.check for match in _OTHER.finditer(part)}
        if template.name not in staged and not (template.group_name in groups and named & staged.keys()):
            continue
        argv = tuple(_filled(part, template.name, files) for part in template.check)
        if not argv or argv in seen:
            continue
        seen.add(argv)
        ran = run(argv, template.check_timeout)
        if not ran.ok:
            words = masked_output(ran, secrets)
            ending = "did not finish" if ran.code is None else f"exit code {ran.code}"
            raise CheckError(
                f"template {template.name}: its check refused the new {template.target} ({ending}): "
                f"{' '.join(template.check)}\n{_indented(words)}".rstrip(),
                hint="nothing of its group was replaced; the old file stays in use",
            )


def masked_output(ran: ProcessResult, secrets: Sequence[str] | None) -> str:
    """What a program printed, fit to be shown."""
    return "(its output is withheld: the secrets in it are not known)" if secrets is None else Masker(secrets).mask(ran.output)


def _filled(part: str, name: str, files: Mapping[str, Path]) -> str:
    """{candidate} is the template's own, {candidate:NAME} another's: its candidate, or its target where that stays."""
    part = part.replace("{candidate}", str(files[name]))
    return _OTHER.sub(lambda match: str(files[match[1]]) if match[1] in files else match[0], part)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()[-20:])


def commit(paths: Paths, renames: Iterable[Rename]) -> None:
    """Rename every candidate that is still there. Safe to run again after a crash at any point of an earlier run.

    Raises ApplyError half way, also where a candidate is gone and the target does not hold what was in it; the caller then
    puts back what was replaced.
    """
    for rename in renames:
        with _explained(rename.target, "replaced"), safe_files.slot(paths, rename.target) as place:
            if not _exists(place, candidate_name(place.name)):
                if rename.sha256 and _digest(place) != rename.sha256:
                    raise ApplyError(
                        f"target {rename.target} could not be replaced: the file staged beside it is gone",
                        hint="the old file is kept; see what removes files there: a check that tidies up, another program",
                    )
                continue
            if not rename.created:
                _keep_old(place)
            os.rename(candidate_name(place.name), place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
            safe_files.fsync_directory(place.directory)


def _digest(place: safe_files.TargetLocation) -> str:
    """Of what stands in a target's place; "" where that is no file."""
    try:
        with open(os.open(place.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.directory), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP):
            raise
        return ""


def _keep_old(place: safe_files.TargetLocation) -> None:
    """One that is kept already is of this commit, or of an earlier one that is not confirmed yet."""
    if _exists(place, backup_name(place.name)):
        return
    name, directory = place.name, place.directory
    with suppress(FileNotFoundError):  # removed by hand since it was planned
        os.link(name, backup_name(name), src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        safe_files.fsync_directory(directory)


def put_back(paths: Paths, renames: Iterable[Rename]) -> list[str]:
    """Undo a commit: old files take their names again, created ones go. Returns the targets put back; what cannot be
    put back is raised as one ApplyError after everything else was."""
    done, failed = [], []
    for rename in reversed(list(renames)):
        try:
            with safe_files.slot(paths, rename.target) as place:
                untouched = _exists(place, candidate_name(place.name))
                _unlink(place, candidate_name(place.name))
                if _exists(place, backup_name(place.name)):
                    os.rename(backup_name(place.name), place.name, src_dir_fd=place.directory, dst_dir_fd=place.directory)
                    # renaming one link of a file to another of its links does nothing and leaves both
                    _unlink(place, backup_name(place.name))
                    done.append(rename.target)
                elif rename.created and not untouched:
                    _unlink(place, place.name)
                    done.append(rename.target)
                safe_files.fsync_directory(place.directory)
        except FileNotFoundError:
            continue
        except (OSError, ApplyError) as error:
            failed.append(f"{rename.target}: {error.strerror if isinstance(error, OSError) else error}")
    if failed:
        raise ApplyError(
            f"the old file could not be put back: {'; '.join(failed)}",
            hint="it stands beside the target as .NAME.parbake-old; the next start tries again",
        )
    return done


def discard(paths: Paths, targets: Iterable[str], *, backups: bool = False) -> None:
    """Remove candidates, and with `backups` the kept old files, wherever they can be reached."""
    for target in targets:
        try:
            with safe_files.slot(paths, target) as place:
                _unlink(place, candidate_name(place.name))
                if backups:
                    _unlink(place, backup_name(place.name))
        except (OSError, ApplyError):
            continue  # unreachable now: the next start tries again


def as_plain(renames: Iterable[Rename]) -> list[dict[str, Any]]:
    return [asdict(rename) for rename in renames]


def from_plain(items: Iterable[dict[str, Any]]) -> list[Rename]:
    return [Rename(str(i["target"]), bool(i["created"]), str(i["template"]), str(i["group"]), str(i["sha256"])) for i in items]


def _exists(place: safe_files.TargetLocation, name: str) -> bool:
    try:
        found = os.stat(name, dir_fd=place.directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return True


def _unlink(place: safe_files.TargetLocation, name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=place.directory)


_HINTS = {
    errno.EISDIR: "a directory stands where the file must go; move it away",
    errno.ENOSPC: "the disk is full; free space on it",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "its filesystem is read-only; let the image mount it writable, or move the target",
    errno.EPERM: "it may be immutable (lsattr) or of another owner",
    errno.EACCES: "parbake has no permission there; run it as root",
    errno.EBUSY: "it is a mount point of its own, which cannot be replaced; mount its directory instead",
    errno.EXDEV: "it is a mount point of its own, which cannot be replaced; mount its directory instead",
}


@contextmanager
def _explained(target: str, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = _HINTS.get(error.errno or 0, "see the message above")
        raise ApplyError(
            f"target {target} could not be {done}: {error.strerror}", hint=f"the old file is kept; {advice}"
        ) from None
