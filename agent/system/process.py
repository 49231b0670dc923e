"""Runs programs: limited in time and output, and without the environment of parbake."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LANG": "C.UTF-8", "HOME": "/root"}
OUTPUT_BYTES = 64 * 1024
_CANCEL_SECONDS = 0.5
"""How often `cancelled` is called."""


@dataclass(frozen=True, slots=True)
class ProcessResult:
    """The end of a program.

    `code` is None if the program did not start, was cancelled, or was killed at its time-out or output limit; negative for a
    signal. `output` is text for messages and may contain secrets: mask it before it is shown. `stdout` is set by a run with
    `stdout_max_bytes`.
    """

    code: int | None
    output: str = field(repr=False)
    stdout: bytes = field(default=b"", repr=False)
    too_large: bool = False
    started: bool = True

    @property
    def ok(self) -> bool:
        return self.code == 0


def run(
    argv: Sequence[str],
    timeout_seconds: float,
    cancelled: Callable[[], bool] = lambda: False,
    *,
    stdin: bytes = b"",
    stdout_max_bytes: int | None = None,
    environment: Mapping[str, str] = ENVIRONMENT,
) -> ProcessResult:
    """Run `argv` without a shell until it ends, `timeout_seconds` pass, or `cancelled` returns true.

    The whole process group is killed at the end, so that background processes of a check neither outlive nor delay it. The
    result has the last OUTPUT_BYTES of both outputs. With `stdout_max_bytes` it has the whole standard output instead, up to
    its end, and standard error is dropped; a program that prints more is killed.
    """
    keep_all = stdout_max_bytes is not None
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if keep_all else subprocess.STDOUT,
            env=dict(environment),
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return ProcessResult(None, f"{argv[0]}: {reason}", started=False)
    assert process.stdout is not None
    deadline = time.monotonic() + timeout_seconds
    exchange = _Exchange(process.stdout, process.stdin, stdin, stdout_max_bytes)
    with process.stdout, process.stdin or contextlib.nullcontext():
        try:
            ended = exchange.follow(process.pid, deadline, cancelled)
        finally:
            # before `wait`, so that the kernel cannot have given the group's number to another process
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if ended:
            exchange.drain()
    if exchange.too_large:
        return ProcessResult(None, f"printed more than {stdout_max_bytes} bytes, and was killed", too_large=True)
    if not ended:
        return ProcessResult(None, f"did not end after {timeout_seconds:g} s, and was killed")
    if keep_all:
        return ProcessResult(process.returncode, "", bytes(exchange.output))
    return ProcessResult(process.returncode, exchange.output.decode("utf-8", "replace").strip())


class _Exchange:
    """The input and output of a running program. `maximum` is in bytes; None keeps only the end of the output."""

    def __init__(self, stdout: IO[bytes], stdin: IO[bytes] | None, content: bytes, maximum: int | None) -> None:
        self._stdout, self._stdin, self._content, self._maximum = stdout, stdin, content, maximum
        self.output = bytearray()
        self.too_large = False
        for pipe in filter(None, (stdout, stdin)):
            os.set_blocking(pipe.fileno(), False)

    def follow(self, pid: int, deadline: float, cancelled: Callable[[], bool]) -> bool:
        """Read and write until the program ends; with a maximum, also until the end of its output.

        The output may outlast the program: a pipeline that a shell started may still write. Returns False at the deadline, if
        cancelled, or if the output is too large.
        """
        ended = os.pidfd_open(pid)
        is_running, is_open = True, True
        try:
            poll = select.poll()
            poll.register(ended, select.POLLIN)
            poll.register(self._stdout, select.POLLIN)
            if self._stdin is not None:
                poll.register(self._stdin, select.POLLOUT)
            while (left := deadline - time.monotonic()) > 0 and not cancelled() and not self.too_large:
                ready = dict(poll.poll(min(left, _CANCEL_SECONDS) * 1000))
                if ended in ready:
                    is_running = False
                    poll.unregister(ended)
                if self._stdout.fileno() in ready and self._read() == b"":
                    is_open = False
                    poll.unregister(self._stdout)
                if not is_running and (self._maximum is None or not is_open):
                    return True
                if self._stdin is not None and self._stdin.fileno() in ready and self._all_written():
                    poll.unregister(self._stdin)
                    self._stdin.close()
                    self._stdin = None
            return False
        finally:
            os.close(ended)

    def drain(self) -> None:
        """Read the rest of the pipe, without waiting for its end: a process in another session may keep it open."""
        for _ in range((self._maximum or 0) // OUTPUT_BYTES + 64):
            if not self._read() or self.too_large:
                break

    def _read(self) -> bytes | None:
        """Read once. Returns b"" at the end of the output, None if there is no output now."""
        try:
            chunk = os.read(self._stdout.fileno(), OUTPUT_BYTES)
        except BlockingIOError:
            return None
        self.output += chunk
        if self._maximum is None:
            del self.output[:-OUTPUT_BYTES]
        elif len(self.output) > self._maximum:
            self.too_large = True
        return chunk

    def _all_written(self) -> bool:
        """Write what fits into the pipe. Returns True if all is written, or if the program has closed its input."""
        assert self._stdin is not None
        try:
            sent = os.write(self._stdin.fileno(), self._content)
        except BlockingIOError:
            return False
        except OSError:
            return True
        self._content = self._content[sent:]
        return not self._content
