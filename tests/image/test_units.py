"""The units on a booted machine: their order at the boot, and how they survive the death of another."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.image.conftest import Machines
from tests.image.lab import Image, Machine, prepared_image
from tests.image.lab.images import run_in
from tests.image.observing import show, until
from tests.image.package import built_package, next_version

pytestmark = [pytest.mark.image, pytest.mark.root]

SETTINGS = """\
[component]
name = "web"

[[source]]
backend = "file"
path = "/etc/parbake/site"
layers = ["common"]

[keys."greeting"]
required = true

[[template]]
source = "app.conf.j2"
target = "/etc/app.conf"
units = [{ name = "app.service", action = "restart" }]
"""
# Each start appends the config at that moment.
APP = """\
[Service]
ExecStartPre=/bin/sh -c 'cat /etc/app.conf >>/var/lib/app.starts'
ExecStart=sleep infinity
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture(scope="session")
def baked(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """A baked image with one application whose config is a template's target. Its config in the image is another one."""

    def finish(root: Path) -> None:
        files = {
            "etc/parbake/parbake.toml": SETTINGS,
            "etc/parbake/templates/app.conf.j2": "{{ config.greeting }}\n",
            "etc/parbake/site/common.toml": 'greeting = "from the store"\n',
            "etc/app.conf": "from the image\n",
            "etc/systemd/system/app.service": APP,
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        run_in(root, ["systemctl", "enable", "app.service"])
        run_in(root, ["parbake", "bake"])

    return prepared_image(bare_image, session_scratch, [deb], finish)


def starts(machine: Machine) -> list[str]:
    return machine.read("/var/lib/app.starts").splitlines()


def crash(machine: Machine) -> None:
    """Kill the daemon with kill -9 and wait until systemd has started it again."""
    old = show(machine, "parbake.service", "MainPID")
    machine.run(["kill", "-9", old])
    assert until(lambda: show(machine, "parbake.service", "MainPID") not in ("0", old))
    assert until(lambda: show(machine, "parbake.service", "ActiveState") == "active")


def test_an_application_starts_once_and_on_its_run_config_on_every_boot(baked: Image, machines: Machines) -> None:
    """A new instance never starts an application on the config of the image, and no unit fails at the boot."""
    machine = machines(baked)
    machine.boot()
    assert starts(machine) == ["from the store"]
    assert not any("ordering cycle" in line for line in machine.journal(lines=500).splitlines())
    machine.reboot()
    assert starts(machine) == ["from the store"] * 2


def test_a_daemon_that_dies_comes_back_and_stops_no_application(baked: Image, machines: Machines) -> None:
    """kill -9, restart and stop of parbake leave the application's process alone."""
    machine = machines(baked)
    machine.boot()
    application = show(machine, "app.service", "MainPID")
    assert until(lambda: "parbake.service" not in show(machine, "app.service", "Requires").split())
    crash(machine)
    machine.run(["systemctl", "restart", "parbake.service"])
    machine.run(["systemctl", "stop", "parbake.service"])
    assert show(machine, "app.service", "MainPID") == application
    assert starts(machine) == ["from the store"]


def test_a_daemon_that_dies_right_after_the_boot_stops_no_application(baked: Image, machines: Machines) -> None:
    """A crash lifts the requirement if parbake-lift has not done so yet."""
    machine = machines(baked)
    machine.run(["systemctl", "mask", "parbake-lift.service"])
    machine.boot()
    application = show(machine, "app.service", "MainPID")
    assert "parbake.service" in show(machine, "app.service", "Requires").split()
    crash(machine)
    assert show(machine, "app.service", "MainPID") == application


def test_an_application_stays_down_if_the_settings_are_invalid(baked: Image, machines: Machines) -> None:
    """Exit 78 is final: systemd does not try again, and the application does not start on the config of the image."""
    machine = machines(baked)
    machine.write("/etc/parbake/conf.d/typo.toml", "[watch]\nsetle = 1\n")
    machine.boot(degraded=True)
    assert show(machine, "parbake.service", "ExecMainStatus") == "78"
    assert show(machine, "parbake.service", "NRestarts") == "0"
    assert show(machine, "app.service", "ActiveState") == "inactive"
    assert not machine.exists("/var/lib/app.starts")


def test_an_application_waits_for_a_source_that_is_late_and_then_starts(baked: Image, machines: Machines) -> None:
    """Without run config the application is down; it starts by itself once there is one. systemd does not take the wait for
    a start that hangs."""
    machine = machines(baked)
    machine.run(["mv", "/etc/parbake/site", "/etc/parbake/late"])
    machine.write("/etc/systemd/system/parbake.service.d/short.conf", "[Service]\nTimeoutStartSec=3\n")
    machine.boot(wait=False)
    assert until(lambda: machine.exists("/run/parbake/status.json"))
    time.sleep(8)
    assert not machine.exists("/var/lib/app.starts")
    assert show(machine, "parbake.service", "ActiveState") == "activating"
    assert show(machine, "parbake.service", "NRestarts") == "0"
    machine.run(["mv", "/etc/parbake/late", "/etc/parbake/site"])
    assert until(lambda: machine.exists("/var/lib/app.starts"), 60)
    assert starts(machine) == ["from the store"]


def test_an_upgrade_replaces_the_daemon_and_leaves_the_application_alone(
    baked: Image, machines: Machines, scratch: Path
) -> None:
    """After dpkg the daemon is that of the new version, and the application's process is the one from before."""
    tree = scratch / "tree"
    tree.mkdir()
    newer = built_package(scratch / "newer", next_version(tree, "99.1"))
    machine = machines(baked)
    (machine.root / "root/new.deb").write_bytes(newer.read_bytes())
    machine.boot()
    application, daemon = (show(machine, f"{unit}.service", "MainPID") for unit in ("app", "parbake"))
    machine.run(["dpkg", "-i", "/root/new.deb"], timeout_seconds=60)
    assert until(lambda: show(machine, "parbake.service", "MainPID") not in ("0", daemon))
    assert until(lambda: show(machine, "parbake.service", "ActiveState") == "active")
    assert show(machine, "app.service", "MainPID") == application
    machine.run(["dpkg", "--purge", "parbake"], timeout_seconds=60)
    assert show(machine, "app.service", "MainPID") == application
    assert not machine.exists("/run/parbake")
    assert machine.run(["systemctl", "restart", "app.service"]).returncode == 0


def test_a_machine_without_a_sink_has_no_shipper_and_no_failure(baked: Image, machines: Machines) -> None:
    """Without a sink the shipper exits with success, and systemd does not start it again."""
    machine = machines(baked)
    machine.boot()
    assert until(lambda: show(machine, "parbake-ship.service", "ActiveState") == "inactive")
    assert show(machine, "parbake-ship.service", "Result") == "success"
    assert show(machine, "parbake-ship.service", "NRestarts") == "0"


def test_the_last_words_of_an_application_are_shipped_from_the_sandbox(baked: Image, machines: Machines) -> None:
    """At shutdown the shipper outlives the application and ships its last lines. It cannot read root's state directory."""
    machine = machines(baked)
    machine.write("/etc/parbake/conf.d/sink.toml", '[[sink]]\ntype = "file"\npath = "/var/log/parbake/shipped"\n')
    machine.write(
        "/etc/systemd/system/app.service.d/stop.conf",
        "[Service]\nExecStop=/bin/sh -c 'sleep 1; echo these are the last words'\n",
    )
    machine.boot()
    assert show(machine, "parbake-ship.service", "ActiveState") == "active"
    shipper = show(machine, "parbake-ship.service", "MainPID")
    assert machine.run(["stat", "-c", "%U", f"/proc/{shipper}"]).stdout.strip() == "parbake-ship"
    inside = ["nsenter", f"--target={shipper}", "--mount", "--", "ls", "/var/lib/parbake"]
    assert machine.run(inside).stdout.split() == ["ship"]
    machine.poweroff()
    assert "these are the last words" in (machine.root / "var/log/parbake/shipped").read_text()
