"""Run in separate network and mount namespaces: discovery at the addresses and on the disks that platforms have.

`in_namespaces.py ROOT STEP...` with the steps ipv4, ipv6, blackhole, nothing and drive. Prints the facts as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from agent.model import Facts
from agent.paths import Paths
from tests.servers.metadata import Metadata
from tests.unit.discovery.machines import ask, attempts_text, machine


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def address(text: str, *options: str) -> Iterator[None]:
    run("ip", "address", "add", text, "dev", "lo", *options)
    try:
        yield
    finally:
        run("ip", "address", "del", text, "dev", "lo")


def network(name: str, *options: str) -> None:
    """Create an interface with `options` that accepts every packet, and whose other end does not answer."""
    run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}-end")
    run("ip", "link", "set", f"{name}-end", "up")
    run("ip", "link", "set", name, "arp", "off", *options, "up")


def ipv4(root: Path) -> Facts:
    with address("169.254.169.254/32"), Metadata("ec2", host="169.254.169.254", port=80):
        return ask(machine(root, "ec2"), "imds")


def ipv6(root: Path) -> Facts:
    """Discover on an instance with IPv6 alone, without a route to the IPv4 address."""
    with address("fd00:ec2::254/128", "nodad"), Metadata("ec2", host="fd00:ec2::254", port=80):
        return ask(machine(root, "ec2"), "imds")


def blackhole(root: Path) -> Facts:
    """Discover if packets to the first address vanish."""
    network("hole")
    run("ip", "route", "add", "169.254.169.254/32", "dev", "hole")
    with address("fd00:ec2::254/128", "nodad"), Metadata("ec2", host="fd00:ec2::254", port=80):
        return ask(machine(root, "ec2"), "imds", timeout=40.0)


def nothing(root: Path) -> Facts:
    """Count the packets that discovery sends into a network that accepts everything, if no platform matches."""
    network("wide", "addrgenmode", "none")  # the kernel announces no address, and asks for no router
    run("ip", "address", "add", "10.9.9.9/24", "dev", "wide")
    run("ip", "route", "add", "default", "dev", "wide")
    before = sent()
    facts = ask(Paths(Path("/")), "kernel", "credentials", "cloud-init", "file", "host")
    unmatched = ask(machine(root, sys_vendor="QEMU"), "kernel", "cloud-init", "imds", "file", "host")
    return Facts({**facts.values, "packets": str(sent() - before)}, facts.providers, 0.0, unmatched.attempts)


def sent() -> int:
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    return next(int(line.split()[10]) for line in lines if line.strip().startswith("wide:"))


def drive(root: Path) -> Facts:
    """Discover with a config drive as a disk: a filesystem with the label, linked as by udev, and not mounted."""
    files, image = root / "files", root / "drive.img"
    (files / "openstack/latest").mkdir(parents=True)
    (files / "openstack/latest/meta_data.json").write_text('{"uuid": "u-1", "name": "web-1"}')
    run("truncate", "-s", "4M", str(image))
    run("mke2fs", "-q", "-t", "ext4", "-L", "config-2", "-d", str(files), str(image))
    device = run("losetup", "--find", "--show", "--read-only", str(image)).strip()
    try:
        nodes = {path: os.stat(path) for path in (device, "/dev/null", "/dev/urandom")}
        run("mount", "-t", "tmpfs", "tmpfs", "/dev")
        for path, node in nodes.items():
            os.mknod(path, node.st_mode, node.st_rdev)
        Path("/dev/disk/by-label").mkdir(parents=True)
        Path("/dev/disk/by-label/config-2").symlink_to(device)
        facts = ask(Paths(Path("/")), "imds", imds="configdrive")
        left = [line for line in Path("/proc/self/mounts").read_text().splitlines() if line.startswith(device)]
        return Facts({**facts.values, "left": str(len(left))}, facts.providers, 0.0, facts.attempts)
    finally:
        subprocess.run(["umount", "/dev"], check=False, capture_output=True)
        run("losetup", "--detach", device)


STEPS: dict[str, Any] = {"ipv4": ipv4, "ipv6": ipv6, "blackhole": blackhole, "nothing": nothing, "drive": drive}


def main() -> None:
    run("ip", "link", "set", "lo", "up")
    root = Path(sys.argv[1])
    for step in sys.argv[2:]:
        start = time.monotonic()
        facts = STEPS[step](root / step)
        seconds = time.monotonic() - start
        print(json.dumps({"values": dict(facts.values), "seconds": seconds, "attempts": attempts_text(facts)}, default=dict))


if __name__ == "__main__":
    main()
