"""kill -9 of the daemon, many times, while a certificate, its key and the config that names them change together."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.conftest import Machines
from tests.image.haproxy import SOURCE
from tests.image.lab import Image, Machine, Network, prepared_image
from tests.image.observing import bake, history, leftovers, show, status, until
from tests.servers.consul import Consul

pytestmark = [
    pytest.mark.image,
    pytest.mark.root,
    pytest.mark.server,
    pytest.mark.parametrize("suite", ["bookworm"], indirect=True),
]

ROUNDS = int(os.environ.get("PARBAKE_KILL_ROUNDS", "60"))
NAMES = ("cert.pem", "key.pem", "app.conf")
LINES = 2000
# `settle_active = "0s"`: the daemon does not wait for the unit, so that commits take most of its time.
SETTINGS = (
    SOURCE
    + '[keys."serial"]\nrequired = true\n[watch]\nsettle = "10ms"\n[units]\nsettle_active = "0s"\n'
    + "".join(
        f'[[template]]\nsource = "{name}.j2"\ntarget = "/etc/app/{name}"\ngroup_name = "tls"\n'
        f'units = [{{ name = "app.service", action = "reload" }}]\n'
        for name in NAMES
    )
)
TEMPLATE = (
    f"{{% for n in range({LINES}) %}}\n{{{{ config.serial }}}} {{{{ n }}}}\n{{% endfor %}}\nend {{{{ config.serial }}}}\n"
)
SERVICE = "[Service]\nExecStart=sleep infinity\nExecReload=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
# Without a pause before the restart, which would cost two seconds in each round. HOLD keeps a new daemon from starting.
HOLD = "/run/hold-the-start"
RESTART = f"[Service]\nRestartSec=0\nExecStartPre=/bin/sh -c 'while [ -e {HOLD} ]; do sleep 0.01; done'\n"
# A file is complete if all its lines have the same serial and the last one starts with "end".
READER = f"""\
#!/usr/bin/python3
import json, os, time

def whole(text):
    lines = text.splitlines()
    serial = lines[-1].removeprefix("end ") if lines else ""
    return lines == [f"{{serial}} {{n}}" for n in range({LINES})] + [f"end {{serial}}"]

counts = {{"reads": 0, "torn": [], "missing": 0}}
while not os.path.exists("/run/reader.stop"):
    for name in {NAMES!r}:
        try:
            text = open(f"/etc/app/{{name}}").read()
        except FileNotFoundError:
            counts["missing"] += 1
            continue
        counts["reads"] += 1
        if not whole(text):
            counts["torn"].append([name, len(text), text[:40], text[-40:]])
    time.sleep(0.005)
with open("/run/reader.new", "w") as file:
    json.dump(counts, file)
os.rename("/run/reader.new", "/run/reader.json")
"""
# Waits for a file (the first candidate, or the journal of the commit) and kills a few milliseconds later.
AIMED_KILL = """\
#!/usr/bin/python3
import os, signal, sys, time
pid, path, delay = int(sys.argv[1]), sys.argv[2], float(sys.argv[3])
end = time.monotonic() + 2
while not os.path.exists(path) and time.monotonic() < end:
    pass
time.sleep(delay)
os.kill(pid, signal.SIGKILL)
"""


class Changes:
    """A thread that sets the key to a new serial all the time, except while `held` is taken."""

    def __init__(self, consul: Consul) -> None:
        self.serial = 0
        self._consul = consul
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._change)
        self.change()

    def change(self) -> None:
        with self._lock:
            self._consul.put("site/common/serial", str(self.serial + 1))
            self.serial += 1

    def __enter__(self) -> Changes:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def held(self) -> threading.Lock:
        return self._lock

    def _change(self) -> None:
        while not self._stopping.wait(0.02):
            self.change()


@pytest.fixture(scope="session")
def installed(bare_image: Image, session_scratch: Path, deb: Path) -> Image:
    """Debian with the package."""
    return prepared_image(bare_image, session_scratch, [deb])


@pytest.fixture
def machine(installed: Image, machines: Machines, network: Network) -> Machine:
    """A machine of three targets that are one group, not booted."""
    files = {f"/etc/parbake/templates/{name}.j2": TEMPLATE for name in NAMES}
    files |= {
        "/etc/parbake/parbake.toml": SETTINGS,
        "/etc/systemd/system/app.service": SERVICE,
        "/etc/systemd/system/parbake.service.d/restart.conf": RESTART,
        "/usr/local/bin/reader": READER,
        "/usr/local/bin/aimed-kill": AIMED_KILL,
    }
    made = bake(machines(installed, network=network), files)
    made.run(["systemctl", "enable", "app.service"])
    return made


@pytest.fixture
def changes(consul: Consul) -> Iterator[Changes]:
    with Changes(consul) as made:
        yield made


def serials(machine: Machine) -> set[str]:
    """Return the serials in the last lines of the three targets."""
    lines = machine.run(["tail", "-qn1", *(f"/etc/app/{name}" for name in NAMES)]).stdout
    return {line.removeprefix("end ") for line in lines.splitlines()}


def kill(machine: Machine, pid: str, chance: random.Random) -> None:
    """Send kill -9 at a random moment, or shortly after the first candidate or the journal of a commit appears."""
    aims = (None, "/etc/app/.cert.pem.parbake-new", "/var/lib/parbake/transaction")
    aim = chance.choice(aims)
    if aim is None:
        time.sleep(chance.uniform(0, 0.5))
        machine.run(["kill", "-9", pid], check=False)
    else:
        machine.run(["aimed-kill", pid, aim, f"{chance.uniform(0, 0.004):.6f}"], check=False)


def converged_again(machine: Machine, old: str) -> bool:
    """Return whether another daemon is ready, which it is only after its first convergence."""
    pid, state = machine.run(["systemctl", "show", "-P", "MainPID", "-P", "ActiveState", "parbake.service"]).stdout.split()
    return state == "active" and pid not in ("0", old)


def test_no_kill_tears_a_file_or_leaves_a_mixed_group(
    machine: Machine, changes: Changes, capsys: pytest.CaptureFixture[str]
) -> None:
    """A reader never sees a torn or a missing file, whenever the daemon is killed. The three files may be of two
    generations only between two renames of a commit, and after a kill there until the next start: once the daemon that
    started after a kill is ready, all three have the one serial that the store has."""
    machine.boot()
    machine.run(["systemd-run", "--quiet", "--unit=reader", "/usr/local/bin/reader"])
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    began = time.monotonic()
    mixed = 0
    for number in range(ROUNDS):
        pid = show(machine, "parbake.service", "MainPID")
        machine.run(["touch", HOLD])
        kill(machine, pid, chance)
        with changes.held():
            mixed += len(serials(machine)) > 1
            machine.run(["rm", HOLD])  # not earlier: it must not pull a serial that changes before it is ready
            assert until(lambda old=pid: converged_again(machine, old), pause_seconds=0.02), f"round {number}, seed {seed}"  # type: ignore[misc]
            assert serials(machine) == {str(changes.serial)}, f"round {number}, seed {seed}"
    seconds = time.monotonic() - began

    with changes.held():
        assert until(lambda: serials(machine) == {str(changes.serial)})
        assert until(lambda: status(machine)["state"] == "converged" and not leftovers(machine, "/etc/app"))
        assert {g["state"] for g in history(machine)} == {"applied"}
    machine.run(["touch", "/run/reader.stop"])
    assert until(lambda: machine.exists("/run/reader.json"))
    seen = json.loads(machine.read("/run/reader.json"))
    finished = machine.run(["journalctl", "-b", "-q", "-u", "parbake.service", "-g", "finishing generation"]).stdout.count("\n")
    with capsys.disabled():
        print(
            f"\n{ROUNDS} kills in {seconds:.0f} s, {changes.serial} changes: {finished} commits finished by the next start, "
            f"{mixed} of them seen half made; {seen['reads']} reads"
        )
    assert seen["torn"] == []
    assert seen["missing"] == 0
    assert seen["reads"] > ROUNDS
    # If no kill hit a commit the test shows nothing.
    assert finished > 0
