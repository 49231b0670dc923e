"""`parbake ship`"""

from __future__ import annotations

import logging
import re
import resource
import signal
import sys
import time
from argparse import ArgumentParser, Namespace
from datetime import datetime, timedelta
from types import FrameType

from agent.errors import SinkError, UsageError
from agent.paths import Paths
from agent.settings import schema
from agent.settings.models import Settings
from agent.shipping.daemon_view import PlaceholderValues
from agent.shipping.shipper import ShipOptions, Shipper, notify
from agent.shipping.shutdown import Stop
from agent.shipping.termination import Termination

log = logging.getLogger("parbake")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="ship what is there and exit")
    parser.add_argument("--since", metavar="TIME", help='begin there, such as "1h ago"; with --once or --dry-run')
    parser.add_argument("--sink", metavar="NAME", default="", help="only this sink")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    """Exits 0; raises SinkError where --once could not ship all, SettingsError, BusyError, StateError, UsageError."""
    stop = Stop()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set(settings.ship.drain)
        notify("STOPPING=1")

    # first of all: a stop while the rest comes up is a stop, too
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, end)
    since_us = None if arguments.since is None else since(arguments.since, time.time())
    if since_us is not None and not (arguments.once or arguments.dry_run):
        raise UsageError("--since needs --once or --dry-run", hint="the service reads on from its checkpoints")
    wishes = ShipOptions(arguments.once, since_us, arguments.sink, sys.stdout if arguments.dry_run else None)
    if not settings.sinks:
        log.warning("no [[sink]] is configured: nothing is shipped")
        return 0
    _allow_open_files()
    notify("READY=1")
    if not wishes.once:
        Termination(PlaceholderValues(settings, paths), stop).start()
    behind = Shipper(settings, paths, wishes, stop).run()
    if behind and arguments.once:
        hint = "the warnings above tell why; it goes with the next run"
        raise SinkError(f"not everything could be shipped to: {', '.join(behind)}", hint=hint)
    for name in behind:
        log.warning("sink %s: what is left is shipped after the next start", name)
    return 0


def _allow_open_files() -> None:
    """Every log file stays open: as many as the machine lets us, not the 1024 that are for programs that use select()."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def since(text: str, now: float) -> int:
    """A time in microseconds since 1970. Raises UsageError."""
    text = text.strip()
    if text in ("today", "yesterday"):
        midnight = datetime.fromtimestamp(now).replace(hour=0, minute=0, second=0, microsecond=0)
        return int((midnight - timedelta(days=text == "yesterday")).timestamp() * 1_000_000)
    if match := re.fullmatch(r"@(\d+(?:\.\d+)?)", text):
        return int(float(match[1]) * 1_000_000)
    if match := re.fullmatch(r"-?(.+?)(?:\s+ago)?", text):
        seconds = schema.seconds(match[1])
        if seconds is not None and (text.startswith("-") or text.endswith("ago") or text[-1:].isalpha()):
            return int((now - seconds) * 1_000_000)
    try:
        return int(datetime.fromisoformat(text).astimezone().timestamp() * 1_000_000)
    except ValueError:
        raise UsageError(
            f'--since "{text}" is not a time',
            hint='write "2026-01-31 12:00", "2026-01-31T12:00:00Z", "1h ago", "today", "yesterday" or "@SECONDS"',
        ) from None
