"""Sends messages to the service manager, by the protocol of sd_notify(3)."""

from __future__ import annotations

import os

_START_USEC = 180_000_000
_MARGIN_SECONDS = 30.0


def notify(text: str) -> None:
    """Send `text`, such as "READY=1". Does nothing without $NOTIFY_SOCKET."""
    if os.environ.get("NOTIFY_SOCKET"):
        from systemd import daemon

        daemon.notify(text)


class Notifier:
    """Feeds the watchdog of this service. `starting` is true until READY=1 was sent, and is set by the caller."""

    def __init__(self) -> None:
        self.starting = True
        self._watchdog_seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        self._allowed_seconds = self._watchdog_seconds

    def notify(self, text: str) -> None:
        notify(text)

    def ping_watchdog(self) -> None:
        """Report that the loop runs. Before READY this also extends the start, because waiting for a store is not a hang."""
        self._allow(self._watchdog_seconds)
        notify(f"EXTEND_TIMEOUT_USEC={_START_USEC}\nWATCHDOG=1" if self.starting else "WATCHDOG=1")

    def extend_watchdog(self, seconds: float) -> None:
        """Allow `seconds` without a ping, for a check or a pull."""
        self.ping_watchdog()
        self._allow(max(self._watchdog_seconds, seconds + _MARGIN_SECONDS))

    def _allow(self, seconds: float) -> None:
        """Set the time-out of the watchdog."""
        if self._watchdog_seconds and seconds != self._allowed_seconds:
            self._allowed_seconds = seconds
            notify(f"WATCHDOG_USEC={int(seconds * 1e6)}\nWATCHDOG=1")
