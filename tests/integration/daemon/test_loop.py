"""The daemon below --root with the file source: changes, storms of changes, signals, and kill -9."""

from __future__ import annotations

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
    """Two targets of one group, long enough that a half-written one shows."""
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


def eventually(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until `condition` is true. A file that is missing or lacks a key counts as false until the time is up."""
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (OSError, ValueError, KeyError):
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def wait_for_line(process: subprocess.Popen[str], text: str, seconds: float = 60) -> str:
    """Read the standard error up to the first line with `text`, and return that line."""
    assert process.stderr is not None
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    try:
        lines = []
        for line in process.stderr:
            if text in line:
                return line
            lines.append(line)
        raise AssertionError(f"no line with {text!r} in {lines}")
    finally:
        timer.cancel()


def holds(image: Image, value: str) -> bool:
    return all(image.read(f"/etc/app/{name}.conf").endswith(f"end {value}\n") for name in "ab")


def number(image: Image) -> int:
    generation: int = image.status()["generation"]
    return generation


def test_a_change_is_seen(pair: Image) -> None:
    """INTERFACE section 5: `run` converges and then watches: a changed key reaches its target by itself."""
    with daemon(pair):
        eventually(lambda: pair.status()["state"] == "converged")
        pair.site("common", 'v = "two"\n')
        eventually(lambda: holds(pair, "two") and number(pair) == 2)
        assert Generations(Paths(pair.root), 100, "plain").all()[-1].cause == "source site"
        digest = pair.status()["digest"]
        pair.site("common", 'v = "two"\nunrelated = 1\n')
        eventually(lambda: pair.status()["digest"] != digest and pair.status()["state"] == "converged")
        assert number(pair) == 2, "an unrelated key made a generation"


def test_a_storm_of_changes(pair: Image) -> None:
    """A storm of 1,000 changes within some seconds makes a handful of generations. The last value is applied."""
    with daemon(pair):
        eventually(lambda: pair.status()["state"] == "converged")
        for value in range(1, 1001):
            pair.site("common", f'v = "{value}"\n')
            time.sleep(0.005)
        eventually(lambda: holds(pair, "1000"))
        eventually(lambda: pair.status()["state"] == "converged" and number(pair) >= 2)
        assert number(pair) <= 10


def test_changes_closer_together_than_settle_are_one_generation(pair: Image) -> None:
    """INTERFACE section 3: changes closer together than `settle` are one generation, however many there are, and also if
    one comes just after a look at the source. The pauses leave a busy machine two seconds."""
    pair.write("/etc/parbake/conf.d/watch.toml", '[watch]\nsettle = "6s"\nsettle_max = "90s"\n')
    with daemon(pair):
        eventually(lambda: pair.status()["state"] == "converged")
        for value, pause in enumerate((3.9, 0.2, 0.3, 3.9, 0.2, 0.0)):
            pair.site("common", f'v = "{value}"\n')
            time.sleep(pause)
        eventually(lambda: holds(pair, "5"))
        eventually(lambda: pair.status()["state"] == "converged" and number(pair) >= 2)
        time.sleep(1.0)
        assert number(pair) == 2


def test_hangup_converges_now_and_reads_the_settings(pair: Image) -> None:
    """SIGHUP reads the settings and converges at once. Invalid settings leave the previous ones in use."""
    with daemon(pair) as process:
        eventually(lambda: pair.status()["state"] == "converged")
        pair.template("c.j2", "c\n")
        pair.write("/etc/parbake/conf.d/c.toml", '[[template]]\nsource = "c.j2"\ntarget = "/etc/app/c.conf"\n')
        process.send_signal(signal.SIGHUP)
        eventually(lambda: pair.read("/etc/app/c.conf") == "c\n")
        pair.write("/etc/parbake/conf.d/d.toml", "[nonsense]\n")
        process.send_signal(signal.SIGHUP)
        wait_for_line(process, "nonsense")
        pair.site("common", 'v = "after"\n')
        eventually(lambda: holds(pair, "after"))
        assert process.poll() is None


def test_termination_ends_it_well(pair: Image) -> None:
    """SIGTERM in the middle of a change: exit 0, and nothing is half done."""
    with daemon(pair) as process:
        eventually(lambda: pair.status()["state"] == "converged")
        pair.site("common", 'v = "two"\n')
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert holds(pair, "two") or holds(pair, "start")
    assert pair.leftovers() == []


def test_termination_while_there_is_no_source(pair: Image) -> None:
    """A daemon that waits for its source stops at once. Its status names the source."""
    pair.path("/site/common.toml").unlink()
    with daemon(pair) as process:
        eventually(lambda: pair.status()["state"] == "failed")
        assert "site" in pair.status()["error"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_commands_by_hand_beside_the_daemon(pair: Image) -> None:
    """The daemon does not take a rollback by hand for drift. The status shows the hold until `resume`."""
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
        eventually(lambda: pair.status()["state"] == "converged")
        for _ in range(14):
            time.sleep(0.5)
            assert "hold" not in pair.status()
            assert pair.status()["state"] == "converged"


def test_a_source_that_comes_back(pair: Image) -> None:
    """While its source is unavailable the instance stays unchanged and `stale`; once the source is back it converges."""
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


def test_a_changed_key_repairs_invalid_data(pair: Image) -> None:
    """A group waits for a missing key, which the status names. Setting the key converges."""
    with daemon(pair):
        eventually(lambda: pair.status()["state"] == "converged")
        pair.site("common", "w = 1\n")
        eventually(lambda: pair.status()["state"] == "failed")
        assert "config.v is not set" in pair.status()["error"]
        assert [t["state"] for t in pair.status()["templates"]] == ["waiting", "waiting"]
        assert holds(pair, "start")
        pair.site("common", 'v = "cured"\n')
        eventually(lambda: pair.status()["state"] == "converged" and holds(pair, "cured"))


def test_systemd_is_notified(pair: Image, tmp_path: Path) -> None:
    """READY comes after the first convergence and not before, the watchdog is fed, and STOPPING comes at the end."""
    pytest.importorskip("systemd.daemon")
    address = str(tmp_path / "notify")
    if len(address) > 100:
        pytest.skip("the path is too long for a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        server.settimeout(60)
        environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"}
        pair.path("/site/common.toml").unlink()
        with daemon(pair, environment) as process:
            eventually(lambda: pair.status()["state"] == "failed")
            before = _messages(server, "STATUS=failed")
            assert not [text for text in before if "READY=1" in text], "READY without a convergence"
            pair.site("common", 'v = "x"\n')
            after = _messages(server, "READY=1")
            assert holds(pair, "x")
            assert [text for text in before + after if "WATCHDOG=1" in text]
            process.send_signal(signal.SIGTERM)
            _messages(server, "STOPPING=1")
            assert process.wait(60) == 0


def _messages(server: socket.socket, last: str) -> list[str]:
    """Receive messages up to and including the first one with `last` in it."""
    messages: list[str] = []
    while not messages or last not in messages[-1]:
        messages.append(server.recv(4096).decode())
    return messages


class Reader:
    """A thread that reads both targets all the time, as a service might, and records torn ones."""

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
    """kill -9 at any moment: a reader never sees a torn or empty target, no start leaves the group mixed, and at the end the
    last value is applied and nothing is left over. PARBAKE_KILL_ROUNDS sets the rounds (60)."""
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
    generations = Generations(Paths(pair.root), 100, "encrypted")
    last = generations.last()
    assert last is not None
    assert generations.content(last.number)["a.conf"] == pair.path("/etc/app/a.conf").read_bytes()
    json.dumps(pair.status())
