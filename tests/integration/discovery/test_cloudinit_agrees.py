"""Real cloud-init, Debian 12's and 13's, crawls the same emulator: what it says and what we say are the same facts."""

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
# cloud-init tells EC2 by a serial that repeats the UUID.
SERIALS = {"ec2": {"product_serial": FIRMWARE["ec2"]["product_uuid"]}}
# What cloud-init does not crawl, or does not keep.
ONLY_OURS: dict[str, set[str]] = {
    "digitalocean": {"tags"},
    "gce": {"account_id", "image_id", "instance_type", "private_ipv4", "public_ipv4", "ipv6", "tags"},
    "hetzner": {"private_ipv4", "public_ipv4", "zone", "region"},
    "oracle": {"private_ipv4", "ipv6"},
    "upcloud": {"tags"},
}


@cache
def cloud_init(suite: str) -> Path:
    """The modules of that Debian's cloud-init, unpacked and not installed: it would act at the next boot."""

    def unpack(directory: Path) -> None:
        package = download("cloud-init", suite, directory)
        call(["dpkg", "-x", str(package), str(directory / "root")])
        package.unlink()

    return made_once(f"cloud-init-{suite}", unpack) / "root/usr/lib/python3/dist-packages"


def crawl(platform: str, suite: str, root: Path) -> list[str]:
    """cloud-init's crawl into instance-data.json below `root`; returns what the emulator had to complain about."""
    try:
        modules = cloud_init(suite)
    except LabError as error:
        pytest.skip(f"{suite}'s cloud-init cannot be had: {error}")
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
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


needs = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip") or not sys.platform.startswith("linux"),
    reason="a network namespace needs root, unshare and ip",
)


@needs
@pytest.mark.root
@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_our_facts_agree_with_cloud_inits_crawl(platform: str, suite: str, tmp_path: Path) -> None:
    """Through `cloud-init` and through `imds` an instance has the same facts, under the same names."""
    paths = machine(tmp_path, platform)
    assert crawl(platform, suite, tmp_path) == []
    theirs = ask(paths, "cloud-init")
    with Metadata(platform, options={"userdata": ""}) as service:
        ours = ask(paths, "imds", imds_url=service.url)
    crawled = dict(theirs.values)
    assert crawled["platform"] == platform, attempts_text(theirs)
    assert crawled == {name: ours.values.get(name) for name in crawled}
    assert set(ours.values) - set(crawled) == ONLY_OURS.get(platform, set())
