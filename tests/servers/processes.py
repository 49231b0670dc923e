"""A server process that a test owns: started, watched and ended by its pid, and by nothing wider."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


class ServerError(RuntimeError):
    """A test's server did not start, did not answer in time, or refused what it was told."""


def wait_until(check: Callable[[], bool], timeout_seconds: float, what: str, interval_seconds: float = 0.05) -> None:
    """Poll `check` until it is true; raises ServerError naming `what` after `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    while not check():
        if time.monotonic() > deadline:
            raise ServerError(f"waited {timeout_seconds:g} s in vain: {what}")
        time.sleep(interval_seconds)


def free_port(address: str = "127.0.0.1") -> int:
    """Return a TCP port of `address` that is not in use and that no worker of this test run has been given before.

    The port is below the range that the kernel uses for outgoing connections, so none of those takes it.
    """
    ports = _ports_of_worker()
    while True:
        port = random.choice(ports)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((address, port))
            if port not in _given:
                _given.add(port)
                return port


_given: set[int] = set()


def _ports_of_worker() -> range:
    """Return this pytest-xdist worker's share of the ports: two workers that choose at random may choose the same one."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = 22_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return range(10_000 + number * size, 10_000 + (number + 1) * size)


class Child:
    """One process started from `argv`, its output in the file `log`. It dies with the test run.

    `prefix` is put before `argv` and must exec it, as `ip netns exec NAME` does, so that the pid is the server's own.
    """

    def __init__(
        self, argv: Sequence[str], log: Path, *, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.argv = tuple(argv)
        self.log = log
        # A test run that is killed outright runs no cleanup; the kernel then ends its servers.
        guard = ("setpriv", "--pdeathsig", "KILL", "--")
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*guard, *prefix, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""
        return self._process.poll()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after `timeout_seconds`. A process that has ended is left alone."""
        if not self.alive:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, and the corpse reaped."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(10)

    def pause(self) -> None:
        """SIGSTOP, waited for in every thread: the port still accepts, nothing is answered any more."""
        self._process.send_signal(signal.SIGSTOP)
        wait_until(lambda: set(self._thread_states()) == {"T"}, 5.0, f"all threads of {self.pid} to stop")

    def resume(self) -> None:
        """SIGCONT after `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def _thread_states(self) -> list[str]:
        states = []
        for thread in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # a thread may end between the listing and the reading
                states.append(thread.read_text().rpartition(")")[2].split()[0])
        return states

    def log_tail(self, lines: int = 20) -> str:
        """The last `lines` of what the process printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_ready(self, check: Callable[[], bool], timeout_seconds: float, what: str) -> None:
        """Poll `check`; raises ServerError with the process's own output when it ends or does not get ready."""

        def ready() -> bool:
            if not self.alive:
                raise ServerError(f"{what}: {self.argv[0]} ended with {self.returncode}:\n{self.log_tail()}")
            return check()

        try:
            wait_until(ready, timeout_seconds, what)
        except ServerError as error:
            raise ServerError(f"{error}\n{self.log_tail()}") from None
