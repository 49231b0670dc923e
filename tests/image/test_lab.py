"""Tests of the lab itself, so that a failing image test is about parbake."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.image.conftest import Machines
from tests.image.lab import Image, LabError, Network, prepared_image
from tests.image.lab.cgroups import hierarchies
from tests.image.lab.commands import call
from tests.image.lab.leftovers import sweep
from tests.image.lab.names import orphaned
from tests.servers.consul import Consul
from tests.servers.receiver import Receiver

pytestmark = [pytest.mark.image, pytest.mark.root]


def test_a_machine_boots_runs_commands_and_reboots_on_its_own_disk(
    bare_image: Image, machines: Machines, network: Network
) -> None:
    """The files that a machine wrote are there after a reboot, and never in the image."""
    machine = machines(bare_image, network=network, hostname="web-1")
    machine.seed(user_data="#cloud-config\nwrite_files:\n- {path: /run/seeded, content: yes-it-was}\n")
    machine.boot()
    first = machine.read("/proc/sys/kernel/random/boot_id")
    assert machine.read("/run/seeded") == "yes-it-was"
    assert machine.read("/run/cloud-init/cloud-id").strip() == "nocloud"
    assert machine.run(["hostname"]).stdout.strip() == "web-1"
    machine.write("/etc/kept/here", "a value\n", mode="0600")
    machine.write("/run/lost", "volatile\n")

    machine.reboot()

    assert machine.read("/proc/sys/kernel/random/boot_id") != first
    assert machine.run(["stat", "-c", "%a %U", "/etc/kept/here"]).stdout.split() == ["600", "root"]
    assert machine.read("/etc/kept/here") == "a value\n"
    assert not machine.exists("/run/lost")
    assert not any((layer / "etc/kept").exists() for layer in bare_image.layers)


def test_two_machines_run_side_by_side_and_one_survives_the_others_death(
    bare_image: Image, machines: Machines, network: Network
) -> None:
    """A killed machine does not affect another one, and boots again from its disk."""
    one, two = (machines(bare_image, network=network, hostname=name) for name in ("one", "two"))
    for machine in (one, two):
        machine.seed()
        machine.boot()
    haproxy = two.run(["systemctl", "show", "-P", "MainPID", "haproxy"]).stdout
    one.write("/root/kept", "kept")
    one.kill()
    assert not one.booted
    assert two.run(["systemctl", "show", "-P", "MainPID", "haproxy"]).stdout == haproxy
    assert two.run(["systemctl", "is-system-running"]).stdout.strip() == "running"
    one.boot()
    assert one.read("/root/kept") == "kept"


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_a_machine_reaches_the_servers_of_its_network_and_nothing_else(
    bare_image: Image, machines: Machines, network: Network, consul: Consul, receiver: Receiver
) -> None:
    """Consul and the receiver answer at the link-local address; every other address is unreachable."""
    machine = machines(bare_image, network=network)
    machine.boot()
    consul.put("env/dev/greeting", "hello")
    assert machine.run(["curl", "-fsS", f"{consul.url}/v1/kv/env/dev/greeting?raw"]).stdout == "hello"

    batch = gzip.compress(b'{"message": "one"}\n{"message": "two"}\n')
    machine.write("/root/batch", batch)
    headers = ["-H", "Content-Type: application/x-ndjson", "-H", "Content-Encoding: gzip"]
    machine.run(["curl", "-fsS", "--data-binary", "@/root/batch", *headers, receiver.url])
    assert [line["message"] for line in receiver.lines()] == ["one", "two"]
    assert receiver.refusals() == []

    outside = machine.run(["curl", "-sS", "--max-time", "3", "http://192.0.2.1/"], check=False)
    assert outside.returncode == 7, outside


def test_a_machine_has_the_firmware_that_it_was_given(bare_image: Image, machines: Machines) -> None:
    """The kernel command line and the DMI strings are those of the test, and the rest of /sys is still there."""
    machine = machines(bare_image)
    machine.firmware(cmdline="quiet parbake.environment=prod", dmi={"sys_vendor": "Amazon EC2"})
    machine.boot()
    assert machine.read("/proc/cmdline") == "quiet parbake.environment=prod\n"
    assert machine.read("/sys/class/dmi/id/sys_vendor") == "Amazon EC2\n"
    assert machine.exists("/sys/class/net/lo/address")


def test_a_package_is_installed_once_for_every_machine_of_the_run(
    bare_image: Image, machines: Machines, scratch: Path, tmp_path: Path
) -> None:
    """A prepared image has the package, its maintainer scripts have run, and `finish` too. The image below is unchanged."""
    package = standin_package(tmp_path)
    prepared = prepared_image(bare_image, scratch, [package], lambda root: (root / "etc/touched").touch())
    machine = machines(prepared)
    machine.boot()
    assert machine.run(["systemctl", "is-active", "standin.service"]).stdout.strip() == "active"
    assert machine.run(["dpkg-query", "-W", "-f", "${Status}", "standin"]).stdout == "install ok installed"
    assert machine.exists("/etc/touched")
    assert machines(bare_image).run(["dpkg-query", "-W", "standin"], check=False).returncode == 1


def standin_package(directory: Path) -> Path:
    """A package with a unit that its postinst enables."""
    root = directory / "standin"
    files = {
        "DEBIAN/control": "Package: standin\nVersion: 1\nArchitecture: all\nMaintainer: A Test <test@example.invalid>\n"
        "Description: a stand-in\n",
        "DEBIAN/postinst": "#!/bin/sh\nset -e\nsystemctl enable --quiet standin.service\n",
        "lib/systemd/system/standin.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n"
        "[Install]\nWantedBy=multi-user.target\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "DEBIAN/postinst").chmod(0o755)
    call(["dpkg-deb", "--root-owner-group", "--build", str(root), str(directory / "standin.deb")])
    return directory / "standin.deb"


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_a_failed_boot_names_the_failed_unit(bare_image: Image, machines: Machines) -> None:
    """A failed unit fails the boot, and the error names it, unless the test allows a degraded machine."""
    machine = machines(bare_image)
    machine.write("/etc/systemd/system/broken.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    machine.run(["systemctl", "add-wants", "multi-user.target", "broken.service"])
    with pytest.raises(LabError, match=r"degraded[\s\S]*broken\.service"):
        machine.boot()
    assert "broken.service: Failed with result" in machine.journal(lines=1000)
    machine.poweroff()
    machine.boot(degraded=True)
    with pytest.raises(LabError, match="exited with 3"):
        machine.run(["systemctl", "is-active", "broken.service"])


@pytest.mark.parametrize("suite", ["bookworm"], indirect=True)
def test_a_command_that_hangs_is_ended_inside_the_machine(bare_image: Image, machines: Machines) -> None:
    """A command ends at its time-out, and no process of it is left in the machine."""
    machine = machines(bare_image)
    machine.boot()
    began = time.monotonic()
    with pytest.raises(LabError, match=r"more than 0\.5 s"):
        machine.run(["sleep", "98765"], timeout_seconds=0.5)
    assert time.monotonic() - began < 30
    assert "98765" not in machine.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout


def test_the_lab_leaves_nothing_behind(lab: None, scratch: Path) -> None:
    """A network leaves no namespace and no process, and a sweep finds nothing of this run to remove."""
    with Network() as network:
        log = scratch / "server.log"
        child = network.spawn(["sleep", "1000"], log)
        assert network.path.exists()
        assert child.alive
    assert not network.path.exists()
    assert not child.alive
    assert sweep() == []


def test_the_next_run_removes_the_leftovers_of_a_killed_run(lab: None, tmp_path: Path) -> None:
    """A sweep ends the processes of a run that was killed, and removes its namespace and control groups."""
    script = (
        "import os, signal, subprocess\n"
        "from tests.image.lab.cgroups import ControlGroup\n"
        "from tests.image.lab.names import unique_name\n"
        "from tests.image.lab.network import Network\n"
        "network = Network().__enter__()\n"
        "group = ControlGroup(unique_name()).__enter__()\n"
        "child = subprocess.Popen([*group.wrapper, *network.prefix, 'sleep', '1000'])\n"
        "print(network.path, child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with (tmp_path / "output").open("w+") as output:
        dead = subprocess.run([sys.executable, "-c", script], stdout=output, check=False)
        output.seek(0)
        namespace, pid = output.read().split()
    assert dead.returncode == -signal.SIGKILL
    assert Path(namespace).exists()
    sweep()
    assert not Path(namespace).exists()
    assert not any(orphaned(group.name) for hierarchy in hierarchies() for group in hierarchy.iterdir())
    assert "sleep" not in command_line(int(pid))


def command_line(pid: int) -> str:
    """The arguments of a process, empty when it is gone or only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
