"""`parbake ship`: the log shipper."""

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
from agent.shipping.shipper import ShipOptions, Shipper
from agent.shipping.shutdown import Stop
from agent.shipping.termination import Termination
from agent.system.sd_notify import notify

log = logging.getLogger("parbake")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--once", action="store_true", help="ship the entries that exist now, and exit")
    parser.add_argument("--since", metavar="TIME", help='begin at this time, such as "1h ago"; with --once or --dry-run')
    parser.add_argument("--sink", metavar="NAME", default="", help="only this sink")
    parser.add_argument("--dry-run", action="store_true", help="print what would be sent, and send nothing")


def run(arguments: Namespace, settings: Settings, paths: Paths) -> int:
    """Ship, and return the exit code 0.

    Raises SinkError if --once could not ship all entries, SettingsError, BusyError, StateError or UsageError.
    """
    stop = Stop()

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        stop.set(settings.ship.drain)
        notify("STOPPING=1")

    # Before anything else, so that a signal during the start stops the shipper as well.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, request_stop)
    since_us = None if arguments.since is None else since(arguments.since, time.time())
    if since_us is not None and not (arguments.once or arguments.dry_run):
        raise UsageError("--since needs --once or --dry-run", hint="without --since, reading continues at the checkpoints")
    options = ShipOptions(arguments.once, since_us, arguments.sink, sys.stdout if arguments.dry_run else None)
    if not settings.sinks:
        log.warning("no [[sink]] is configured: nothing is shipped")
        return 0
    _raise_file_limit()
    notify("READY=1")
    if not options.once:
        Termination(PlaceholderValues(settings, paths), stop).start()
    behind = Shipper(settings, paths, options, stop).run()
    if behind and arguments.once:
        hint = "see the warnings above for the reasons; the next run ships the rest"
        raise SinkError(f"not everything could be shipped to: {', '.join(behind)}", hint=hint)
    for name in behind:
        log.warning("sink %s: the remaining entries are shipped after the next start", name)
    return 0


def _raise_file_limit() -> None:
    """Allow as many open files as the host permits: every log file stays open. The default of 1024 exists for select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def since(text: str, now: float) -> int:
    """Parse a time and return microseconds since 1970. `now` is in seconds since 1970. Raises UsageError."""
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
