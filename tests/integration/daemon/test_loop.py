"""The daemon below --root, with the file source: what it does with changes, storms, signals, and being killed."""

from __future__ import annotations

import fcntl
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.paths import Paths
from agent.state.generations import Generations
from tests.conftest import Image

ROUNDS = int(os.environ.get("PARBAKE_KILL_ROUNDS", "60"))
SETTINGS = """
[state]
generations = 100
[[template]]
source = "a.j2"
target = "/etc/app/a.conf"
[[template]]
source = "b.j2"
target = "/etc/app/b.conf"
"""


@pytest.fixture
def pair(image: Image) -> Image:
    """Two targets of one group, long enough that a torn one would show."""
    image.settings(SETTINGS)
    for name in "ab":
        image.template(f"{name}.j2", "{% for _ in range(2000) %}\n{{ config.v }}\n{% endfor %}\nend {{ config.v }}\n")
    image.site("common", 'v = "start"\n')
    return image


@contextmanager
def daemon(image: Image, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    process = image.start("run", environment=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def eventually(what: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if what():
                return
        except (OSError, ValueError, KeyError):
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def holds(image: Image, value: str) -> bool:
    return all(image.read(f"/etc/app/{name}.conf").endswith(f"end {value}\n") for name in "ab")


def number(image: Image) -> int:
    found: int = image.status()["generation"]
    return found


def test_a_change_is_seen(pair: Image) -> None:
    """INTERFACE 5: `run` converges and then watches: a changed key reaches its target by itself."""
    with daemon(pair):
        eventually(lambda: pair.status()["state"] == "converged")
        pair.site("common", 'v = "two"\n')
        eventually(lambda: holds(pair, "two") and number(pair) == 2)
        assert Generations(Paths(pair.root), 100, "plain").all()[-1].cause == "source site"
        pair.site("common", 'v = "two"\nunrelated = 1\n')
        time.sleep(1.5)
        assert number(pair) == 2, "an unrelated key made a generation"


def test_a_storm_of_changes(pair: Image) -> None:
    """Issue 5: a storm of 1,000 changes in some seconds gives a handful of generations, and the last value."""
    with daemon(pair):
        eventually(lambda: pair.status()["state"] == "converged")
        for value in range(1, 1001):
            pair.site("common", f'v = "{value}"\n')
            time.sleep(0.005)
        eventually(lambda: holds(pair, "1000"))
        eventually(lambda: pair.status()["state"] == "converged")
        assert 2 <= number(pair) <= 10


def test_changes_closer_together_than_settle_are_one_generation(pair: Image) -> None:
    """INTERFACE 3: changes closer together than `settle` are one generation, however many there are, and also where one
    comes just after the source was looked at. The pauses leave a busy machine more than a second."""
    pair.write("/etc/parbake/conf.d/watch.toml", '[watch]\nsettle = "4s"\nsettle_max = "60s"\n')
    with daemon(pair):
        eventually(lambda: pair.status()["state"] == "converged")
        for value, pause in enumerate((2.6, 0.2, 0.3, 2.6, 0.2, 0.0)):
            pair.site("common", f'v = "{value}"\n')
            time.sleep(pause)
        eventually(lambda: holds(pair, "5"))
        eventually(lambda: pair.status()["state"] == "converged" and number(pair) >= 2)
        time.sleep(1.0)
        assert number(pair) == 2


def test_hangup_converges_now_and_reads_the_settings(pair: Image) -> None:
    """Issue 5: SIGHUP = converge now, with the settings as they are now; broken ones leave the old in use."""
    with daemon(pair) as process:
        eventually(lambda: pair.status()["state"] == "converged")
        pair.template("c.j2", "c\n")
        pair.write("/etc/parbake/conf.d/c.toml", '[[template]]\nsource = "c.j2"\ntarget = "/etc/app/c.conf"\n')
        process.send_signal(signal.SIGHUP)
        eventually(lambda: pair.read("/etc/app/c.conf") == "c\n")
        pair.write("/etc/parbake/conf.d/d.toml", "[nonsense]\n")
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        pair.site("common", 'v = "after"\n')
        eventually(lambda: holds(pair, "after"))
        assert process.poll() is None


def test_termination_ends_it_well(pair: Image) -> None:
    """Issue 5: SIGTERM = finish or undo, and stop: exit 0, nothing half done."""
    with daemon(pair) as process:
        eventually(lambda: pair.status()["state"] == "converged")
        pair.site("common", 'v = "two"\n')
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert holds(pair, "two") or holds(pair, "start")
    assert pair.leftovers() == []


def test_termination_while_there_is_no_source(pair: Image) -> None:
    """A daemon that waits for its source is stopped at once, and has said what it waits for."""
    pair.path("/site/common.toml").unlink()
    with daemon(pair) as process:
        eventually(lambda: pair.status()["state"] == "failed")
        assert "site" in pair.status()["error"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_a_stop_does_not_wait_for_another_parbake(pair: Image) -> None:
    """A daemon that waits for a convergence by hand stays alive for its watchdog, and ends when it is told to."""
    assert pair.run("once").code == 0
    with open(pair.path("/run/parbake/lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with daemon(pair) as process:
            assert process.stderr is not None
            assert "waiting for another parbake" in process.stderr.readline()
            process.terminate()
            assert process.wait(30) == 0


def test_commands_by_hand_beside_the_daemon(pair: Image) -> None:
    """A rollback by hand is no drift to the daemon, and what status says of the hold stays true until `resume`."""
    with daemon(pair):
        eventually(lambda: holds(pair, "start"))
        pair.site("common", 'v = "second"\n')
        eventually(lambda: holds(pair, "second") and pair.status()["generation"] == 2)
        assert pair.run("rollback", "1").code == 0
        pair.site("common", 'v = "third"\n')
        for _ in range(14):
            time.sleep(0.5)
            assert (pair.status()["hold"], pair.status()["state"]) == (1, "rolled-back")
            assert {row["state"] for row in pair.status()["templates"]} == {"current"}
        assert holds(pair, "start")
        assert pair.run("resume").code == 0
        eventually(lambda: holds(pair, "third"))
        for _ in range(14):
            time.sleep(0.5)
            assert "hold" not in pair.status()
            assert pair.status()["state"] == "converged"


def test_a_source_that_comes_back(pair: Image) -> None:
    """Issue 2: back again, it converges by itself; away, it stays as it is and says stale."""
    pair.path("/site/common.toml").unlink()
    with daemon(pair):
        eventually(lambda: pair.status()["state"] == "failed")
        pair.site("common", 'v = "there"\n')
        eventually(lambda: pair.status()["state"] == "converged")
        assert holds(pair, "there")
        pair.path("/site/common.toml").unlink()
        eventually(lambda: pair.status()["state"] == "stale")
        assert holds(pair, "there")
        pair.site("common", 'v = "again"\n')
        eventually(lambda: pair.status()["state"] == "converged" and holds(pair, "again"))


def test_wrong_data_is_cured_by_a_change(pair: Image) -> None:
    """Issue 5: a missing key holds up the group and is named in status; setting it converges."""
    with daemon(pair):
        eventually(lambda: pair.status()["state"] == "converged")
        pair.site("common", "w = 1\n")
        eventually(lambda: pair.status()["state"] == "failed")
        assert "config.v is not set" in pair.status()["error"]
        assert [t["state"] for t in pair.status()["templates"]] == ["waiting", "waiting"]
        assert holds(pair, "start")
        pair.site("common", 'v = "cured"\n')
        eventually(lambda: pair.status()["state"] == "converged" and holds(pair, "cured"))


def test_systemd_is_told(pair: Image, tmp_path: Path) -> None:
    """Issue 2: READY after the first convergence and not before, the watchdog from the loop, STOPPING at the end."""
    pytest.importorskip("systemd.daemon")
    address = str(tmp_path / "notify")
    if len(address) > 100:
        pytest.skip("the path is too long for a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(address)
        told.settimeout(20)
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"}
        pair.path("/site/common.toml").unlink()
        with daemon(pair, environment) as process:
            eventually(lambda: pair.status()["state"] == "failed")
            before = _told(told, "STATUS=failed")
            assert not [text for text in before if "READY=1" in text], "READY without a convergence"
            pair.site("common", 'v = "x"\n')
            until = _told(told, "READY=1")
            assert holds(pair, "x")
            assert [text for text in before + until if "WATCHDOG=1" in text]
            process.send_signal(signal.SIGTERM)
            _told(told, "STOPPING=1")
            assert process.wait(20) == 0


def _told(server: socket.socket, word: str) -> list[str]:
    found: list[str] = []
    while not found or word not in found[-1]:
        found.append(server.recv(4096).decode())
    return found


class Reader:
    """A service that reads its targets all the time, as they are under their names."""

    def __init__(self, image: Image) -> None:
        self._paths = [image.path(f"/etc/app/{name}.conf") for name in "ab"]
        self._stop = threading.Event()
        self.reads = 0
        self.torn: list[str] = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _read(self) -> None:
        while not self._stop.is_set():
            for path in self._paths:
                lines = path.read_text().splitlines()
                self.reads += 1
                if len(lines) != 2001 or len({*lines[:-1], lines[-1].removeprefix("end ")}) != 1:
                    self.torn.append(f"{path.name}: {len(lines)} lines, {sorted(set(lines))[:3]}")
            time.sleep(0.001)


@pytest.mark.parametrize("command", ["once", "run"])
def test_killed_again_and_again(pair: Image, command: str) -> None:
    """Promise 1, with kill -9 at any moment: a reader never sees a torn or empty target, no start leaves the group mixed,
    and at the end the last value is there with nothing left over. PARBAKE_KILL_ROUNDS rounds (60)."""
    chance = random.Random(command)
    rounds = ROUNDS if command == "once" else ROUNDS // 3
    assert pair.run("once").code == 0
    with Reader(pair) as reader:
        for turn in range(rounds):
            pair.site("common", f'v = "{command}{turn}"\n')
            process = pair.start(command)
            time.sleep(chance.uniform(0.1, 0.6))
            process.kill()
            process.communicate()
            if turn % 10 == 9:
                assert pair.run("once").code == 0
                assert holds(pair, f"{command}{turn}")
        assert pair.run("once").code == 0
    assert reader.torn == []
    assert reader.reads > rounds
    assert holds(pair, f"{command}{rounds - 1}")
    assert pair.leftovers() == []
    kept = Generations(Paths(pair.root), 100, "encrypted")
    last = kept.last()
    assert last is not None
    assert kept.content(last.number)["a.conf"] == pair.path("/etc/app/a.conf").read_bytes()
    json.dumps(pair.status())
