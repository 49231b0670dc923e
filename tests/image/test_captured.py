"""An image captured from a running instance: another one boots from its disk, and ships nothing of the first one's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.image.conftest import Machines
from tests.image.lab import Image, Machine, Network, prepared_image
from tests.image.lab.images import run_in
from tests.image.lab.network import METADATA_ADDRESS
from tests.image.observing import status
from tests.servers.receiver import Receiver

pytestmark = [
    pytest.mark.image,
    pytest.mark.root,
    pytest.mark.server,
    pytest.mark.parametrize("suite", ["bookworm"], indirect=True),
]

SETTINGS = f"""\
[component]
name = "web"

[[source]]
name = "site"
backend = "file"
path = "/etc/parbake/site"
layers = ["common"]

[[sink]]
name = "central"
type = "http"
url = "http://{METADATA_ADDRESS}:8080/logs"
labels.instance = "{{{{ facts.instance_id }}}}"
"""
# The daemon starts late: a shipper that does not wait for it would read the earlier checkpoint before it is archived.
LATE = "[Service]\nExecStartPre=/bin/sleep 5\n"


@pytest.fixture(scope="session")
def image(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """An image that ships its journal, with a daemon that starts late."""

    def finish(root: Path) -> None:
        files = {
            "etc/parbake/parbake.toml": SETTINGS,
            "etc/parbake/site/common.toml": "x = 1\n",
            "etc/systemd/system/parbake.service.d/late.conf": LATE,
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        run_in(root, ["parbake", "bake"])

    return prepared_image(bare_image, session_scratch, [deb], finish)


@pytest.fixture
def machine(image: Image, machines: Machines, network: Network, receiver: Receiver) -> Machine:
    """A machine that is powered off: i-1 shipped its journal up to the last line, which it did not ship."""
    machine = machines(image, network=network, hostname="web-1")
    machine.seed(instance_id="i-1")
    machine.boot()
    receiver.wait_for(1, 60, SYSLOG_IDENTIFIER="parbake", instance="i-1")
    machine.run(["systemctl", "stop", "parbake-ship.service"])
    machine.run(["logger", "-t", "probe", "left behind"])
    machine.poweroff()
    return machine


def test_the_same_instance_ships_the_lines_it_had_not_shipped(machine: Machine, receiver: Receiver) -> None:
    """After a reboot the shipper continues from its checkpoint."""
    machine.boot()
    (line,) = receiver.wait_for(1, 60, SYSLOG_IDENTIFIER="probe")
    assert line["instance"] == "i-1"


def test_another_instance_ships_only_its_own_lines(machine: Machine, receiver: Receiver) -> None:
    """With another instance id the checkpoints are archived before the shipper reads one: it ships no line of the first."""
    machine.seed(instance_id="i-2")
    machine.boot()
    assert status(machine)["facts"]["instance_id"] == "i-2"
    machine.run(["logger", "-t", "probe", "of the second"])
    receiver.wait_for(1, 60, MESSAGE="of the second", instance="i-2")
    assert [line["MESSAGE"] for line in receiver.lines() if line.get("SYSLOG_IDENTIFIER") == "probe"] == ["of the second"]
    assert machine.run(["sh", "-c", "ls /var/lib/parbake/earlier-*/ship"]).stdout.split().count("central.journal.json") == 1
