"""Before the instance goes: the daemon's fact `terminating` makes the shipper hurry, so that the last lines get away."""

from __future__ import annotations

import logging
import threading

from agent.shipping.daemon_view import PlaceholderValues
from agent.shipping.shutdown import Stop

log = logging.getLogger("parbake")
LOOK_SECONDS = 1.0


class Termination:
    """Looks for the fact in a thread, since every lane may be asleep. What was called off brings the usual pace back."""

    def __init__(self, spaces: PlaceholderValues, stop: Stop) -> None:
        self._spaces = spaces
        self._stop = stop
        self._why = ""

    def start(self) -> None:
        """Returns after the first look, so that a shipper that is started late hurries at once."""
        self._look()
        threading.Thread(target=self._run, name="termination", daemon=True).start()

    def _run(self) -> None:
        while not self._stop.wait(LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        facts = self._spaces.current()["facts"]
        why, before = str(facts.get("terminating") or ""), self._why
        if why == before:
            return
        self._why = why
        self._stop.hurry(bool(why))
        if not why:
            log.warning("this instance is not to go any more (it was: %s): logs are shipped at their usual pace again", before)
            return
        when = f" at {at}" if (at := facts.get("terminating_at")) else ""
        log.warning("this instance is to go (%s%s): logs are shipped without delay from now on", why, when)
