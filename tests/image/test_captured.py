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
# The daemon comes late, so that a shipper that does not wait for it has the earlier checkpoint before it is set aside.
LATE = "[Service]\nExecStartPre=/bin/sleep 5\n"


@pytest.fixture(scope="session")
def image(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """An image that ships its journal, with a daemon that takes its time."""

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
def disk(image: Image, machines: Machines, network: Network, receiver: Receiver) -> Machine:
    """A machine that is off: i-1 had shipped, and was switched off before it could ship its last line."""
    machine = machines(image, network=network, hostname="web-1")
    machine.seed(instance_id="i-1")
    machine.boot()
    receiver.wait_for(1, 60, SYSLOG_IDENTIFIER="parbake", instance="i-1")
    machine.run(["systemctl", "stop", "parbake-ship.service"])
    machine.run(["logger", "-t", "probe", "left behind"])
    machine.poweroff()
    return machine


def test_the_same_instance_ships_what_it_had_left_behind(disk: Machine, receiver: Receiver) -> None:
    """After a reboot the checkpoint goes on where it was."""
    disk.boot()
    (line,) = receiver.wait_for(1, 60, SYSLOG_IDENTIFIER="probe")
    assert line["instance"] == "i-1"


def test_another_instance_ships_its_own_lines_alone(disk: Machine, receiver: Receiver) -> None:
    """With another id the checkpoints are set aside before the shipper reads one: what the first left is not sent as ours."""
    disk.seed(instance_id="i-2")
    disk.boot()
    assert status(disk)["facts"]["instance_id"] == "i-2"
    disk.run(["logger", "-t", "probe", "of the second"])
    receiver.wait_for(1, 60, MESSAGE="of the second", instance="i-2")
    assert [line["MESSAGE"] for line in receiver.lines() if line.get("SYSLOG_IDENTIFIER") == "probe"] == ["of the second"]
    assert disk.run(["sh", "-c", "ls /var/lib/parbake/earlier-*/ship"]).stdout.split().count("central.journal.json") == 1
