"""In every kind of container the firmware is the host's, and is not used."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.discovery.container import is_container
from tests.unit.discovery.machines import write

MACHINE = {
    "/proc/1/environ": b"HOME=/\0TERM=linux\0",
    "/proc/1/cgroup": b"0::/init.scope\n",
    "/proc/sys/kernel/osrelease": b"6.1.0-18-cloud-amd64\n",
}
KINDS: dict[str, tuple[str, bytes]] = {
    "systemd-nspawn": ("/run/systemd/container", b"systemd-nspawn\n"),
    "docker": ("/.dockerenv", b""),
    "podman": ("/run/.containerenv", b"engine=podman\n"),
    "lxc": ("/proc/1/environ", b"HOME=/\0container=lxc\0"),
    "first variable": ("/proc/1/environ", b"container=oci\0HOME=/\0"),
    "kubernetes": ("/proc/1/environ", b"HOME=/\0KUBERNETES_SERVICE_HOST=10.0.0.1\0"),
    "openvz": ("/proc/vz/veinfo", b""),
    "wsl1": ("/proc/sys/kernel/osrelease", b"4.4.0-19041-Microsoft\n"),
    "wsl2": ("/proc/sys/kernel/osrelease", b"5.15.90.1-microsoft-standard-WSL2\n"),
    "cgroup v1": ("/proc/1/cgroup", b"4:memory:/kubepods/burstable/pod1/abc\n"),
    "containerd": ("/proc/1/cgroup", b"0::/system.slice/containerd.service/kubepods\n"),
    "machined": ("/proc/1/cgroup", b"1:name=systemd:/machine.slice/machine-web.scope\n"),
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine that is not a container, in the process namespace that the kernel booted with."""
    for path, content in MACHINE.items():
        write(tmp_path, path, content)
    processes(tmp_path, "pid:[4026531836]")
    return tmp_path


def processes(root: Path, name: str) -> None:
    link = root / "proc/self/ns/pid"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    os.symlink(name, link)


def test_a_machine_is_no_container(root: Path) -> None:
    """Neither a usual machine nor an OpenVZ host looks like a container, also to a process that may not read all files."""
    assert not is_container(root)
    (root / "proc/vz").mkdir()
    (root / "proc/bc").mkdir()
    assert not is_container(root)
    (root / "proc/self/ns/pid").unlink()
    (root / "proc/1/environ").unlink()
    assert not is_container(root)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_container(kind: str, root: Path) -> None:
    """Each leaves one sign, and one is enough."""
    path, content = KINDS[kind]
    write(root, path, content)
    assert is_container(root)


def test_a_container_of_no_known_kind(root: Path) -> None:
    """A container without any sign still has a separate process namespace."""
    processes(root, "pid:[4026532501]")
    assert is_container(root)


def test_a_guest_of_lxd(root: Path) -> None:
    """The socket of LXD is a sign; a file of its name is not."""
    write(root, "/dev/lxd/sock", "")
    assert not is_container(root)
    (root / "dev/lxd/sock").unlink()
    # a path below the root may be too long for the address of a socket
    before = os.getcwd()
    os.chdir(root / "dev/lxd")
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("sock")
            assert is_container(root)
    finally:
        os.chdir(before)
