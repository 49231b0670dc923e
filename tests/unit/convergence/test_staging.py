"""Targets on hostile and broken disks: nothing is ever written outside the target, and never half of it."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.convergence import staging
from agent.errors import ApplyError
from agent.model import Change, ChangeKind
from agent.paths import Paths
from agent.system import safe_files
from tests.conftest import Image
from tests.unit.convergence.test_converge import code_of
from tests.unit.convergence.worlds import world_of

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: other owners, mounts, immutable files")
TARGET = "/etc/app/app.conf"


def change(image: Image, content: bytes, target: str = TARGET, mode: int = 0o640) -> Change:
    return Change("app", target, ChangeKind.CONTENT, "", mode, os.geteuid(), os.getegid(), False, content)


def put(image: Image, content: bytes = b"new\n", target: str = TARGET) -> None:
    """What a convergence does with one target; what fails is taken back, as a transaction does."""
    paths = Paths(image.root)
    changes = [change(image, content, target)]
    renames = staging.stage(paths, changes)
    try:
        staging.commit(paths, renames)
    except ApplyError:
        staging.restore_targets(paths, renames)
        raise
    staging.discard(paths, [target], backups=True)


def refused(image: Image, words: str, target: str = TARGET) -> ApplyError:
    with pytest.raises(ApplyError, match=words) as failed:
        put(image, target=target)
    assert target in str(failed.value)
    assert failed.value.hint
    assert image.leftovers() == []
    return failed.value


def everything(root: Path) -> dict[str, str]:
    found = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = path.read_text()
    return found


def test_a_new_file_and_its_directories(image: Image) -> None:
    """Missing directories are made 0755 whatever the umask is; the file has the mode that is stated."""
    before = os.umask(0o077)
    try:
        put(image)
    finally:
        os.umask(before)
    assert image.read(TARGET) == "new\n"
    assert image.path(TARGET).stat().st_mode & 0o777 == 0o640
    assert image.path("/etc/app").stat().st_mode & 0o777 == 0o755


def test_an_open_file_keeps_the_old_content(image: Image) -> None:
    """Promise 1: who has the old file open goes on reading the whole old file."""
    image.write(TARGET, "old\n" * 1000)
    with open(image.path(TARGET)) as reader:
        reader.read(5)
        put(image)
        assert reader.read() == ("old\n" * 1000)[5:]
    assert image.read(TARGET) == "new\n"


def test_a_symlink_in_the_target_s_place_is_replaced(image: Image) -> None:
    """A symlinked target is not written through: the link is replaced by the file, and what it pointed at is untouched."""
    elsewhere = image.write("/srv/elsewhere", "theirs\n")
    link = image.path(TARGET)
    link.parent.mkdir(parents=True)
    link.symlink_to("../../srv/elsewhere")
    put(image)
    assert not link.is_symlink()
    assert image.read(TARGET) == "new\n"
    assert elsewhere.read_text() == "theirs\n"


def test_a_symlink_comes_back(image: Image) -> None:
    """Putting back restores a symlink as the symlink it was, dangling or not."""
    link = image.path(TARGET)
    link.parent.mkdir(parents=True)
    link.symlink_to("nowhere")
    paths = Paths(image.root)
    assert safe_files.read_target(paths, TARGET) is None
    renames = staging.stage(paths, [change(image, b"new\n")])
    staging.commit(paths, renames)
    assert image.read(TARGET) == "new\n"
    staging.restore_targets(paths, renames)
    assert os.readlink(link) == "nowhere"
    assert image.leftovers() == []


def test_a_created_target_goes_again(image: Image) -> None:
    """Putting back removes what was not there before."""
    paths = Paths(image.root)
    renames = staging.stage(paths, [change(image, b"new\n")])
    staging.commit(paths, renames)
    assert staging.restore_targets(paths, renames) == [TARGET]
    assert not image.path(TARGET).exists()


def test_links_on_the_way_stay_below_the_root(image: Image) -> None:
    """INTERFACE 2: with --root every path is below DIR: an absolute link and one full of .. lead no write out of it."""
    outside = image.root.parent / "outside"
    outside.mkdir()
    image.path("/etc").mkdir()
    image.path("/etc/app").symlink_to("/../../../../srv/app")
    image.path("/srv/app").mkdir(parents=True)
    put(image)
    assert image.read("/srv/app/app.conf") == "new\n"
    image.path("/etc/up").symlink_to(f"../../../../../../..{outside}")
    paths = Paths(image.root)
    renames = staging.stage(paths, [change(image, b"x", "/etc/up/file")])
    staging.commit(paths, renames)
    assert list(outside.iterdir()) == []
    assert (image.root / str(outside).lstrip("/") / "file").read_bytes() == b"x"


@ROOT
def test_a_directory_link_of_somebody_else_is_not_followed(image: Image) -> None:
    """A directory on the way that is a symlink of another user is refused, and what it points at is untouched."""
    image.write("/home/eve/app.conf", "theirs\n")
    image.path("/etc").mkdir()
    image.path("/etc/app").symlink_to("../home/eve")
    os.chown(image.path("/etc/app"), 12345, 12345, follow_symlinks=False)
    before = everything(image.root)
    refused(image, "a symlink that belongs to uid 12345")
    assert everything(image.root) == before
    with pytest.raises(ApplyError):
        safe_files.read_target(Paths(image.root), TARGET)


def test_links_in_a_circle(image: Image) -> None:
    """A loop of links ends with a message."""
    image.path("/etc").mkdir()
    image.path("/etc/app").symlink_to("other")
    image.path("/etc/other").symlink_to("app")
    refused(image, "too many symlinks")


def test_a_file_on_the_way(image: Image) -> None:
    """A file where a directory must be is named, and left."""
    image.write("/etc/app", "a file\n")
    refused(image, "app on its path is not a directory")
    assert image.read("/etc/app") == "a file\n"


@pytest.mark.parametrize("kind", ["directory", "fifo", "socket"])
def test_no_file_in_the_target_s_place(image: Image, kind: str) -> None:
    """A directory, FIFO or socket in the target's place is neither read (which could hang) nor replaced."""
    real = image.path(TARGET)
    real.parent.mkdir(parents=True)
    if kind == "directory":
        real.mkdir()
        (real / "kept").write_text("x")
    elif kind == "fifo":
        os.mkfifo(real)
    else:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(real)) if len(str(real)) < 100 else pytest.skip("the path is too long for a socket")
    with pytest.raises(ApplyError):
        safe_files.read_target(Paths(image.root), TARGET)
    if kind == "directory":
        assert "move it away" in str(refused(image, "could not be staged: Is a directory").hint)
        assert (real / "kept").read_text() == "x"


def test_a_planted_candidate_is_not_written_through(image: Image) -> None:
    """A file or link that somebody put in the candidate's place is replaced, never followed."""
    victim = image.write("/srv/victim", "theirs\n")
    image.path("/etc/app").mkdir(parents=True)
    image.path("/etc/app/.app.conf.parbake-new").symlink_to(victim)
    image.path("/etc/app/.app.conf.parbake-old").symlink_to(victim)
    put(image)
    assert victim.read_text() == "theirs\n"
    assert image.read(TARGET) == "new\n"
    assert image.leftovers() == []


def test_a_very_long_name(image: Image) -> None:
    """A name so long that its candidate's would not fit says so, and replaces nothing."""
    refused(image, "could not be staged", target=f"/etc/{'x' * 250}")


@ROOT
def test_the_owner_is_set_before_the_name(image: Image) -> None:
    """A file is never there under its name with another owner or mode than it ends with."""
    paths = Paths(image.root)
    stated = Change("app", TARGET, ChangeKind.CREATE, "", 0o4750, 12, 34, False, b"x")
    staging.stage(paths, [stated])
    found = image.path("/etc/app/.app.conf.parbake-new").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (12, 34, 0o4750)
    staging.discard(paths, [TARGET])


@pytest.fixture
def mounted(image: Image) -> Iterator[list[Path]]:
    """Mounts that a test makes; unmounted at its end."""
    made: list[Path] = []
    yield made
    for path in reversed(made):
        subprocess.run(["umount", "-l", str(path)], check=True)


def mount(made: list[Path], *words: str | Path) -> None:
    ran = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True, check=False)
    if ran.returncode:
        pytest.skip(f"this machine does not allow mounts: {ran.stderr.strip()}")
    made.append(Path(words[-1]))


@ROOT
def test_a_full_disk(image: Image, mounted: list[Path]) -> None:
    """A disk that is full: nothing is replaced, nothing is left, and the message says what to do."""
    image.path("/etc/app").mkdir(parents=True)
    mount(mounted, "-t", "tmpfs", "-o", "size=64k", "tmpfs", image.path("/etc/app"))
    image.write(TARGET, "old\n")
    with pytest.raises(ApplyError, match="could not be staged: No space left") as failed:
        put(image, b"x" * 200_000)
    assert "free space" in str(failed.value.hint)
    assert image.read(TARGET) == "old\n"
    assert os.listdir(image.path("/etc/app")) == ["app.conf"]


@ROOT
def test_a_read_only_filesystem(image: Image, mounted: list[Path]) -> None:
    """A read-only filesystem is said to be one."""
    image.write(TARGET, "old\n")
    mount(mounted, "--bind", image.path("/etc/app"), image.path("/etc/app"))
    mount(mounted, "-o", "remount,ro,bind", image.path("/etc/app"))
    mounted.pop()
    error = refused(image, "Read-only file system")
    assert "read-only" in str(error.hint)
    assert image.read(TARGET) == "old\n"


@ROOT
def test_a_target_that_is_a_mount(image: Image, mounted: list[Path]) -> None:
    """A file that is bind-mounted over the target cannot be replaced: it is refused, whole, and nothing is left."""
    image.write(TARGET, "old\n")
    image.write("/srv/over", "mounted\n")
    mount(mounted, "--bind", image.path("/srv/over"), image.path(TARGET))
    error = refused(image, "could not be replaced")
    assert "mount point" in str(error.hint)
    assert image.read(TARGET) == "mounted\n"


@ROOT
def test_a_mount_holds_up_its_group_alone(image: Image, mounted: list[Path]) -> None:
    """INTERFACE 8.2: what cannot be replaced is found before anything is, so that the other groups go on."""
    image.settings(
        '[[template]]\nsource = "a.j2"\ntarget = "/etc/app/a"\n'
        '[[template]]\nsource = "a.j2"\ntarget = "/srv/with space"\ngroup_name = "other"\n'
    )
    image.template("a.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\n')
    image.write("/srv/with space", "old\n")
    image.write("/srv/over", "mounted\n")
    mount(mounted, "--bind", image.path("/srv/over"), image.path("/srv/with space"))
    for _ in range(2):
        assert code_of(world_of(image)) == 74
        assert image.read("/etc/app/a") == "one\n"
        assert image.read("/srv/with space") == "mounted\n"
    assert image.leftovers() == []


@ROOT
def test_an_immutable_target(image: Image) -> None:
    """An immutable file is refused, whole, and nothing is left."""
    real = image.write(TARGET, "old\n")
    if subprocess.run(["chattr", "+i", str(real)], capture_output=True, check=False).returncode:
        pytest.skip("this filesystem has no immutable files")
    try:
        error = refused(image, "could not be replaced: Operation not permitted")
        assert "immutable" in str(error.hint)
        assert image.read(TARGET) == "old\n"
    finally:
        subprocess.run(["chattr", "-i", str(real)], check=True)


@ROOT
def test_the_acl_of_the_old_file_is_kept(image: Image) -> None:
    """SELinux label and ACL of the old file are kept."""
    real = image.write(TARGET, "old\n")
    # version 2; user::rw-, user:12:r--, group::r--, mask::r--, other::---
    entries = [(1, 6, 0xFFFFFFFF), (2, 4, 12), (4, 4, 0xFFFFFFFF), (16, 4, 0xFFFFFFFF), (32, 0, 0xFFFFFFFF)]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + permission.to_bytes(2, "little") + identity.to_bytes(4, "little")
        for tag, permission, identity in entries
    )
    try:
        os.setxattr(real, "system.posix_acl_access", acl)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            pytest.skip("this filesystem has no ACLs")
        raise
    put(image)
    assert b"\x02\x00\x04\x00\x0c\x00\x00\x00" in os.getxattr(real, "system.posix_acl_access")


def test_missing_users_and_groups(image: Image) -> None:
    """A user that the instance does not have is an error that names it; --root asks the root's own passwd first."""
    paths = Paths(image.root)
    with pytest.raises(ApplyError, match='no user "nobody-here"'):
        safe_files.owner_id(paths, "nobody-here")
    with pytest.raises(ApplyError, match='no group "nobody-here"'):
        safe_files.group_id(paths, "nobody-here")
    image.write("/etc/passwd", "app:x:4242:4243::/:/bin/sh\n")
    image.write("/etc/group", "app:x:4343:\n")
    assert safe_files.owner_id(paths, "app") == 4242
    assert safe_files.group_id(paths, "app") == 4343
    assert safe_files.owner_id(paths, "1234") == 1234


def test_two_targets_and_the_second_fails(image: Image) -> None:
    """Promise 2: when the second of a group cannot be replaced, the first is put back."""
    paths = Paths(image.root)
    image.write("/etc/one", "old\n")
    image.write("/etc/two", "old\n")
    changes = [change(image, b"new\n", "/etc/one"), change(image, b"new\n", "/etc/two")]
    renames = staging.stage(paths, changes)
    image.path("/etc/two").unlink()
    image.path("/etc/two").mkdir()
    with pytest.raises(ApplyError):
        staging.commit(paths, renames)
    image.path("/etc/two").rmdir()
    staging.restore_targets(paths, renames)
    assert image.read("/etc/one") == "old\n"
    assert image.leftovers() == []


def test_write_atomic_leaves_nothing_behind(tmp_path: Path) -> None:
    """State and status are whole or not there, and a failed write leaves no half file."""
    path = tmp_path / "record"
    safe_files.write_atomic(path, b"one", 0o600)
    path.with_name(".record.new").write_text("half of an earlier run")
    safe_files.write_atomic(path, b"two", 0o644)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o644)
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError):
        safe_files.write_atomic(tmp_path / "taken", b"x", 0o600)
    assert sorted(os.listdir(tmp_path)) == ["record", "taken"]
