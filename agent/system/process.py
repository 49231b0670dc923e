"""Programs run on behalf of the settings: bounded in time and output, with nothing of parbake's environment in theirs."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OUTPUT_BYTES = 64 * 1024
_CUT_SECONDS = 1.0
"""How often `cut` is asked."""


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """How a program ended. `code` is None where it did not start or was killed for its time-out; `output` is the end of
    what it printed, standard output and standard error together, and may hold secrets: mask it before it is shown."""

    code: int | None
    output: str = field(repr=False)
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        return self.code == 0


def run(argv: Sequence[str], timeout_seconds: float, cut: Callable[[], bool] = lambda: False) -> ProcessResult:
    """Run `argv` without a shell, until it ends, its time is up, or `cut` says so. Its whole process group is killed then:
    what a check left in the background neither outlives it nor holds it up."""
    environment = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"}
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return ProcessResult(None, f"{argv[0]}: {reason}")
    assert process.stdout is not None
    with process.stdout as pipe:
        os.set_blocking(pipe.fileno(), False)
        try:
            ended, output = _follow(process.pid, pipe.fileno(), time.monotonic() + timeout_seconds, cut)
        finally:
            # before it is waited for, so that the number of the group cannot be another's yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if not ended:
            return ProcessResult(None, f"no end after {timeout_seconds:g} s, killed", timed_out=True)
        output = _drained(pipe.fileno(), output)
    return ProcessResult(process.returncode, output.decode("utf-8", "replace").strip())


def _follow(pid: int, pipe: int, deadline: float, cut: Callable[[], bool]) -> tuple[bool, bytes]:
    """Read until the program ends: (True, the end of its output), or until the deadline or `cut`: (False, ...)."""
    output = b""
    ended = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.register(pipe, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and not cut():
            ready = dict(poll.poll(min(left, _CUT_SECONDS) * 1000))
            if ended in ready:
                return True, output
            if pipe in ready:
                chunk = _read(pipe)
                if chunk == b"":  # it closed its output, and goes on
                    poll.unregister(pipe)
                output = (output + (chunk or b""))[-OUTPUT_BYTES:]
        return False, output
    finally:
        os.close(ended)


def _drained(pipe: int, output: bytes) -> bytes:
    """What still stands in the pipe. Its end is not waited for: a process in a session of its own may hold it open."""
    for _ in range(64):
        chunk = _read(pipe)
        if not chunk:
            break
        output = (output + chunk)[-OUTPUT_BYTES:]
    return output


def _read(pipe: int) -> bytes | None:
    try:
        return os.read(pipe, OUTPUT_BYTES)
    except BlockingIOError:
        return None
