"""The daemon and a platform that takes the instance away, or changes its mind."""

from __future__ import annotations

import signal
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
imds = "{platform}"
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
def ready(image: Image) -> Callable[[Metadata, str], Image]:
    def bake(service: Metadata, splay: str) -> Image:
        text = SETTINGS.format(platform=service.platform, url=service.url, splay=splay)
        image.write("/etc/parbake/parbake.toml", text)
        image.template("a.j2", "{{ facts.terminating | default('serving') }}\n")
        return image

    return bake


def test_a_notice_is_config_until_it_is_called_off(ready: Callable[[Metadata, str], Image]) -> None:
    """A spot notice is a fact in status.json and a convergence; called off, both are as before."""
    with Metadata("ec2") as service:
        image = ready(service, "0s")
        with daemon(image):
            eventually(lambda: image.read("/etc/a") == "serving\n", "the first convergence")
            service.options["spot"] = "terminate"
            eventually(lambda: image.status()["facts"].get("terminating") == "spot", "the fact")
            eventually(lambda: image.read("/etc/a") == "spot\n", "the convergence")
            service.options["spot"] = None
            eventually(lambda: "terminating" not in image.status()["facts"], "the fact to go")
            eventually(lambda: image.read("/etc/a") == "serving\n", "the second convergence")
    assert service.violations == []


def test_a_notice_does_not_wait_for_the_splay(ready: Callable[[Metadata, str], Image]) -> None:
    """The fact is published at once, for the shipper to hurry, though the convergence takes its turn in the swarm."""
    with Metadata("ec2") as service:
        image = ready(service, "10h")
        with daemon(image):
            eventually(lambda: image.read("/etc/a") == "serving\n", "the first convergence")
            service.options["spot"] = "terminate"
            eventually(lambda: image.status()["facts"].get("terminating") == "spot", "the fact")
            time.sleep(1)
            assert image.read("/etc/a") == "serving\n"
            assert image.status()["generation"] == 1


def test_a_notice_outlives_a_reload_of_the_settings(ready: Callable[[Metadata, str], Image]) -> None:
    """Azure tells its events to the watcher alone: after SIGHUP the fact stays, though the new watcher gets no answer yet."""
    with Metadata("azure", options={"events": "Preempt"}) as service:
        image = ready(service, "0s")
        with daemon(image) as process:
            eventually(lambda: image.read("/etc/a") == "spot\n", "the notice")
            service.on, service.fault = "/scheduledevents", "500"
            image.write("/etc/parbake/conf.d/more.toml", '[facts]\nenvironment = "prod"\n')
            process.send_signal(signal.SIGHUP)
            eventually(lambda: image.status()["facts"].get("environment") == "prod", "the new settings")
            assert image.status()["facts"]["terminating"] == "spot"
            assert image.read("/etc/a") == "spot\n"
