"""An image that was captured from a running instance: the state of that instance is not used."""

from __future__ import annotations

import shutil

import pytest

from tests.conftest import Image

SETTINGS = """\
[component]
name = "web"
[discovery]
providers = ["file", "host"]
[[source]]
name = "site"
backend = "file"
path = "/site"
layers = ["common"]
[state]
cache = "plain"
[[template]]
source = "a.j2"
target = "/etc/a"
"""
CHECKPOINT = "/var/lib/parbake/ship/central.journal.json"


@pytest.fixture
def captured(image: Image) -> Image:
    """The disk of the instance i-1, which has converged and shipped. Its store is no longer available."""
    image.write("/etc/parbake/parbake.toml", SETTINGS)
    image.template("a.j2", "{{ config.x }}\n")
    image.site("common", 'x = "one"\n')
    image.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
    be(image, "i-1")
    assert image.run("once").code == 0
    image.write(CHECKPOINT, '{"schema": 1, "position": {"cursor": "s=1"}}')
    shutil.rmtree(image.path("/site"))
    shutil.rmtree(image.path("/run/parbake"))
    return image


def be(image: Image, instance_id: str) -> None:
    """Set the platform's id of this instance, or remove it."""
    image.write("/etc/parbake/facts.d/id.toml", f'instance_id = "{instance_id}"\n' if instance_id else "")


def test_the_same_instance_boots_on_its_last_good_run_config(captured: Image) -> None:
    """A reboot without the store converges on the last good run config, and the checkpoint stays."""
    assert captured.run("once").code == 75
    assert captured.path(CHECKPOINT).exists()


def test_another_instance_reads_nothing_of_the_first(captured: Image) -> None:
    """With another id the earlier run config, history and checkpoints are archived, and are not used."""
    be(captured, "i-2")
    assert captured.run("plan").code == 69, "a plan comes before the earlier instance's run config is set aside"
    ended = captured.run("once")
    assert ended.code == 69
    assert "this is another instance (i-2, was i-1)" in ended.err
    assert not captured.path(CHECKPOINT).exists()
    assert captured.run("history", "--json").json() == []
    (archive,) = captured.path("/var/lib/parbake").glob("earlier-*")
    assert (archive / "ship/central.journal.json").exists()
    assert list(archive.glob("last-good*")) == []


def test_without_an_id_the_machine_id_decides(captured: Image) -> None:
    """Without an instance id, an equal machine id is the same instance, and a different one is another instance."""
    be(captured, "")
    assert captured.run("once").code == 75
    captured.write("/etc/machine-id", "fedcba9876543210fedcba9876543210\n")
    assert captured.run("once").code == 69


def test_a_boot_without_an_id_does_not_forget_the_id(captured: Image) -> None:
    """The platform gives no id at one boot of an instance. An image that is captured after that is still another instance."""
    be(captured, "")
    assert captured.run("once").code == 75
    be(captured, "i-2")
    assert captured.run("once").code == 69
