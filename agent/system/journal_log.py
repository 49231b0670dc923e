"""The log of parbake: structured entries in the journal under systemd, plain lines elsewhere. It contains no value of a key."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

from agent.errors import ParbakeError, RolledBack

_JOURNAL_SOCKET = "/run/systemd/journal/socket"
FIELDS = ("PARBAKE_GENERATION", "PARBAKE_SOURCE", "PARBAKE_TARGET", "PARBAKE_UNIT")

CONVERGED = "9f416f18385c40858f06471828bfa95f"
STALE = "fbe059adbfff432ba890a32dbe9c6321"
FAILED = "c95b5c5cb4164635a65344bd2e7843ed"
ROLLED_BACK = "f76c3d33e3384c34a35a5d18885db6da"
DRIFT = "fdf4c3a74953445a852acbfe99ba6f4a"
"""The MESSAGE_IDs of the events for alerts. They never change."""
EVENTS = {
    "converged": (logging.INFO, CONVERGED),
    "stale": (logging.WARNING, STALE),
    "failed": (logging.ERROR, FAILED),
    "rolled-back": (logging.ERROR, ROLLED_BACK),
}
"""State of status.json -> level and MESSAGE_ID of the event when it is entered."""


class JournalHandler(logging.Handler):
    """Sends records to journald, with the message and FIELDS only.

    The handler of python-systemd also sends the arguments of the message, which may be secret.
    """

    def __init__(self) -> None:
        super().__init__()
        from systemd import journal

        self._send = journal.sendv

    def emit(self, record: logging.LogRecord) -> None:
        fields = [f"MESSAGE={self.format(record)}", f"PRIORITY={_priority(record.levelno)}", "SYSLOG_IDENTIFIER=parbake"]
        fields += [f"{name}={record.__dict__[name]}" for name in FIELDS if name in record.__dict__]
        if "MESSAGE_ID" in record.__dict__:
            fields.append(f"MESSAGE_ID={record.__dict__['MESSAGE_ID']}")
        fields.append(f"PARBAKE_LOGGER={record.name}")
        try:
            self._send(*fields)
        except OSError:
            sys.stderr.write(f"{fields[0]}\n")  # a restart of journald must not end a convergence


class TerminalFormatter(logging.Formatter):
    """Formats records as `warning: text`, and those of level INFO as the text alone."""

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        return text if record.levelno == logging.INFO else f"{record.levelname.lower()}: {text}"


def set_up(level: str) -> None:
    """Log to the journal if standard error is connected to it, else to standard error. `level`: "debug" to "error"."""
    handler: logging.Handler
    if _on_journal():
        handler = JournalHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(TerminalFormatter())
    root = logging.getLogger("parbake")
    root.handlers[:] = [handler]
    root.setLevel(getattr(logging, level.upper()))
    root.propagate = False


def _on_journal() -> bool:
    """Return whether standard error is connected to the journal, by JOURNAL_STREAM of systemd.exec(5)."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    device, _, inode = stream.partition(":")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return device == str(status.st_dev) and inode == str(status.st_ino)


def _priority(level: int) -> int:
    """Return the syslog priority of a logging level."""
    return 3 if level >= logging.ERROR else 4 if level >= logging.WARNING else 6 if level >= logging.INFO else 7


def announce(level: int, text: str, message_id: str, generation: int) -> None:
    """Write an event for alerts to the journal, for commands whose own log goes to a terminal."""
    if os.path.exists(_JOURNAL_SOCKET):
        handler = JournalHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        record = logging.LogRecord("parbake", level, "", 0, text, None, None)
        record.__dict__.update(event(message_id, generation))
        handler.emit(record)


def failure_id(error: ParbakeError) -> str:
    """Return the MESSAGE_ID for a convergence that ended with `error`."""
    return ROLLED_BACK if isinstance(error, RolledBack) else FAILED


def event(message_id: str, generation: int, **more: Any) -> dict[str, Any]:
    """Return the `extra` of a log record for alerts. `more` are further journal fields."""
    return {"MESSAGE_ID": message_id, "PARBAKE_GENERATION": generation, **more}
