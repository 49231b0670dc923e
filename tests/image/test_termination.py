"""A spot instance in a booted image: the notice becomes a fact and config, and the last lines leave before the end."""

from __future__ import annotations

import json
import sys
import time
from base64 import b64encode
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from tests.image.conftest import Machines
from tests.image.lab import Image, Machine, Network, prepared_image
from tests.image.lab.images import run_in
from tests.image.lab.network import METADATA_ADDRESS
from tests.image.observing import state_becomes, status, until
from tests.servers import metadata
from tests.servers.receiver import Receiver

pytestmark = [pytest.mark.image, pytest.mark.root, pytest.mark.server]

CANARY = "kanarienvogel-4Wq8-geheim"
LAST_WORDS = 20
IDLE_SECONDS = 4.0
SETTINGS = f"""\
[component]
name = "worker"
version = "1.2.3"

[discovery]
# A container sees its host's firmware, and cloud-init has only the lab's seed.
providers = ["kernel", "imds"]
imds = "ec2"

[[source]]
name = "site"
backend = "file"
path = "/etc/parbake/site"
layers = ["common"]

[keys."db.password"]
required = true
secret = true

[[template]]
source = "worker.env.j2"
target = "/etc/worker.env"
units = [{{ name = "worker.service", action = "reload" }}]

[[sink]]
name = "central"
type = "http"
url = "http://{METADATA_ADDRESS}:8080/logs"
# Only a notice sends a line during the test.
batch_age = "1h"
labels.instance = "{{{{ facts.instance_id }}}}"
"""
TEMPLATE = 'DB_PASSWORD={{ config.db.password }}\nSTATE={{ facts.terminating | default("serving") }}\n'
# Logs the state at each reload. At its end it logs its last words slowly, then the secret, which must be masked.
WORKER = f"""\
#!/bin/bash
trap '. /etc/worker.env; echo "reloaded: $STATE"' HUP
trap 'for n in $(seq {LAST_WORDS}); do echo "last words $n"; sleep 0.05; done; echo "with $DB_PASSWORD"; exit 0' TERM
. /etc/worker.env
echo "started: $STATE"
while :; do sleep 86400 & wait $!; done
"""
UNIT = """\
[Service]
ExecStart=/usr/local/bin/worker
ExecReload=kill -HUP $MAINPID
KillMode=mixed
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="session")
def spot(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """An image for EC2 with a worker that logs a secret at its end."""

    def finish(root: Path) -> None:
        files = {
            "etc/parbake/parbake.toml": SETTINGS,
            "etc/parbake/templates/worker.env.j2": TEMPLATE,
            "etc/parbake/site/common.toml": f'[db]\npassword = "{CANARY}"\n',
            "usr/local/bin/worker": WORKER,
            "etc/systemd/system/worker.service": UNIT,
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        (root / "usr/local/bin/worker").chmod(0o755)
        run_in(root, ["systemctl", "enable", "worker.service"])
        run_in(root, ["parbake", "bake"])

    return prepared_image(bare_image, session_scratch, [deb], finish)


class Cloud:
    """EC2's metadata service at its own address in a network. Its answers can be changed while it runs."""

    def __init__(self, network: Network, directory: Path) -> None:
        directory.mkdir()
        self._steering = directory / "steering.json"
        argv = [sys.executable, metadata.__file__, "--platform=ec2", f"--bind={METADATA_ADDRESS}:80"]
        child = network.spawn([*argv, f"--steering={self._steering}"], directory / "metadata.log")
        log = directory / "metadata.log"
        child.wait_ready(lambda: "ec2 at" in log.read_text(), 20, "the metadata service")

    def set(self, **options: Any) -> None:
        """Change its answers from now on: `spot="terminate"` is a notice, `spot=None` takes it back."""
        new = self._steering.with_suffix(".new")
        new.write_text(json.dumps(options))
        new.replace(self._steering)


@pytest.fixture
def cloud(network: Network, scratch: Path) -> Cloud:
    return Cloud(network, scratch / "cloud")


@pytest.fixture
def machine(spot: Image, machines: Machines, network: Network, cloud: Cloud, receiver: Receiver) -> Machine:
    """A spot instance that serves, and whose shipper has sent the lines of the boot and collects again."""
    made = machines(spot, network=network, hostname="spot-1")
    made.seed()
    made.boot()
    assert state_becomes(made, "converged")
    receiver.wait_for(1, 90)
    wait_until_idle(receiver)
    return made


def wait_until_idle(receiver: Receiver) -> None:
    """Wait until no line has arrived for IDLE_SECONDS: the boot's backlog may be more than one batch."""
    counts = deque([-1], maxlen=int(IDLE_SECONDS / 0.5))

    def idle() -> bool:
        counts.append(len(receiver.lines()))
        return len(counts) == counts.maxlen and len(set(counts)) == 1

    assert until(idle, 90, pause_seconds=0.5)


def draining(machine: Machine) -> bool:
    """Return whether the shipper sends each line at once, as its status says."""
    report: dict[str, Any] = json.loads(machine.read("/var/lib/parbake/ship/status.json"))
    return bool(report["draining"])


def terminating(machine: Machine) -> str | None:
    fact: str | None = status(machine)["facts"].get("terminating")
    return fact


def test_a_spot_instance_gets_its_last_lines_away(machine: Machine, cloud: Cloud, receiver: Receiver) -> None:
    """A notice is a fact and a convergence within EC2's poll. Every later line leaves within seconds, though the sink
    collects for an hour. A service's last words at the power-off arrive complete, in order, and without the secret."""
    assert status(machine)["facts"]["instance_id"] == "i-0123456789abcdef0"
    machine.run(["logger", "-t", "probe", "before the notice"])
    time.sleep(2)
    assert [line for line in receiver.lines() if line.get("SYSLOG_IDENTIFIER") == "probe"] == []

    cloud.set(spot="terminate")
    assert until(lambda: terminating(machine) == "spot", 60), status(machine)
    assert until(lambda: "STATE=spot" in machine.read("/etc/worker.env"))
    assert until(lambda: status(machine)["generation"] == 2)
    (probe,) = receiver.wait_for(1, 60, SYSLOG_IDENTIFIER="probe")
    assert probe["instance"] == "i-0123456789abcdef0"
    receiver.wait_for(1, 60, MESSAGE="started: serving")
    receiver.wait_for(1, 60, MESSAGE="reloaded: spot")
    for number in range(3):
        machine.run(["logger", "-t", "probe", f"after the notice {number}"])
        receiver.wait_for(1, 60, MESSAGE=f"after the notice {number}")

    machine.poweroff()
    messages = [line["MESSAGE"] for line in receiver.lines() if line.get("SYSLOG_IDENTIFIER") == "worker"]
    assert messages[-LAST_WORDS - 1 : -1] == [f"last words {n}" for n in range(1, LAST_WORDS + 1)], messages
    assert messages[-1] == "with ********"
    assert receiver.refusals() == []
    for form in (CANARY.encode(), b64encode(CANARY.encode())):
        assert form not in receiver.raw()


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_after_a_withdrawn_notice_lines_are_collected_again(machine: Machine, cloud: Cloud, receiver: Receiver) -> None:
    """When the platform withdraws the notice the fact goes, the config is the earlier one, and lines wait for batches again."""
    cloud.set(spot="terminate")
    assert until(lambda: terminating(machine) == "spot", 60), status(machine)
    receiver.wait_for(1, 60, MESSAGE="reloaded: spot")
    assert until(lambda: draining(machine))
    cloud.set(spot=None)
    assert until(lambda: terminating(machine) is None, 60), status(machine)
    assert until(lambda: "STATE=serving" in machine.read("/etc/worker.env"))
    assert until(lambda: status(machine)["generation"] == 3)
    assert until(lambda: not draining(machine))
    machine.run(["logger", "-t", "probe", "afterwards"])
    time.sleep(3)
    assert [line for line in receiver.lines() if line.get("SYSLOG_IDENTIFIER") == "probe"] == []
