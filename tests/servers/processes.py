"""Server processes of tests: each is started, watched and ended by its pid."""

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
    """The server of a test did not start, did not answer in time, or refused a request."""


def wait_until(check: Callable[[], bool], timeout_seconds: float, awaited: str, interval_seconds: float = 0.05) -> None:
    """Poll `check` until it returns true. Raises ServerError, which names `awaited`, after `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    while not check():
        if time.monotonic() > deadline:
            raise ServerError(f"waited {timeout_seconds:g} s in vain: {awaited}")
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
            if port not in _returned:
                _returned.add(port)
                return port


_returned: set[int] = set()


def _ports_of_worker() -> range:
    """Return this pytest-xdist worker's share of the ports: two workers that choose at random may choose the same one."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    size = 22_000 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    return range(10_000 + number * size, 10_000 + (number + 1) * size)


class Child:
    """One process of `argv` with its output in the file `log`. It ends with the test run.

    `prefix` is put before `argv` and must exec it, as `ip netns exec NAME` does, so that the pid is that of the server.
    """

    def __init__(
        self, argv: Sequence[str], log: Path, *, prefix: Sequence[str] = (), env: Mapping[str, str] | None = None
    ) -> None:
        self.argv = tuple(argv)
        self.log = log
        # A test run that is killed cannot clean up. The kernel ends its servers then.
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
        """Send SIGTERM, and SIGKILL after `timeout_seconds`. Does nothing if the process has ended."""
        if not self.alive:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(10)

    def pause(self) -> None:
        """Send SIGSTOP and wait until all threads are stopped. The port still accepts connections, and nothing answers."""
        self._process.send_signal(signal.SIGSTOP)
        wait_until(lambda: set(self._thread_states()) == {"T"}, 5.0, f"all threads of {self.pid} to stop")

    def resume(self) -> None:
        """Send SIGCONT, after `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def _thread_states(self) -> list[str]:
        states = []
        for thread in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(OSError):  # a thread may end between the listing and the reading
                states.append(thread.read_text().rpartition(")")[2].split()[0])
        return states

    def log_tail(self, lines: int = 20) -> str:
        """Return the last `lines` of the output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait_ready(self, check: Callable[[], bool], timeout_seconds: float, awaited: str) -> None:
        """Poll `check`. Raises ServerError with the output of the process if it ends or is not ready in time."""

        def ready() -> bool:
            if not self.alive:
                raise ServerError(f"{awaited}: {self.argv[0]} ended with {self.returncode}:\n{self.log_tail()}")
            return check()

        try:
            wait_until(ready, timeout_seconds, awaited)
        except ServerError as error:
            raise ServerError(f"{error}\n{self.log_tail()}") from None
