"""Programs run on behalf of the settings: bounded in time and output, with nothing of parbake's environment in theirs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OUTPUT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended. `code` is None where it did not start or was killed for its time-out; `output` is the end of
    what it printed, standard output and standard error together, and may hold secrets: mask it before it is shown."""

    code: int | None
    output: str = field(repr=False)
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        return self.code == 0


def run(argv: Sequence[str], timeout_seconds: float) -> Ran:
    """Run `argv` without a shell. On a time-out the whole process group is killed."""
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
        return Ran(None, f"{argv[0]}: {reason}")
    try:
        output, _ = process.communicate(timeout=timeout_seconds)
        return Ran(process.returncode, _tail(output))
    except subprocess.TimeoutExpired:
        return Ran(None, f"no end after {timeout_seconds:g} s, killed", timed_out=True)
    finally:
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """What a check left in the background must not outlive it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdout is not None:
        process.stdout.close()
    process.wait()


def _tail(output: bytes) -> str:
    return output[-OUTPUT_BYTES:].decode("utf-8", "replace").strip()
