"""The daemon, and a platform that terminates the instance or calls the termination off."""

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
"""EC2 is polled every ten seconds."""


@contextmanager
def daemon(image: Image) -> Iterator[subprocess.Popen[str]]:
    process = image.start("run")
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def eventually(check: Callable[[], bool], description: str) -> None:
    def is_true() -> bool:
        try:
            return check()
        except (OSError, ValueError):
            return False

    wait_until(is_true, SECONDS, description)


@pytest.fixture
def ready(image: Image) -> Callable[[Metadata, str], Image]:
    def bake(service: Metadata, splay: str) -> Image:
        text = SETTINGS.format(platform=service.platform, url=service.url, splay=splay)
        image.write("/etc/parbake/parbake.toml", text)
        image.template("a.j2", "{{ facts.terminating | default('serving') }}\n")
        return image

    return bake


def test_a_notice_is_config_until_it_is_called_off(ready: Callable[[Metadata, str], Image]) -> None:
    """A spot notice is a fact in status.json and causes a convergence. Called off, it is undone."""
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
    """The fact is published at once, so that the shipper hurries, and the convergence waits for the splay."""
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
    """On Azure only the watcher gets events: after SIGHUP the fact stays, although the new watcher gets no answer yet."""
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
