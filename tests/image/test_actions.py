"""Actions on units in a booted image: one that fails once, one during which parbake is killed, a storm, many templates."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.image import haproxy
from tests.image.conftest import Machines
from tests.image.haproxy import SOURCE, fill, served
from tests.image.lab import Image, Machine, Network, prepared_image
from tests.image.lab.apt import download
from tests.image.lab.cache import made_once
from tests.image.observing import RELOADED, STARTED, bake, count, history, show, state_becomes, status, until
from tests.servers.consul import Consul

pytestmark = [
    pytest.mark.image,
    pytest.mark.root,
    pytest.mark.server,
    pytest.mark.parametrize("suite", ["bookworm"], indirect=True),
]

STORM_CHANGES, STORM_SECONDS, STORM_RELOADS = 1000, 10.0, 60
NGINX = """
[[template]]
source = "site.conf.j2"
target = "/etc/nginx/conf.d/site.conf"
units = [{ name = "nginx.service", action = "reload" }]
"""
NGINX_SITE = "server { listen 127.0.0.1:8088; location / { return 200 '{{ config.web.greeting }}'; } }\n"
# nginx's own reload. It appends a line each time and runs `GATE` first.
NGINX_RELOAD = """\
#!/bin/sh
echo reload >>/run/reloads
GATE
exec /usr/sbin/nginx -s reload
"""
EXEC_RELOAD = "[Service]\nExecReload=\nExecReload=/usr/local/bin/nginx-reload\n"
FAILS_ONCE = "mkdir /run/failed-once 2>/dev/null && { echo 'not now' >&2; exit 1; }"
BLOCKS = "[ -p /run/gate ] && cat /run/gate"


@pytest.fixture(scope="session")
def installed(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """Debian with the package."""
    return prepared_image(bare_image, session_scratch, [deb])


@pytest.fixture(scope="session")
def with_nginx(installed: Image, session_scratch: Path) -> Image:
    """The same with Debian's nginx."""

    def fetch(directory: Path) -> None:
        for package in ("nginx-common", "nginx"):
            download(package, installed.suite, directory)

    packages = made_once(f"nginx-{installed.suite}", fetch)
    return prepared_image(installed, session_scratch, sorted(packages.glob("*.deb")))


@pytest.fixture
def machine(installed: Image, machines: Machines, network: Network) -> Machine:
    """A machine that is not baked yet, on a network with Consul."""
    return machines(installed, network=network)


def nginx(machine: Machine, gate: str, files: Mapping[str, str] | None = None) -> Machine:
    """Bake a machine whose nginx serves the greeting, and boot it. `files` are added to its build config."""
    files = {
        **(files or {}),
        "/etc/parbake/parbake.toml": SOURCE + NGINX,
        "/etc/parbake/templates/site.conf.j2": NGINX_SITE,
        "/etc/systemd/system/nginx.service.d/reload.conf": EXEC_RELOAD,
        "/usr/local/bin/nginx-reload": NGINX_RELOAD.replace("GATE", gate),
    }
    machine.run(["rm", "/etc/nginx/sites-enabled/default"])
    bake(machine, files).boot()
    return machine


def reloads(machine: Machine) -> int:
    return machine.run(["cat", "/run/reloads"], check=False).stdout.count("reload")


def test_a_reload_that_fails_once_is_repeated_until_it_works(
    with_nginx: Image, machines: Machines, network: Network, consul: Consul
) -> None:
    """nginx's reload fails, then works: the new config is in use by itself, and the status has the number of attempts."""
    fill(consul)
    machine = nginx(machines(with_nginx, network=network), FAILS_ONCE)
    assert served(machine) == "first"
    pid = show(machine, "nginx.service", "MainPID")
    consul.put("site/common/web/greeting", "second")
    assert until(lambda: served(machine) == "second")
    assert until(lambda: status(machine)["generation"] == 2 and status(machine)["state"] == "converged")
    assert [(u["result"], u["detail"]) for u in status(machine)["units"]] == [("ok", "at attempt 2")]
    assert reloads(machine) == 2
    assert show(machine, "nginx.service", "MainPID") == pid


def test_an_action_that_a_kill_interrupted_is_repeated_at_the_next_start(
    with_nginx: Image, machines: Machines, network: Network, consul: Consul
) -> None:
    """kill -9 between the commit and the end of nginx's reload, which dies too: the next start reloads, without a
    change in the store, and records the action."""
    fill(consul)
    # systemd must not start parbake again before the test has seen what nginx serves without it.
    restart = {"/etc/systemd/system/parbake.service.d/restart.conf": "[Service]\nRestartSec=1h\n"}
    machine = nginx(machines(with_nginx, network=network), BLOCKS, restart)
    machine.run(["mkfifo", "/run/gate"])
    consul.put("site/common/web/greeting", "second")
    assert until(lambda: reloads(machine) == 1)
    assert "second" in machine.read("/etc/nginx/conf.d/site.conf")
    machine.run(["kill", "-9", show(machine, "parbake.service", "MainPID")])
    machine.run(["rm", "/run/gate"])
    machine.run(["systemctl", "kill", "--kill-whom=control", "--signal=KILL", "nginx.service"])
    assert until(lambda: show(machine, "nginx.service", "ActiveState") == "active")
    assert served(machine) == "first"

    machine.run(["systemctl", "restart", "parbake.service"])
    assert until(lambda: served(machine) == "second")
    assert reloads(machine) == 2
    assert until(lambda: show(machine, "parbake.service", "ActiveState") == "active")
    assert state_becomes(machine, "converged")
    generations = [(g["number"], g["state"], [u["result"] for u in g["units"]]) for g in history(machine)]
    assert generations[-1] == (2, "applied", ["ok"])


def test_a_storm_of_changes_gives_a_handful_of_reloads_and_the_last_value(
    machine: Machine, consul: Consul, capsys: pytest.CaptureFixture[str]
) -> None:
    """1,000 changes of a key in about ten seconds: at most 60 reloads of haproxy, no restart, and it serves the last."""
    fill(consul)
    bake(machine, haproxy.files("reload")).boot()
    began = time.monotonic()
    for number in range(STORM_CHANGES):
        consul.put("site/common/web/greeting", f"number {number}")
        time.sleep(max(0.0, began + (number + 1) * STORM_SECONDS / STORM_CHANGES - time.monotonic()))
    seconds = time.monotonic() - began
    assert until(lambda: served(machine) == f"number {STORM_CHANGES - 1}")
    assert state_becomes(machine, "converged")
    assert f"number {STORM_CHANGES - 1}" in machine.read(haproxy.TARGET)
    done = count(machine, RELOADED, haproxy.UNIT)
    with capsys.disabled():
        print(f"\n{STORM_CHANGES} changes in {seconds:.1f} s: {done} reloads")
    assert 1 <= done <= STORM_RELOADS
    assert count(machine, STARTED, haproxy.UNIT) == 1


def test_a_hundred_templates_of_which_fifty_share_a_unit_give_one_action_on_it(machine: Machine, consul: Consul) -> None:
    """One start at the boot, one reload when a key changes that all of them read, and no reload when a key changes that
    only templates without a unit read."""
    tables, files = [], {}
    for number in range(100):
        unit = 'units = [{ name = "app.service", action = "reload" }]\n' if number % 2 else ""
        tables.append(f'[[template]]\nsource = "t{number}.j2"\ntarget = "/etc/app/t{number}"\n{unit}')
        own = "" if number % 2 else " {{ config.web.port }}"
        files[f"/etc/parbake/templates/t{number}.j2"] = f"{number} {{{{ config.web.greeting }}}}{own}\n"
    service = "[Service]\nExecStart=sleep infinity\nExecReload=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
    files["/etc/parbake/parbake.toml"] = SOURCE + "".join(tables)
    files["/etc/systemd/system/app.service"] = service
    fill(consul)
    machine.run(["mkdir", "-p", "/etc/parbake/templates"])
    for path in [path for path in files if path.endswith(".j2")]:
        (machine.root / path.lstrip("/")).write_text(files.pop(path))
    bake(machine, files)
    machine.run(["systemctl", "enable", "app.service"])
    machine.boot()
    assert count(machine, STARTED, "app.service") == 1

    fill(consul, greeting="second")
    assert until(lambda: count(machine, RELOADED, "app.service") > 0)
    assert until(lambda: status(machine)["generation"] == 2 and status(machine)["state"] == "converged")
    wanted = "".join(f"{number} second{'' if number % 2 else ' 8088'}\n" for number in range(100))
    script = 'for n in $(seq 0 99); do cat "/etc/app/t$n"; done'
    assert machine.run(["sh", "-c", script]).stdout == wanted
    fill(consul, greeting="second", port=8089)
    assert until(lambda: machine.read("/etc/app/t0") == "0 second 8089\n")
    assert until(lambda: status(machine)["generation"] == 3)
    time.sleep(1)
    assert (count(machine, STARTED, "app.service"), count(machine, RELOADED, "app.service")) == (1, 1)


COMMANDS = """
[[template]]
source = "a.j2"
target = "/etc/app/a"
units = [
  { command = ["/usr/local/bin/record", "before"] },
  { name = "app.service", action = "reload" },
  { name = "index", command = ["/usr/local/bin/record", "after"], timeout = "2s" },
]
[[template]]
source = "a.j2"
target = "/etc/app/b"
units = [{ command = ["/usr/local/bin/record", "before"] }]
"""
# Records its call. If /run/hang exists it hangs once, with a child process.
RECORD = """\
#!/bin/sh
echo "$1" >>/run/calls
[ "$1" = after ] && rm /run/hang 2>/dev/null && { sleep 87654 & sleep 87654; }
exit 0
"""
RECORDED_SERVICE = """\
[Service]
ExecStart=sleep infinity
ExecReload=/usr/local/bin/record reload
[Install]
WantedBy=multi-user.target
"""


def test_commands_and_units_run_in_the_order_given_and_one_that_hangs_is_killed_and_repeated(
    machine: Machine, consul: Consul
) -> None:
    """A command runs once a generation, at its place among the units, and is killed at its time-out."""
    fill(consul)
    files = {
        "/etc/parbake/parbake.toml": SOURCE + COMMANDS,
        "/etc/parbake/templates/a.j2": "{{ config.web.greeting }}\n",
        "/usr/local/bin/record": RECORD,
        "/etc/systemd/system/app.service": RECORDED_SERVICE,
    }
    bake(machine, files)
    machine.run(["systemctl", "enable", "app.service"])
    machine.boot()

    def calls() -> list[str]:
        return machine.run(["cat", "/run/calls"]).stdout.split()

    assert state_becomes(machine, "converged")
    assert calls() == ["before", "after"]
    consul.put("site/common/web/greeting", "second")
    assert until(lambda: len(calls()) >= 5)
    assert until(lambda: status(machine)["generation"] == 2 and status(machine)["state"] == "converged")
    assert calls()[2:] == ["before", "reload", "after"]

    machine.run(["touch", "/run/hang"])
    consul.put("site/common/web/greeting", "third")
    assert until(lambda: status(machine)["generation"] == 3 and status(machine)["state"] == "converged", 60)
    assert calls()[5:] == ["before", "reload", "after", "after"]
    assert machine.run(["pgrep", "-f", "^sleep 87654"], check=False).stdout == ""
    results = {unit["name"]: (unit["result"], unit["detail"]) for unit in status(machine)["units"]}
    assert results["index"] == ("ok", "at attempt 2")
    assert results["/usr/local/bin/record before"][0] == "ok"
    assert machine.read("/etc/app/a") == machine.read("/etc/app/b") == "third\n"
