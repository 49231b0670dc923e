"""Real cloud-init, Debian 12's and 13's, crawls the same emulator: cloud-init and parbake find the same facts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.image.lab.apt import download
from tests.image.lab.cache import made_once
from tests.image.lab.commands import LabError, call
from tests.servers.metadata import Metadata
from tests.unit.discovery.machines import FIRMWARE, ask, attempts_text, machine

CRAWL = Path(__file__).with_name("crawl.py")
DEBIAN_PYTHON = "/usr/bin/python3"
PLATFORMS = ("digitalocean", "ec2", "exoscale", "gce", "hetzner", "openstack", "oracle", "upcloud")
# cloud-init recognises EC2 by a serial that repeats the UUID.
SERIALS = {"ec2": {"product_serial": FIRMWARE["ec2"]["product_uuid"]}}
# The facts that cloud-init does not crawl, or does not keep.
NOT_IN_CLOUD_INIT: dict[str, set[str]] = {
    "digitalocean": {"tags"},
    "gce": {"account_id", "image_id", "instance_type", "private_ipv4", "public_ipv4", "ipv6", "tags"},
    "hetzner": {"private_ipv4", "public_ipv4", "zone", "region"},
    "oracle": {"private_ipv4", "ipv6"},
    "upcloud": {"tags"},
}


@cache
def cloud_init(suite: str) -> Path:
    """Unpack the modules of that Debian's cloud-init. Installed, it would act at the next boot."""

    def unpack(directory: Path) -> None:
        package = download("cloud-init", suite, directory)
        call(["dpkg", "-x", str(package), str(directory / "root")])
        package.unlink()

    return made_once(f"cloud-init-{suite}", unpack) / "root/usr/lib/python3/dist-packages"


def crawl(platform: str, suite: str, root: Path) -> list[str]:
    """Let cloud-init crawl into instance-data.json below `root`. Returns the emulator's violations."""
    try:
        modules = cloud_init(suite)
    except LabError as error:
        pytest.skip(f"{suite}'s cloud-init is unavailable: {error}")
    for directory in ("run/cloud-init", "var/lib/cloud"):
        (root / directory).mkdir(parents=True)
    strings = json.dumps({**FIRMWARE[platform], **SERIALS.get(platform, {})})
    done = subprocess.run(
        ["unshare", "-n", DEBIAN_PYTHON, str(CRAWL), platform, str(root), strings],
        env={"PYTHONPATH": str(modules), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    violations: list[str] = json.loads(done.stdout.splitlines()[-1])
    return violations


needs = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip") or not sys.platform.startswith("linux"),
    reason="a network namespace needs root, unshare and ip",
)


@needs
@pytest.mark.root
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_facts_agree_with_cloud_inits_crawl(platform: str, suite: str, tmp_path: Path) -> None:
    """Through `cloud-init` and through `imds` an instance has the same facts, under the same names."""
    paths = machine(tmp_path, platform)
    assert crawl(platform, suite, tmp_path) == []
    from_cloud_init = ask(paths, "cloud-init")
    with Metadata(platform, options={"userdata": ""}) as service:
        from_service = ask(paths, "imds", imds_url=service.url)
    crawled = dict(from_cloud_init.values)
    assert crawled["platform"] == platform, attempts_text(from_cloud_init)
    assert crawled == {name: from_service.values.get(name) for name in crawled}
    assert set(from_service.values) - set(crawled) == NOT_IN_CLOUD_INIT.get(platform, set())
