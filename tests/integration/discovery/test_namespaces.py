"""Discovery in namespaces: at the platforms' real addresses, on a real disk, and without a request if nothing matches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("in_namespaces.py")
TOOLS = ("unshare", "ip", "losetup", "mke2fs", "mount")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(shutil.which(tool) for tool in TOOLS), reason=f"needs root, and {', '.join(TOOLS)}"
    ),
]


def step(name: str, root: Path) -> dict[str, Any]:
    command = ["unshare", "-n", "-m", sys.executable, str(PROGRAM), str(root), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", ["ipv4", "ipv6"])
def test_the_platforms_address_is_the_default(name: str, tmp_path: Path) -> None:
    """Without configuration the platform's address is asked, also on an instance with IPv6 alone."""
    assert step(name, tmp_path)["values"]["instance_id"] == "i-0123456789abcdef0"


def test_an_address_that_does_not_answer_does_not_hide_the_other(tmp_path: Path) -> None:
    """If packets to the first address vanish, the second address is tried after a second, long before the deadline."""
    result = step("blackhole", tmp_path)
    assert result["values"]["instance_id"] == "i-0123456789abcdef0"
    assert 0.9 < result["seconds"] < 15


def test_nothing_is_sent_without_a_match(tmp_path: Path) -> None:
    """If no platform is recognised, no packet leaves the machine, not even to find the machine's address."""
    result = step("nothing", tmp_path)
    assert result["values"]["private_ipv4"] == "10.9.9.9"
    assert result["values"]["packets"] == "0"
    assert "no request made" in result["attempts"]


def test_a_config_drive_is_mounted_read_and_unmounted(tmp_path: Path) -> None:
    """A disk with the label that is not mounted is read, and is not mounted afterwards."""
    values = step("drive", tmp_path)["values"]
    assert values == {"platform": "openstack", "instance_id": "u-1", "hostname": "web-1", "left": "0"}
