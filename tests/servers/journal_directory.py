"""A journal directory of real journal files, written by systemd-journal-remote from the export format."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.servers.processes import ServerError

WRITER = Path("/lib/systemd/systemd-journal-remote")
BOOT = "0123456789abcdef0123456789abcdef"
_ARCHIVED = 2
"""The state in a journal file's header ("Journal File Format")."""
FIRST_US = 1_700_000_000_000_000
available = WRITER.exists() and shutil.which("journalctl") is not None


def entry(number: int, message: str | bytes, **fields: str) -> bytes:
    """An entry in the export format, a millisecond after the one before."""
    head = {
        "__REALTIME_TIMESTAMP": str(FIRST_US + number * 1000),
        "__MONOTONIC_TIMESTAMP": str(1_000_000 + number * 1000),
        "_BOOT_ID": BOOT,
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "app",
        "_HOSTNAME": "host1",
        "_PID": "100",
        "_SYSTEMD_UNIT": "app.service",
    } | fields
    text = "".join(f"{name}={value}\n" for name, value in head.items()).encode()
    raw = message.encode() if isinstance(message, str) else message
    return text + b"MESSAGE\n" + len(raw).to_bytes(8, "little") + raw + b"\n\n"


class JournalWriter:
    """`with JournalWriter(directory) as journal:` appends to DIRECTORY/system.journal until it is left."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [str(WRITER), "-o", str(directory / "system.journal"), "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def add(self, *entries: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"".join(entries))
        self._process.stdin.flush()

    def close(self) -> None:
        """All that was added is in the file when this returns. Raises ServerError."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self._process.stdin.close()
        if self._process.wait(60):
            raise ServerError(f"systemd-journal-remote ended with {self._process.returncode}")


def rotate_journal(directory: Path) -> None:
    """Archive the journal file as journald does, under its family, first number and first time; the next writer begins
    another. The writer must have ended."""
    path = directory / "system.journal"
    with path.open("r+b") as file:
        header = file.read(256)
        file.seek(16)
        file.write(bytes([_ARCHIVED]))
    number, first_us = (int.from_bytes(header[at : at + 8], "little") for at in (168, 184))
    path.rename(directory / f"system@{header[72:88].hex()}-{number:016x}-{first_us:016x}.journal")


def write_journal(
    directory: Path, messages: Sequence[str | bytes], first: int = 0, fields: Mapping[str, str] | None = None
) -> None:
    """Append messages, numbered from `first`."""
    with JournalWriter(directory) as journal:
        for number, message in enumerate(messages, first):
            journal.add(entry(number, message, **(fields or {})))
