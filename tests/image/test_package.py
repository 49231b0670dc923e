"""The package installs, upgrades and purges cleanly on each tested Debian, and its files are correct."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.lab import Image, LabError
from tests.image.lab.commands import call
from tests.image.lab.images import run_in
from tests.image.lab.overlay import Overlay
from tests.image.package import TREE, built_package, next_version

pytestmark = [pytest.mark.image, pytest.mark.root]

# dpkg's own records, and the locked user, which Debian's policy keeps.
KEPT = (
    "etc/.pwd.lock", "etc/passwd", "etc/group", "etc/shadow", "etc/gshadow",
    "var/lib/dpkg/", "var/log/dpkg.log", "var/cache/ldconfig/",
)  # fmt: skip
UNITS = ("parbake.service", "parbake-ship.service", "parbake-lift.service")


@pytest.fixture(scope="session")
def newer_deb(session_scratch: Path) -> Path:
    """A later version of the package with one module more and one less, built outside a git work tree."""
    tree = session_scratch / "newer-tree"
    tree.mkdir()
    return built_package(session_scratch / "newer", next_version(tree, "99.1"))


@pytest.fixture
def disk(bare_image: Image, scratch: Path, deb: Path, newer_deb: Path) -> Iterator[Overlay]:
    """A file system of Debian with both packages in /root. Neither is installed."""
    with Overlay(bare_image.layers, scratch) as overlay:
        for name, package in (("old.deb", deb), ("new.deb", newer_deb)):
            (overlay.root / "root" / name).write_bytes(package.read_bytes())
        yield overlay


def left_behind(disk: Overlay, lower: tuple[Path, ...]) -> list[str]:
    """Return the paths that differ from the image, except those that dpkg and the test keep."""
    paths = []
    for directory, _, names in os.walk(disk.changes):
        for path in [Path(directory), *(Path(directory, name) for name in names)]:
            shown = str(path.relative_to(disk.changes))
            if shown == "." or shown.startswith((*KEPT, "root/")) or shown in ("root", "var/lib/dpkg"):
                continue
            below = next((each / shown for each in lower if os.path.lexists(each / shown)), None)
            if below is not None and below.is_dir() and path.is_dir() and path.stat().st_mode == below.stat().st_mode:
                continue
            whiteout = stat.S_ISCHR(path.lstat().st_mode) and path.lstat().st_rdev == 0
            if not (whiteout and below is None):
                paths.append(f"{shown}{' (removed)' if whiteout else ''}")
    return sorted(paths)


def bytecode(root: Path) -> dict[str, set[str]]:
    """Return the names of the bytecode files by directory of the program."""
    agent = root / "usr/lib/parbake/agent"
    names: dict[str, set[str]] = {}
    for path in agent.rglob("*.pyc"):
        names.setdefault(str(path.parent.parent.relative_to(agent)), set()).add(path.name)
    return names


def expected_bytecode(root: Path, tags: set[str]) -> dict[str, set[str]]:
    agent = root / "usr/lib/parbake/agent"
    names: dict[str, set[str]] = {}
    for path in agent.rglob("*.py"):
        names.setdefault(str(path.parent.relative_to(agent)), set()).update(f"{path.stem}.{tag}.pyc" for tag in tags)
    return names


def tag_of(root: Path) -> str:
    return run_in(root, ["python3", "-Ic", "import sys; print(sys.implementation.cache_tag)"]).strip()


def test_a_package_that_is_purged_leaves_nothing(disk: Overlay, bare_image: Image) -> None:
    """After install, use and purge the disk is as before, except for dpkg's records and the locked user."""
    run_in(disk.root, ["dpkg", "-i", "/root/old.deb"])
    assert "parbake" in run_in(disk.root, ["parbake", "--version"])
    assert (disk.root / "etc/systemd/system/multi-user.target.wants/parbake.service").is_symlink()
    assert stat.S_IMODE((disk.root / "var/lib/parbake").stat().st_mode) == 0o700
    run_in(disk.root, ["python3", "-c", "import cc_parbake"])
    run_in(disk.root, ["/usr/lib/parbake/cloud-init/enable-module"])
    run_in(disk.root, ["install", "-d", "/var/lib/cloud/handlers"])
    run_in(disk.root, ["ln", "-s", "/usr/lib/parbake/cloud-init/parbake_part.py", "/var/lib/cloud/handlers/"])
    (disk.root / "var/lib/parbake/last-good").write_text("x")
    (disk.root / "usr/lib/parbake/manifest.json").write_text("{}")
    (disk.root / "usr/lib/parbake/compiled").mkdir()
    drop_in = disk.root / "etc/systemd/system/haproxy.service.d/50-parbake.conf"
    drop_in.parent.mkdir()
    drop_in.write_text("# Made by `parbake bake`; do not edit\n[Unit]\nRequires=parbake.service\n")
    run_in(disk.root, ["dpkg", "--purge", "parbake"])
    run_in(disk.root, ["rmdir", "/var/lib/cloud/handlers", "/var/lib/cloud"])
    assert left_behind(disk, bare_image.layers) == []
    assert run_in(disk.root, ["passwd", "--status", "parbake-ship"]).split()[1] == "L"


def test_a_removed_package_keeps_no_application_down(disk: Overlay) -> None:
    """Removal deletes the drop-ins that require parbake.service, and keeps those that an administrator wrote."""
    run_in(disk.root, ["dpkg", "-i", "/root/old.deb"])
    system = disk.root / "etc/systemd/system"
    for unit, text in (("a.service", "# Made by `parbake bake`; do not edit\n"), ("b.service", "# mine\n")):
        (system / f"{unit}.d").mkdir()
        (system / f"{unit}.d/50-parbake.conf").write_text(text)
    run_in(disk.root, ["dpkg", "--remove", "parbake"])
    assert not (system / "a.service.d").exists()
    assert (system / "b.service.d/50-parbake.conf").read_text() == "# mine\n"


def test_the_program_has_its_own_bytecode(disk: Overlay) -> None:
    """Each module has bytecode with unchecked hashes for this Debian's Python. After an upgrade it is that of the new
    modules, and no bytecode of old modules or of another Python is left."""
    built = "cpython-311"
    run_in(disk.root, ["dpkg", "-i", "/root/old.deb"])
    tags = {built, tag_of(disk.root)}
    assert bytecode(disk.root) == expected_bytecode(disk.root, tags)
    stale = disk.root / "usr/lib/parbake/agent/__pycache__/model.cpython-399.pyc"
    stale.write_bytes(b"of a Python that was upgraded away")
    run_in(disk.root, ["dpkg", "-i", "/root/new.deb"])
    assert bytecode(disk.root) == expected_bytecode(disk.root, tags)
    assert "99.1" in run_in(disk.root, ["parbake", "--version"])
    assert not (disk.root / "usr/lib/parbake/agent/__main__.py").exists()
    for path in (disk.root / "usr/lib/parbake/agent").rglob("*.pyc"):
        assert int.from_bytes(path.read_bytes()[4:8], "little") == 0b01, f"{path} is not an unchecked hash"


def test_a_new_python_gets_bytecode_when_debian_changes_its_version(disk: Overlay) -> None:
    """Debian's python3 calls the hook with the new interpreter, and the hook compiles for it."""
    run_in(disk.root, ["dpkg", "-i", "/root/old.deb"])
    tags = {"cpython-311", tag_of(disk.root)}
    interpreter = tag_of(disk.root).replace("cpython-3", "python3.")
    for path in (disk.root / "usr/lib/parbake/agent").rglob("*.pyc"):
        if "cpython-311" not in path.name:
            path.unlink()
    run_in(disk.root, ["/usr/share/python3/runtime.d/parbake.rtupdate", "rtupdate", "python3.1", interpreter])
    assert bytecode(disk.root) == expected_bytecode(disk.root, tags)


def test_systemd_finds_no_fault_with_the_units(disk: Overlay) -> None:
    """systemd-analyze verify reports nothing about the units, on either version of systemd."""
    run_in(disk.root, ["dpkg", "-i", "/root/old.deb"])
    command = "systemd-analyze verify --man=no --recursive-errors=no " + " ".join(UNITS) + " 2>&1"
    assert run_in(disk.root, ["sh", "-c", command]) == ""


def test_lintian_finds_no_error(deb: Path) -> None:
    """lintian reports neither an error nor a warning."""
    call(["lintian", "--allow-root", "--fail-on", "error,warning", str(deb)], timeout_seconds=120)


def test_the_package_has_every_page_of_the_documentation(deb: Path) -> None:
    """The pages refer to each other, so that one that is missing would leave a reader of the image stuck."""
    packed = call(["dpkg-deb", "--contents", str(deb)], timeout_seconds=60).stdout
    for page in (TREE / "docs").rglob("*.md"):
        assert f"/usr/share/doc/parbake/{page.relative_to(TREE / 'docs')}" in packed


def test_the_package_is_the_same_when_built_again(newer_deb: Path, session_scratch: Path, scratch: Path) -> None:
    """Two builds of one tree in different places are the same file, byte for byte."""
    shutil.copytree(session_scratch / "newer-tree", scratch / "tree")
    assert built_package(scratch / "out", scratch / "tree").read_bytes() == newer_deb.read_bytes()


def test_a_version_that_the_changelog_does_not_have_is_not_built(scratch: Path) -> None:
    """If the versions of the program and of the changelog differ, the build fails and names both."""
    tree = scratch / "tree"
    tree.mkdir()
    next_version(tree, "99.2")
    (tree / "agent/__init__.py").write_text('"""Drifted."""\n\n__version__ = "99.3"\n')
    with pytest.raises(LabError, match=r"99\.3.*99\.2"):
        built_package(scratch / "out", tree)
