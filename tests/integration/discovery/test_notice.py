"""The daemon and a platform that takes the instance away, or changes its mind."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.conftest import Image
from tests.servers.metadata import Metadata
from tests.servers.processes import wait_until

SETTINGS = """\
[component]
name = "web"

[discovery]
providers = ["imds"]
imds = "ec2"
imds_url = "{url}"

[watch]
splay = "{splay}"

[[template]]
source = "a.j2"
target = "/etc/a"
"""
SECONDS = 60.0
"""EC2 is looked at every ten."""


@contextmanager
def daemon(image: Image) -> Iterator[subprocess.Popen[str]]:
    process = image.start("run")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def eventually(what: Callable[[], bool], how: str) -> None:
    def tried() -> bool:
        try:
            return what()
        except (OSError, ValueError):
            return False

    wait_until(tried, SECONDS, how)


@pytest.fixture
def ready(image: Image) -> Callable[[str, str], Image]:
    def bake(url: str, splay: str) -> Image:
        image.write("/etc/parbake/parbake.toml", SETTINGS.format(url=url, splay=splay))
        image.template("a.j2", "{{ facts.terminating | default('serving') }}\n")
        return image

    return bake


def test_a_notice_is_config_until_it_is_called_off(ready: Callable[[str, str], Image]) -> None:
    """A spot notice is a fact in status.json and a convergence; called off, both are as before."""
    with Metadata("ec2") as service:
        image = ready(service.url, "0s")
        with daemon(image):
            eventually(lambda: image.read("/etc/a") == "serving\n", "the first convergence")
            service.options["spot"] = "terminate"
            eventually(lambda: image.status()["facts"].get("terminating") == "spot", "the fact")
            eventually(lambda: image.read("/etc/a") == "spot\n", "the convergence")
            service.options["spot"] = None
            eventually(lambda: "terminating" not in image.status()["facts"], "the fact to go")
            eventually(lambda: image.read("/etc/a") == "serving\n", "the second convergence")
    assert service.violations == []


def test_a_notice_does_not_wait_for_the_splay(ready: Callable[[str, str], Image]) -> None:
    """The fact is published at once, for the shipper to hurry, though the convergence takes its turn in the swarm."""
    with Metadata("ec2") as service:
        image = ready(service.url, "10h")
        with daemon(image):
            eventually(lambda: image.read("/etc/a") == "serving\n", "the first convergence")
            service.options["spot"] = "terminate"
            eventually(lambda: image.status()["facts"].get("terminating") == "spot", "the fact")
            time.sleep(1)
            assert image.read("/etc/a") == "serving\n"
            assert image.status()["generation"] == 1
