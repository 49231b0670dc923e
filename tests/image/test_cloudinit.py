"""The ways in which parbake works with cloud-init, and boots without cloud-init."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.image.conftest import Machines
from tests.image.lab import BASE_PACKAGES, Image, Machine, base_image, prepared_image
from tests.image.lab.images import run_in

pytestmark = [pytest.mark.image, pytest.mark.root]

SETTINGS = """\
[component]
name = "web"

[[source]]
backend = "file"
path = "/etc/parbake/site"
layers = ["common", "env/{{ facts.environment }}"]

[facts]
environment = "dev"

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
# How an image build sets up the module and the part handler.
MODULE = ["/usr/lib/parbake/cloud-init/enable-module"]
HANDLER = ["ln", "-s", "/usr/lib/parbake/cloud-init/parbake_part.py", "/var/lib/cloud/handlers/"]
PARTS = """\
Content-Type: multipart/mixed; boundary="===="
MIME-Version: 1.0

--====
Content-Type: text/cloud-config

#cloud-config
{}
--====
Content-Type: text/x-parbake
Content-Disposition: attachment; filename="instance.toml"

[facts]
environment = "staging"
--====--
"""
SCHEMA = "cloud-config failed schema validation"
FACTS = """\
#cloud-config
write_files:
- path: /run/parbake/conf.d/50-instance.toml
  content: |
    [facts]
    environment = "staging"
"""


def finish(root: Path, commands: Iterable[list[str]]) -> None:
    """Add one application whose config is a template's target, then run `commands` in the image."""
    files = {
        "etc/parbake/parbake.toml": SETTINGS,
        "etc/parbake/templates/app.conf.j2": "{{ config.greeting }}\n",
        "etc/parbake/site/common.toml": 'greeting = "from nowhere"\n',
        "etc/parbake/site/env/dev.toml": 'greeting = "from dev"\n',
        "etc/parbake/site/env/staging.toml": 'greeting = "from staging"\n',
        "etc/app.conf": "from the image\n",
        "etc/systemd/system/app.service": APP,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    run_in(root, ["systemctl", "enable", "app.service"])
    for command in commands:
        run_in(root, command)


@pytest.fixture(scope="session")
def baked(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """The usual image: the service is enabled, and the application waits for it."""
    return prepared_image(bare_image, session_scratch, [deb], lambda root: finish(root, [["parbake", "bake"]]))


@pytest.fixture(scope="session")
def integrated(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """The usual image with parbake's cloud-init module and part handler."""
    commands = [["parbake", "bake"], MODULE, ["install", "-d", "/var/lib/cloud/handlers"], HANDLER]
    return prepared_image(bare_image, session_scratch, [deb], lambda root: finish(root, commands))


@pytest.fixture(scope="session")
def without_service(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """An image where only cloud-init calls parbake: the service is disabled, and nothing waits for it."""
    disable = ["systemctl", "disable", "parbake.service", "parbake-ship.service"]
    return prepared_image(bare_image, session_scratch, [deb], lambda root: finish(root, [disable]))


def starts(machine: Machine) -> list[str]:
    return machine.read("/var/lib/app.starts").splitlines()


def state(machine: Machine) -> str:
    value: str = json.loads(machine.read("/run/parbake/status.json"))["state"]
    return value


@pytest.fixture(scope="session")
def usual(bare_image: Image, session_scratch: Path) -> frozenset[str]:
    """The complaints of cloud-init on this Debian without parbake, such as the missing ssh."""
    with Machine(bare_image, session_scratch) as machine:
        machine.seed()
        machine.boot()
        problems = frozenset(complaints(machine))
        # A complaint about the lab's own settings would hide one about parbake's: it does not name them.
        assert not [line for line in problems if "schema" in line]
        return problems


def settled(machine: Machine) -> None:
    """Wait until the daemon has seen the application stay up."""
    script = "for i in $(seq 600); do ls /var/lib/parbake/transaction* >/dev/null 2>&1 || exit 0; sleep 0.1; done; exit 1"
    machine.run(["sh", "-c", script], timeout_seconds=90)


def complaints(machine: Machine) -> list[str]:
    """Return the errors that cloud-init reports, and the warnings of its log without their times."""
    result = json.loads(machine.read("/run/cloud-init/result.json"))["v1"]
    problems = [str(error) for error in result["errors"]]
    problems += [str(error) for errors in result.get("recoverable_errors", {}).values() for error in errors]
    log = machine.read("/var/log/cloud-init.log").splitlines()
    lines = [line for line in log if "WARNING" in line or "ERROR" in line or "Traceback" in line]
    # Newer releases exit 1 with an error and 2 with a warning.
    status = machine.run(["cloud-init", "status", "--long"], check=False)
    problems += [f"status exits {status.returncode}"] if status.returncode else []
    return problems + [line.partition(" - ")[2] or line for line in lines]


def test_the_service_waits_for_cloud_init_and_the_application_for_the_service(
    baked: Image, usual: frozenset[str], machines: Machines
) -> None:
    """Files that user-data writes exist at the first convergence, and cloud-init complains about nothing new."""
    machine = machines(baked)
    machine.seed(user_data=FACTS)
    machine.boot()
    assert starts(machine) == ["from staging"]
    assert state(machine) == "converged"
    assert set(complaints(machine)) <= usual
    assert machine.run(["cloud-init", "status", "--wait"]).stdout.strip().endswith("status: done")


@pytest.mark.parametrize("module", ["runcmd", "bootcmd"])
def test_parbake_once_called_by_cloud_init_does_not_wait_for_itself(
    without_service: Image, usual: frozenset[str], machines: Machines, module: str
) -> None:
    """`parbake once` from user-data converges and ends, whether the application is already up or not."""
    machine = machines(without_service)
    machine.seed(user_data=FACTS.replace("#cloud-config\n", f"#cloud-config\n{module}: [[parbake, once]]\n"))
    machine.boot()
    # bootcmd comes before write_files; runcmd after everything, when the application has started once already.
    expected = {"runcmd": ["from the image", "from staging"], "bootcmd": ["from dev"]}[module]
    assert starts(machine) == expected
    assert set(complaints(machine)) <= usual


@pytest.mark.parametrize("module", ["runcmd", "bootcmd"])
def test_parbake_once_beside_the_service_changes_nothing_for_the_application(
    baked: Image, usual: frozenset[str], machines: Machines, module: str
) -> None:
    """With the service enabled too there is no deadlock, and the application starts once, on the run config."""
    machine = machines(baked)
    machine.seed(user_data=FACTS.replace("#cloud-config\n", f"#cloud-config\n{module}: [[parbake, once]]\n"))
    machine.boot()
    assert starts(machine) == ["from staging"]
    assert set(complaints(machine)) <= usual


def test_the_cloud_init_module_takes_a_key_from_the_image(integrated: Image, usual: frozenset[str], machines: Machines) -> None:
    """A key `parbake` in cloud.cfg.d becomes settings before the first convergence, on every boot, without a warning."""
    machine = machines(integrated)
    machine.write("/etc/cloud/cloud.cfg.d/96_site.cfg", "parbake: {facts: {environment: staging}}\n")
    machine.seed()
    machine.boot()
    assert starts(machine) == ["from staging"]
    assert set(complaints(machine)) <= usual
    settled(machine)
    machine.reboot()
    assert starts(machine) == ["from staging"] * 2
    assert set(complaints(machine)) <= usual


def test_the_cloud_init_module_takes_a_key_from_user_data(
    integrated: Image, usual: frozenset[str], machines: Machines, suite: str
) -> None:
    """A key `parbake` in user-data works on both. Debian 13's cloud-init warns that its schema lacks the key."""
    machine = machines(integrated)
    machine.seed(user_data="#cloud-config\nparbake: {facts: {environment: staging}}\n")
    machine.boot()
    assert starts(machine) == ["from staging"]
    more = set(complaints(machine)) - usual
    assert [line for line in more if SCHEMA not in line and line != "status exits 2"] == []
    assert bool(more) == (suite == "trixie")


def test_without_the_key_the_module_is_silent(integrated: Image, usual: frozenset[str], machines: Machines) -> None:
    """Without the key in user-data an instance boots as without the module."""
    machine = machines(integrated)
    machine.seed()
    machine.boot()
    assert starts(machine) == ["from dev"]
    assert set(complaints(machine)) <= usual


def test_a_part_of_user_data_becomes_settings(integrated: Image, usual: frozenset[str], machines: Machines) -> None:
    """A part of type text/x-parbake is a settings file at the first convergence of every boot, without a warning."""
    machine = machines(integrated)
    machine.seed(user_data=PARTS)
    machine.boot()
    assert starts(machine) == ["from staging"]
    assert set(complaints(machine)) <= usual
    settled(machine)
    machine.reboot()
    assert starts(machine) == ["from staging"] * 2


@pytest.mark.parametrize("switch", ["/etc/cloud/cloud-init.disabled", ""])
def test_a_machine_without_cloud_init_boots(
    baked: Image, suite: str, machines: Machines, session_scratch: Path, deb: Path, switch: str
) -> None:
    """With cloud-init disabled, or not installed, the machine converges on the other facts."""
    image = baked
    if not switch:
        bare = base_image(suite, [name for name in BASE_PACKAGES if name != "cloud-init"])
        image = prepared_image(bare, session_scratch, [deb], lambda root: finish(root, [["parbake", "bake"]]))
    machine = machines(image)
    if switch:
        machine.write(switch, "")
    machine.boot()
    assert starts(machine) == ["from dev"]
    assert state(machine) == "converged"
    assert not machine.exists("/run/cloud-init/instance-data.json")
