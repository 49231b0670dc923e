"""Run programs of the host, and the error that the lab raises."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class LabError(RuntimeError):
    """A program of the host, a boot, or a command in a machine failed."""


def call(
    argv: Sequence[str],
    *,
    timeout_seconds: float = 60.0,
    check: bool = True,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run `argv` to its end. Raises LabError if it is missing, takes too long, or (with `check`) fails."""
    try:
        done = subprocess.run(
            list(argv), input=stdin, capture_output=True, timeout=timeout_seconds, check=False, env=env, cwd=cwd
        )
    except FileNotFoundError as error:
        raise LabError(f"{argv[0]} is not installed: tests/apt-packages.txt lists what the lab needs") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{_shown(argv)} took more than {timeout_seconds:g} s\n{_text(error.stderr)}") from error
    result = subprocess.CompletedProcess(done.args, done.returncode, _text(done.stdout), _text(done.stderr))
    if check and result.returncode != 0:
        raise LabError(f"{_shown(argv)} exited with {result.returncode}\n{result.stdout}{result.stderr}".rstrip())
    return result


def _text(output: bytes | None) -> str:
    return (output or b"").decode(errors="replace")


def _shown(argv: Sequence[str]) -> str:
    line = " ".join(argv)
    return line if len(line) < 400 else line[:400] + " ..."
