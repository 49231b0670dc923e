"""From end to end in a booted image: cloud-init, Consul, haproxy, the shipper, and a secret that only its target may hold."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.image.conftest import Machines
from tests.image.haproxy import UNIT, served
from tests.image.lab import Image, Machine, Network, prepared_image
from tests.image.lab.images import run_in
from tests.image.observing import RELOADED, STARTED, count, show, state_becomes, status, until
from tests.servers.consul import Consul
from tests.servers.receiver import Receiver

pytestmark = [pytest.mark.image, pytest.mark.root, pytest.mark.server]

CANARY = "kanarienvogel-7Qx2-geheim"
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


def test_an_instance_finds_itself_and_serves_with_its_environments_config(machine: Machine) -> None:
    """User-data names the environment; its Consul layers are rendered; haproxy starts once, on them, and serves."""
    report = status(machine)
    assert report["state"] == "converged", report
    assert report["facts"]["environment"] == "staging"
    assert report["facts"]["instance_id"] == "i-edge-1"
    assert report["component"] == {"name": "edge", "version": "1.2.3"}
    assert served(machine) == "hello from staging"
    assert count(machine, STARTED, UNIT) == 1
    assert count(machine, RELOADED, UNIT) == 0
    assert machine.run(["stat", "-c", "%a %U", "/etc/app/app.env"]).stdout.split() == ["600", "root"]
    assert machine.read("/etc/app/app.env") == f"DB_PASSWORD={CANARY}\n"
    ready = show(machine, "parbake.service", "ActiveEnterTimestampMonotonic")
    started = show(machine, UNIT, "InactiveExitTimestampMonotonic")
    assert int(started) >= int(ready)


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_a_changed_key_reloads_once_and_an_unrelated_one_does_nothing(machine: Machine, store: Consul) -> None:
    """A change makes one reload and no restart. A key that no template reads changes no byte and makes no action."""
    pid = show(machine, "haproxy.service", "MainPID")
    store.put("site/env/staging/web/greeting", "hello again")
    assert until(lambda: served(machine) == "hello again")
    assert until(lambda: count(machine, RELOADED, UNIT) == 1)
    assert show(machine, "haproxy.service", "MainPID") == pid

    before = machine.run(["stat", "-c", "%i %y", "/etc/haproxy/haproxy.cfg", "/etc/app/app.env"]).stdout
    digest = status(machine)["digest"]
    store.put("site/env/staging/unrelated", "x")
    assert until(lambda: status(machine)["digest"] != digest)
    assert machine.run(["stat", "-c", "%i %y", "/etc/haproxy/haproxy.cfg", "/etc/app/app.env"]).stdout == before
    assert status(machine)["generation"] == 2
    assert count(machine, RELOADED, UNIT) == 1
    assert count(machine, STARTED, UNIT) == 1


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_a_killed_daemon_comes_back_and_leaves_a_current_state_alone(machine: Machine) -> None:
    """kill -9: systemd starts parbake again, and haproxy is neither restarted nor reloaded."""
    old, haproxy = show(machine, "parbake.service", "MainPID"), show(machine, "haproxy.service", "MainPID")
    machine.run(["kill", "-9", old])
    assert until(lambda: show(machine, "parbake.service", "MainPID") not in ("0", old))
    assert until(lambda: machine.run(["systemctl", "is-active", "parbake"], check=False).stdout.strip() == "active")
    assert state_becomes(machine, "converged")
    assert show(machine, "haproxy.service", "MainPID") == haproxy
    assert (count(machine, STARTED, UNIT), count(machine, RELOADED, UNIT)) == (1, 0)


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_an_instance_outlives_its_store_and_boots_without_it(machine: Machine, store: Consul) -> None:
    """Without Consul: `stale` and unchanged, and a reboot uses the last good run config. With it again: converged by itself."""
    store.stop()
    assert state_becomes(machine, "stale", 90)
    assert served(machine) == "hello from staging"
    assert "site" in status(machine)["error"]

    machine.reboot()
    assert status(machine)["state"] == "stale"
    assert served(machine) == "hello from staging"
    assert machine.read("/etc/app/app.env") == f"DB_PASSWORD={CANARY}\n"

    store.start()
    assert state_becomes(machine, "converged", 90)
    assert (count(machine, STARTED, UNIT), count(machine, RELOADED, UNIT)) == (1, 0)


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_logs_arrive_labelled_and_complete_and_no_other_file_holds_the_secret(machine: Machine, receiver: Receiver) -> None:
    """haproxy's lines arrive with instance, component and environment, also those logged while the receiver was down. The
    password is in its target and nowhere else."""
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
    assert leaks(machine) == []


def leaks(machine: Machine) -> list[str]:
    """Return the places other than its target that hold the canary: files, arguments, environments, journal entries."""
    paths = []
    for path in machine.changes.rglob("*"):
        shown = "/" + str(path.relative_to(machine.changes))
        # The journal holds the lines that the test itself logged: its entries are searched below.
        allowed = shown.startswith("/var/log/journal/") or shown == "/etc/app/app.env"
        if path.is_file() and not path.is_symlink() and not allowed and CANARY.encode() in path.read_bytes():
            paths.append(shown)
    run = machine.run(["grep", "-rlsa", CANARY, "/run", "/tmp"], check=False).stdout.split()
    # The mask file, on a tmpfs, lists the texts that the shipper masks: docs/reference/sinks.md
    paths += [path for path in run if path != "/run/parbake/mask" and not path.startswith("/run/log/journal")]
    mode = machine.run(["stat", "-c", "%a %U %G", "/run/parbake/mask"]).stdout.split()
    assert mode == ["640", "root", "parbake-ship"]
    script = f"grep -la {CANARY} /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null | grep -v /proc/$$/ || true"
    # A pattern that does not match itself, or the search would find its own arguments.
    paths += machine.run(["sh", "-c", script.replace(CANARY, f"{CANARY[:5]}[{CANARY[5]}]{CANARY[6:]}")]).stdout.split()
    journal = machine.run(["journalctl", "-q", "-o", "json", "--all"]).stdout
    paths += [line[:200] for line in journal.splitlines() if CANARY in line and '"while-away"' not in line]
    return paths
