"""`exec`: a program that prints a layer as a JSON object, for stores that have no backend here."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext, decoding, key_tree

MOST_BYTES = 32 << 20
DENIED = 77  # EX_NOPERM of sysexits.h
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/root"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOptions:
    command: tuple[str, ...] = setting("the program and its arguments; the layer is appended as the last one")

    def __post_init__(self) -> None:
        if not self.command or not self.command[0].startswith("/"):
            raise ValueError("command must begin with the absolute path of a program")


class ExecSource:
    """Exit 0 and an object: the layer. Exit 0 and nothing: no such layer. 77: denied. Any other: unavailable.

    Standard error is not read, since it may hold what must not be logged; none of parbake's environment is passed on.
    """

    options_class: ClassVar[type[Any]] = ExecOptions

    def __init__(self, options: ExecOptions, context: SourceContext) -> None:
        self._command = options.command
        self._seconds = context.timeout_seconds
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._seconds
        read = []
        for layer in layers:
            where = f'the output of {self._command[0]} for layer "{layer}"'
            output = self._run(layer, where, deadline)
            tree = decoding.parse(output, "JSON", where) if output.strip() not in (b"", b"null") else None
            read.append(Layer(layer, tree, key_tree.digest(output)))
        return Snapshot(tuple(read), key_tree.combined(read))

    def _run(self, layer: str, where: str, deadline: float) -> bytes:
        if self._closed:
            raise SourceUnreachable(f"{self._command[0]}: closed")
        argv = [*self._command, layer]
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "the layer holds a NUL"
            raise SourceUnreachable(f"{self._command[0]} cannot be run: {reason}") from None
        self._process = process
        try:
            output = _read(process, where, deadline)
            code = process.wait(max(0.1, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            raise SourceUnreachable(f"{where} did not end in {self._seconds:g} s, and was killed") from None
        finally:
            _end(process)
        if code == DENIED:
            raise SourceDenied(f"{where}: it exits with {DENIED}, which is permission denied")
        if code != 0:
            raise SourceUnreachable(f"{where}: it exits with {code}", hint=f"run it by hand: {' '.join(argv)}")
        return output

    def close(self) -> None:
        self._closed = True
        if self._process is not None:
            _end(self._process)


def _read(process: subprocess.Popen[bytes], where: str, deadline: float) -> bytes:
    """Standard output to its end. Raises TimeoutError, and SourceInvalid for an output without an end."""
    assert process.stdout is not None
    output = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            if not chunk:
                return bytes(output)
            output += chunk
            if len(output) > MOST_BYTES:
                raise SourceInvalid(f"{where} is larger than {MOST_BYTES} bytes")


def _end(process: subprocess.Popen[bytes]) -> None:
    """The whole group, so that a child that was left in the background does not pile up with every poll."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
