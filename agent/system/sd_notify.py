"""What systemd is told, by the protocol of sd_notify(3). Nothing where it did not ask (no NOTIFY_SOCKET)."""

from __future__ import annotations

import os

_START_USEC = 180_000_000
_SPARE_SECONDS = 30.0


class Notifier:
    """`starting` until READY was said."""

    def __init__(self) -> None:
        self._asked = "NOTIFY_SOCKET" in os.environ
        self.starting = True
        self._watchdog_seconds = int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        self._allowed_seconds = self._watchdog_seconds

    def tell(self, text: str) -> None:
        if self._asked:
            from systemd import daemon

            daemon.notify(text)

    def alive(self) -> None:
        """The loop moves. Before READY that also extends the start: waiting for a store is no hang."""
        self._allow(self._watchdog_seconds)
        self.tell(f"EXTEND_TIMEOUT_USEC={_START_USEC}\nWATCHDOG=1" if self.starting else "WATCHDOG=1")

    def extend_watchdog(self, seconds: float) -> None:
        """Before something that may rightly take so long: a check, a pull."""
        self.alive()
        self._allow(max(self._watchdog_seconds, seconds + _SPARE_SECONDS))

    def _allow(self, seconds: float) -> None:
        """The watchdog's time from now on."""
        if self._watchdog_seconds and seconds != self._allowed_seconds:
            self._allowed_seconds = seconds
            self.tell(f"WATCHDOG_USEC={int(seconds * 1e6)}\nWATCHDOG=1")
