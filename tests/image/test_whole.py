"""The whole way in a booted image: cloud-init, Consul, haproxy, the shipper, and a secret that must be nowhere else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.image.conftest import Machines
from tests.image.lab import Image, Machine, Network, prepared_image
from tests.image.lab.images import run_in
from tests.servers.consul import Consul
from tests.servers.receiver import Receiver

pytestmark = [pytest.mark.image, pytest.mark.root, pytest.mark.server]

CANARY = "kanarienvogel-7Qx2-geheim"
STARTED = "39f53479d3a045ac8e11786248231fbf"
RELOADED = "7b05ebc668384222baa8881179cfda54"
CONSUL_PORT, RECEIVER_PORT = 8500, 8080

SETTINGS = f"""\
[component]
name = "edge"
version = "1.2.3"

[facts_from]
environment = ["userdata:environment"]

[[source]]
name = "site"
backend = "consul"
address = "http://169.254.169.254:{CONSUL_PORT}"
prefix = "site"
layers = ["common", "env/{{{{ facts.environment }}}}", "env/{{{{ facts.environment }}}}/{{{{ build.component }}}}"]
timeout = "3s"

[keys."web.greeting"]
required = true

[keys."web.port"]
type = "integer"
default = 8088

[keys."db.password"]
required = true
secret = true

[[template]]
source = "haproxy.cfg.j2"
target = "/etc/haproxy/haproxy.cfg"
check = ["haproxy", "-c", "-q", "-f", "{{candidate}}"]
units = [{{ name = "haproxy.service", action = "reload" }}]

[[template]]
source = "app.env.j2"
target = "/etc/app/app.env"

[[sink]]
name = "central"
type = "http"
url = "http://169.254.169.254:{RECEIVER_PORT}/logs"
labels.instance = "{{{{ facts.instance_id }}}}"
labels.component = "{{{{ build.component }}}}"
labels.environment = "{{{{ facts.environment }}}}"
"""
HAPROXY = """\
global
    log /dev/log local0
    user haproxy
    group haproxy

defaults
    mode http
    log global
    option httplog
    timeout connect 5s
    timeout client 30s
    timeout server 30s

frontend web
    bind 127.0.0.1:{{ config.web.port }}
    http-request return status 200 content-type text/plain string {{ config.web.greeting | to_json }}
"""


@pytest.fixture(scope="session")
def edge(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """An image with haproxy and cloud-init, baked for Consul."""

    def finish(root: Path) -> None:
        files = {
            "etc/parbake/parbake.toml": SETTINGS,
            "etc/parbake/templates/haproxy.cfg.j2": HAPROXY,
            "etc/parbake/templates/app.env.j2": "DB_PASSWORD={{ config.db.password | quote }}\n",
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        run_in(root, ["parbake", "bake"])

    return prepared_image(bare_image, session_scratch, [deb], finish)


@pytest.fixture
def store(consul: Consul) -> Consul:
    """Consul with the layers of two environments."""
    consul.put("site/common/web/greeting", "hello from nowhere")
    consul.put("site/env/staging/web/greeting", "hello from staging")
    consul.put("site/env/prod/web/greeting", "hello from prod")
    consul.put("site/env/staging/edge/db/password", CANARY)
    return consul


@pytest.fixture
def machine(edge: Image, machines: Machines, network: Network, store: Consul, receiver: Receiver) -> Machine:
    """A machine of the staging environment, booted."""
    made = machines(edge, network=network, hostname="edge-1")
    made.seed(user_data="#cloud-config\nparbake: {environment: staging}\n", instance_id="i-edge-1")
    made.boot()
    return made


def until(what: Callable[[], bool], seconds: float = 30.0) -> bool:
    """Whether `what` comes true in time."""
    end = time.monotonic() + seconds
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def status(machine: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.read("/run/parbake/status.json"))
    return found


def state_becomes(machine: Machine, state: str, seconds: float = 30.0) -> bool:
    return until(lambda: status(machine)["state"] == state, seconds)


def served(machine: Machine) -> str:
    return machine.run(["curl", "-sS", "--max-time", "5", "http://127.0.0.1:8088/"], check=False).stdout


def count(machine: Machine, message_id: str, unit: str = "haproxy.service") -> int:
    """How often systemd said this of a unit since the boot."""
    argv = ["journalctl", "-b", "-q", "-o", "json", "--output-fields=UNIT", f"MESSAGE_ID={message_id}", f"UNIT={unit}"]
    return len(machine.run(argv).stdout.splitlines())


def main_pid(machine: Machine, unit: str) -> str:
    return machine.run(["systemctl", "show", "--value", "-P", "MainPID", unit]).stdout.strip()


def test_an_instance_finds_itself_and_serves_with_its_environments_config(machine: Machine) -> None:
    """User-data names the environment; its Consul layers are rendered; haproxy starts once, on them, and serves."""
    found = status(machine)
    assert found["state"] == "converged", found
    assert found["facts"]["environment"] == "staging"
    assert found["facts"]["instance_id"] == "i-edge-1"
    assert found["component"] == {"name": "edge", "version": "1.2.3"}
    assert served(machine) == "hello from staging"
    assert count(machine, STARTED) == 1
    assert count(machine, RELOADED) == 0
    assert machine.run(["stat", "-c", "%a %U", "/etc/app/app.env"]).stdout.split() == ["600", "root"]
    assert machine.read("/etc/app/app.env") == f"DB_PASSWORD={CANARY}\n"
    began = machine.run(["systemctl", "show", "--value", "-P", "ActiveEnterTimestampMonotonic", "parbake.service"]).stdout
    haproxy = machine.run(["systemctl", "show", "--value", "-P", "InactiveExitTimestampMonotonic", "haproxy.service"]).stdout
    assert int(haproxy) >= int(began)


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_a_changed_key_reloads_once_and_an_unrelated_one_does_nothing(machine: Machine, store: Consul) -> None:
    """One reload and no restart for a change; not one byte and no action for a key that nothing reads."""
    pid = main_pid(machine, "haproxy.service")
    store.put("site/env/staging/web/greeting", "hello again")
    assert until(lambda: served(machine) == "hello again")
    assert until(lambda: count(machine, RELOADED) == 1)
    assert main_pid(machine, "haproxy.service") == pid

    before = machine.run(["stat", "-c", "%i %y", "/etc/haproxy/haproxy.cfg", "/etc/app/app.env"]).stdout
    digest = status(machine)["digest"]
    store.put("site/env/staging/unrelated", "x")
    assert until(lambda: status(machine)["digest"] != digest)
    assert machine.run(["stat", "-c", "%i %y", "/etc/haproxy/haproxy.cfg", "/etc/app/app.env"]).stdout == before
    assert status(machine)["generation"] == 2
    assert count(machine, RELOADED) == 1
    assert count(machine, STARTED) == 1


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_a_killed_daemon_comes_back_and_leaves_a_current_state_alone(machine: Machine) -> None:
    """kill -9: systemd brings parbake back, and haproxy is neither restarted nor reloaded."""
    old, haproxy = main_pid(machine, "parbake.service"), main_pid(machine, "haproxy.service")
    machine.run(["kill", "-9", old])
    assert until(lambda: main_pid(machine, "parbake.service") not in ("0", old))
    assert until(lambda: machine.run(["systemctl", "is-active", "parbake"], check=False).stdout.strip() == "active")
    assert state_becomes(machine, "converged")
    assert main_pid(machine, "haproxy.service") == haproxy
    assert (count(machine, STARTED), count(machine, RELOADED)) == (1, 0)


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_an_instance_outlives_its_store_and_boots_without_it(machine: Machine, store: Consul) -> None:
    """Consul away: stale, unchanged; a reboot comes up on the last good run config; Consul back: converged by itself."""
    store.stop()
    assert state_becomes(machine, "stale", 60)
    assert served(machine) == "hello from staging"
    assert "site" in status(machine)["error"]

    machine.reboot()
    assert status(machine)["state"] == "stale"
    assert served(machine) == "hello from staging"
    assert machine.read("/etc/app/app.env") == f"DB_PASSWORD={CANARY}\n"

    store.start()
    assert state_becomes(machine, "converged", 90)
    assert (count(machine, STARTED), count(machine, RELOADED)) == (1, 0)


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_logs_arrive_labelled_and_complete_and_the_secret_is_nowhere_else(machine: Machine, receiver: Receiver) -> None:
    """haproxy's lines arrive with instance, component and environment, also those logged while the receiver was away;
    the password is in its target and nowhere else."""
    assert served(machine) == "hello from staging"
    lines = receiver.wait_for(1, 60, SYSLOG_IDENTIFIER="haproxy")
    labels = {name: lines[0].get(name) for name in ("instance", "component", "environment")}
    assert labels == {"instance": "i-edge-1", "component": "edge", "environment": "staging"}, lines[0]

    receiver.stop()
    for number in range(50):
        machine.run(["logger", "-t", "while-away", f"line {number} with {CANARY} in it"])
    time.sleep(2)
    receiver.start()
    kept = receiver.wait_for(50, 90, SYSLOG_IDENTIFIER="while-away")
    assert {line["MESSAGE"].split(" with ")[0] for line in kept} == {f"line {n}" for n in range(50)}
    assert receiver.refusals() == []
    assert CANARY.encode() not in receiver.raw()

    machine.run(["systemctl", "restart", "parbake.service"])
    assert state_becomes(machine, "converged")
    assert only_in_its_target(machine) == []


def only_in_its_target(machine: Machine) -> list[str]:
    """Where else the canary is: disk, /run, arguments, environments, and the journal less the lines the test logged."""
    paths = []
    for path in machine.changes.rglob("*"):
        shown = "/" + str(path.relative_to(machine.changes))
        # the journal holds the lines that the test itself logged; it is searched by entry below
        ours = shown.startswith("/var/log/journal/") or shown == "/etc/app/app.env"
        if path.is_file() and not path.is_symlink() and not ours and CANARY.encode() in path.read_bytes():
            paths.append(shown)
    run = machine.run(["grep", "-rlsa", CANARY, "/run", "/tmp"], check=False).stdout.split()
    # the one file on a tmpfs that tells the shipper what to mask: docs/reference/sinks.md
    paths += [path for path in run if path != "/run/parbake/mask" and not path.startswith("/run/log/journal")]
    mode = machine.run(["stat", "-c", "%a %U %G", "/run/parbake/mask"]).stdout.split()
    assert mode == ["640", "root", "parbake-ship"]
    script = f"grep -la {CANARY} /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -v /proc/$$/ || true"
    found = machine.run(["sh", "-c", script.replace(CANARY, f"{CANARY[:5]}[{CANARY[5]}]{CANARY[6:]}")]).stdout.split()
    paths += found
    journal = machine.run(["journalctl", "-q", "-o", "json", "--all"]).stdout
    paths += [line[:200] for line in journal.splitlines() if CANARY in line and '"while-away"' not in line]
    return paths
