"""Facts that change while an instance runs: its tags, that it is to be terminated, its place in a life cycle.

Polled gently, in a thread of the daemon's; GCE's service answers when something has changed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from agent.discovery import CHANGING, Context, fact_validation
from agent.discovery.clouds import CLOUDS
from agent.errors import DiscoveryError
from agent.model import Facts, FactValue
from agent.paths import Paths
from agent.settings import plugins
from agent.settings.models import Discovery

DEFAULT_POLL_SECONDS = 60.0
REST_SECONDS = 1.0
"""After a change was reported, before the next look: a service that says something else each time costs no more than that."""

log = logging.getLogger("parbake.discovery")
_NONE: Mapping[str, FactValue | None] = MappingProxyType({})


class Watcher:
    """Watches the platform that the facts name. `wait` is called in one thread, `close` from any.

    `notices` is what was seen last, None where the platform says that a fact is no more; `discover` takes it, because
    a provider such as cloud-init only knows what was so at boot. A watcher begins with what the one before it saw.
    """

    def __init__(self, settings: Discovery, paths: Paths, notices: Mapping[str, FactValue | None] = _NONE) -> None:
        self._settings, self._paths = settings, paths
        self._stopping = threading.Event()
        self._cloud: Any = None
        self._name = ""
        self._reported = False
        self.notices = notices

    def watches(self, facts: Facts) -> bool:
        """Whether the platform has anything to watch; if not, there is no need for a thread."""
        return self._settings.imds != "off" and bool(_platform(self._settings, facts))

    def wait(self, facts: Facts, timeout_seconds: float) -> bool:
        """Block until a changing fact is no longer as in `facts`, or as last reported: True. False after the time-out.

        Returns False at once after `close`. Raises DiscoveryError where the service fails: the caller backs off and
        calls again.
        """
        deadline = time.monotonic() + timeout_seconds
        name = _platform(self._settings, facts)
        if not self.watches(facts):
            self._stopping.wait(timeout_seconds)
            return False
        if name != self._name:
            self._cloud, self._name = plugins.load(CLOUDS, name, "metadata service")(), name
        pause = float(getattr(self._cloud, "poll_seconds", DEFAULT_POLL_SECONDS))
        if self._reported:
            self._stopping.wait(min(REST_SECONDS, pause, timeout_seconds))
            self._reported = False
        while not self._stopping.is_set():
            try:
                seen = self._look(deadline)
            except DiscoveryError:
                if self._stopping.is_set():
                    return False
                raise
            before = {key: self.notices.get(key, facts.values.get(key)) for key in seen}
            self.notices = {**self.notices, **seen}
            if before != seen:
                self._reported = True
                _tell(before, seen)
                return True
            left = deadline - time.monotonic()
            if left <= pause:
                self._stopping.wait(max(0.0, left))
                return False
            self._stopping.wait(pause)
        return False

    def close(self) -> None:
        """Make a `wait` in another thread return soon."""
        self._stopping.set()
        abort: Callable[[], None] | None = getattr(self._cloud, "abort", None)
        if abort is not None:
            abort()

    def _look(self, deadline: float) -> dict[str, FactValue | None]:
        """The changing facts as they are now: None where the platform says that there is none."""
        least = max(float(self._settings.timeout), float(getattr(self._cloud, "look_seconds", 0.0)))
        until = time.monotonic() + least
        if getattr(self._cloud, "waits", False):
            until = max(until, deadline)
        # Else a request that stalls would take half of the whole wait, and a spot instance has two minutes from the notice.
        context = Context(self._paths, self._settings, until)
        context.label = f"imds:{self._name}"
        ask = getattr(self._cloud, "changing", self._cloud.discover)
        seen: dict[str, FactValue | None] = {}
        for part in ask(context):
            for key in part.keys() & set(CHANGING):
                try:
                    seen[key] = fact_validation.validate(key, part[key])
                except fact_validation.FactRejected:
                    continue
            if self._stopping.is_set():
                break
        return seen


def _tell(before: Mapping[str, FactValue | None], now: Mapping[str, FactValue | None]) -> None:
    """Leave a line where this instance's logs go: who looks for it later wants to know why it went."""
    why = now.get("terminating", before.get("terminating"))
    if why == before.get("terminating"):
        return
    if why is None:
        log.warning("the platform says no longer that this instance is to go (it was: %s)", before["terminating"])
    else:
        when = now.get("terminating_at") or "no time given"
        log.warning("the platform says that this instance is to go: %s, at %s", why, when)


def _platform(settings: Discovery, facts: Facts) -> str:
    """The name in CLOUDS of the service that was asked, or would be. A platform that the settings, say, call so for the sake
    of their layers is no reason to send anything."""
    if settings.imds not in ("auto", "off"):
        return settings.imds
    labels = (label.partition(":") for label in facts.providers.values())
    named = facts.values.get("platform") if facts.providers.get("platform") == "cloud-init" else ""
    asked = next((name for kind, _, name in labels if kind == "imds"), named)
    return asked if isinstance(asked, str) and asked in CLOUDS and asked != "configdrive" else ""
