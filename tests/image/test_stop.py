"""`systemctl stop` of a booted parbake whose sources hang: it ends in seconds, and systemd has to kill nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from tests.image.conftest import Machines
from tests.image.lab import Image, Machine, Network, prepared_image
from tests.image.lab.network import METADATA_ADDRESS
from tests.image.observing import bake, show, until
from tests.servers.processes import Child

pytestmark = [
    pytest.mark.image,
    pytest.mark.root,
    pytest.mark.parametrize("suite", ["bookworm"], indirect=True),
]

#: A stop takes at most 2 s. The rest is for a busy machine; without the stop event seven sources take over a minute.
STOP_SECONDS = 10
SOURCES = 7
PORT = 8081
#: Accepts every connection, prints a line for each request and never answers.
SERVER = f"""\
import socket
listener = socket.create_server(("{METADATA_ADDRESS}", {PORT}))
connections = []
print("listening", flush=True)
while True:
    connections.append(listener.accept()[0])
    connections[-1].recv(65536)
    print("request", flush=True)
"""
SETTINGS = (
    '[component]\nname = "web"\n[discovery]\nproviders = []\n'
    + "".join(
        f'[[source]]\nname = "s{number}"\nbackend = "http"\nurl = "http://{METADATA_ADDRESS}:{PORT}/{number}"\n'
        for number in range(SOURCES)
    )
    + '[[template]]\nsource = "a.j2"\ntarget = "/etc/app.conf"\n'
)


@pytest.fixture
def server(network: Network, scratch: Path) -> Child:
    """A server of the network that accepts and never answers; its log has a line for each request."""
    log = scratch / "hanging.log"
    child = network.spawn([sys.executable, "-c", SERVER], log)
    child.wait_ready(lambda: "listening" in log.read_text(), 20, "the hanging server to listen")
    return child


@pytest.fixture
def machine(bare_image: Image, session_scratch: Path, deb: Path, machines: Machines, network: Network) -> Machine:
    """A machine with seven sources, not booted."""
    files = {"/etc/parbake/parbake.toml": SETTINGS, "/etc/parbake/templates/a.j2": "{{ config.v }}\n"}
    return bake(machines(prepared_image(bare_image, session_scratch, [deb]), network=network), files)


def test_a_stop_does_not_wait_for_sources_that_hang(machine: Machine, server: Child) -> None:
    """SIGTERM in the middle of the first pull: the daemon exits 0 within seconds, long before systemd's time-out."""
    machine.boot(wait=False)
    assert until(lambda: "request" in server.log.read_text(), 60)
    assert show(machine, "parbake.service", "ActiveState") == "activating"
    began = time.monotonic()
    machine.run(["systemctl", "stop", "parbake.service"], timeout_seconds=90)
    seconds = time.monotonic() - began
    assert show(machine, "parbake.service", "Result") == "success"
    assert show(machine, "parbake.service", "ExecMainStatus") == "0"
    assert seconds < STOP_SECONDS
    assert not machine.exists("/etc/app.conf")
