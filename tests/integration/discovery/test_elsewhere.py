"""Discovery in namespaces: at the platforms' own addresses, on a real disk, and silent where nothing matches."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ELSEWHERE = Path(__file__).with_name("elsewhere.py")
TOOLS = ("unshare", "ip", "losetup", "mke2fs", "mount")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(shutil.which(tool) for tool in TOOLS), reason=f"needs root, and {', '.join(TOOLS)}"
    ),
]


def step(name: str, root: Path) -> dict[str, Any]:
    command = ["unshare", "-n", "-m", sys.executable, str(ELSEWHERE), str(root), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", ["ipv4", "ipv6"])
def test_the_address_is_the_platforms_own(name: str, tmp_path: Path) -> None:
    """With nothing configured the platform's address is asked, and an instance with IPv6 alone is served too."""
    assert step(name, tmp_path)["values"]["instance_id"] == "i-0123456789abcdef0"


def test_an_address_that_swallows_everything_does_not_hide_the_other(tmp_path: Path) -> None:
    """Where packets to the first address vanish, the second is tried after a second."""
    found = step("blackhole", tmp_path)
    assert found["values"]["instance_id"] == "i-0123456789abcdef0"
    assert 0.9 < found["seconds"] < 2.5


def test_nothing_is_sent_without_a_match(tmp_path: Path) -> None:
    """With no platform recognised not one packet leaves the machine, not even to find its own address."""
    found = step("nothing", tmp_path)
    assert found["values"]["private_ipv4"] == "10.9.9.9"
    assert found["values"]["packets"] == "0"
    assert "no request made" in found["said"]


def test_a_config_drive_is_mounted_read_and_unmounted(tmp_path: Path) -> None:
    """A disk with the label is read where nobody has mounted it, and nothing stays mounted."""
    values = step("drive", tmp_path)["values"]
    assert values == {"platform": "openstack", "instance_id": "u-1", "hostname": "web-1", "left": "0"}
