"""SIGTERM while parbake waits for something that never answers: it ends at once, and leaves nothing half done."""

from __future__ import annotations

import fcntl
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Image
from tests.integration.daemon.test_loop import eventually

#: A stop takes at most 2 s. The rest is for a busy machine; without the stop event seven sources take over a minute.
STOP_SECONDS = 30
SOURCES = 7
TEMPLATE = '[[template]]\nsource = "a.j2"\ntarget = "/etc/app/a.conf"\n'
COMMANDS = pytest.mark.parametrize("command", ["run", "once"])
HANGING_PROVIDER = """\
import pathlib
import threading


class Hanging:
    def discover(self, context):
        pathlib.Path(MARKER).touch()
        threading.Event().wait()
"""


class HangingServer:
    """A TCP server that accepts every connection and never answers. `connected` is set by the first connection."""

    def __init__(self) -> None:
        self.connected = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> HangingServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.recv(65536)
            self._connections.append(connection)
            self.connected.set()


@pytest.fixture
def server() -> Iterator[HangingServer]:
    with HangingServer() as running:
        yield running


def sources(url: str, count: int) -> str:
    tables = (f'[[source]]\nname = "s{number}"\nbackend = "http"\nurl = "{url}/{number}"\n' for number in range(count))
    return "".join(tables)


def stop(process: subprocess.Popen[str]) -> str:
    """Send SIGTERM and return the standard error. Fails if the process still runs after STOP_SECONDS."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.communicate(timeout=STOP_SECONDS)[1]
    except subprocess.TimeoutExpired:
        pytest.fail(f"still running {STOP_SECONDS} s after SIGTERM")


@contextmanager
def started(image: Image, command: str, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    process = image.start(command, environment=environment)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def check_stopped(image: Image, command: str, process: subprocess.Popen[str], errors: str) -> None:
    """Check that the stopped process reported no bug, and left neither a target nor a half-written file."""
    if command == "run":
        assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert not image.path("/etc/app/a.conf").exists()
    assert image.leftovers() == []


@COMMANDS
def test_a_stop_does_not_wait_for_sources_that_hang(image: Image, server: HangingServer, command: str) -> None:
    """Seven sources accept the request and never answer, each with a time-out of 10 s: SIGTERM ends the pull of them all."""
    image.settings(sources(server.url, SOURCES) + TEMPLATE, site=False)
    image.template("a.j2", "{{ config.v }}\n")
    with started(image, command) as process:
        assert server.connected.wait(60)
        errors = stop(process)
    check_stopped(image, command, process, errors)


def test_a_stop_does_not_wait_for_sources_that_hang_after_a_convergence(image: Image, server: HangingServer) -> None:
    """A daemon that starts with an applied generation, and whose sources then hang, stops as fast. The target stays."""
    image.settings(TEMPLATE)
    image.template("a.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\n')
    assert image.run("once").code == 0
    image.settings(sources(server.url, SOURCES) + TEMPLATE)
    with started(image, "run") as process:
        assert server.connected.wait(60)
        errors = stop(process)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert image.read("/etc/app/a.conf") == "one\n"
    assert image.leftovers() == []


@COMMANDS
def test_a_stop_does_not_wait_for_a_discovery_that_hangs(image: Image, tmp_path: Path, command: str) -> None:
    """A provider of a third party that never returns keeps neither the daemon nor `once` from stopping."""
    marker = tmp_path / "asked"
    (tmp_path / "hanging.py").write_text(HANGING_PROVIDER.replace("MARKER", repr(str(marker))))
    discovery = '[discovery]\nproviders = ["hanging:Hanging"]\ntimeout = "60s"\n'
    image.settings(TEMPLATE)
    settings = image.read("/etc/parbake/parbake.toml").replace("[discovery]\nproviders = []\n", discovery)
    image.write("/etc/parbake/parbake.toml", settings)
    image.template("a.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\n')
    with started(image, command, {"PYTHONPATH": str(tmp_path)}) as process:
        eventually(marker.exists)
        errors = stop(process)
    check_stopped(image, command, process, errors)


@COMMANDS
def test_a_stop_does_not_wait_for_the_lock(image: Image, command: str) -> None:
    """A parbake that waits for another one to converge stops while the other one still holds the lock."""
    image.settings(TEMPLATE)
    image.template("a.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\n')
    assert image.run("once").code == 0
    image.site("common", 'v = "two"\n')
    with open(image.path("/run/parbake/lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with started(image, command) as process:
            assert process.stderr is not None
            assert "waiting for another parbake" in process.stderr.readline()
            errors = stop(process)
    if command == "run":
        assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert image.read("/etc/app/a.conf") == "one\n"
    assert image.leftovers() == []
