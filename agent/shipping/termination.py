"""The end of the instance, as the daemon announces it: the fact `terminating` makes shipping urgent."""

from __future__ import annotations

import logging
import threading

from agent.shipping.daemon_view import PlaceholderValues
from agent.shipping.shutdown import Stop

log = logging.getLogger("parbake")
CHECK_SECONDS = 1.0


class Termination:
    """Checks the fact in a thread, because every pipeline may be asleep. Shipping is normal again if the fact disappears."""

    def __init__(self, values: PlaceholderValues, stop: Stop) -> None:
        self._values = values
        self._stop = stop
        self._reason = ""

    def start(self) -> None:
        """Check once, then start the thread. A shipper that starts late is urgent from its first batch."""
        self._check()
        threading.Thread(target=self._run, name="termination", daemon=True).start()

    def _run(self) -> None:
        while not self._stop.wait(CHECK_SECONDS):
            self._check()

    def _check(self) -> None:
        facts = self._values.current()["facts"]
        reason, previous = str(facts.get("terminating") or ""), self._reason
        if reason == previous:
            return
        self._reason = reason
        self._stop.set_urgent(bool(reason))
        if not reason:
            log.warning(
                "the termination of this instance is called off (it was: %s): logs are shipped at their usual pace", previous
            )
            return
        when = f" at {at}" if (at := facts.get("terminating_at")) else ""
        log.warning("this instance will be terminated (%s%s): logs are shipped without delay from now on", reason, when)
