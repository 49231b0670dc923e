"""Watches facts that change while an instance runs: its tags, an announced termination, its lifecycle state.

The platform is polled in a thread of the daemon. GCE is long-polled: its service answers when something has changed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from agent.discovery import CHANGING_FACTS, Context, ProviderName, RawFacts, fact_validation
from agent.discovery.clouds import CLOUDS, ChangingCloud, Cloud
from agent.errors import DiscoveryError
from agent.model import Facts, FactValue
from agent.paths import Paths
from agent.settings import plugins
from agent.settings.models import Discovery

DEFAULT_POLL_SECONDS = 60.0
REST_SECONDS = 1.0
"""The pause after a reported change: a service whose answers always differ causes one change a second, and no more."""

log = logging.getLogger("parbake.discovery")
_NO_NOTICES: Mapping[str, FactValue | None] = MappingProxyType({})


class Watcher:
    """Watches the platform that the facts name. `wait` is called in one thread, `close` from any.

    `notices` holds the last values seen, None for a fact that no longer exists. `engine.discover` takes them, because
    cloud-init, for example, only has the facts of the boot. A watcher starts with the notices of the one before it.
    """

    def __init__(self, settings: Discovery, paths: Paths, notices: Mapping[str, FactValue | None] = _NO_NOTICES) -> None:
        self._settings, self._paths = settings, paths
        self._stopping = threading.Event()
        self._cloud: Cloud | ChangingCloud | None = None
        self._name = ""
        self._reported = False
        self.notices = notices

    def watches(self, facts: Facts) -> bool:
        """Return whether there is a platform to watch. If not, no thread is needed."""
        return self._settings.imds != "off" and bool(_watched_platform(self._settings, facts))

    def wait(self, facts: Facts, timeout_seconds: float) -> bool:
        """Return True as soon as a changing fact differs from `facts` or from the last report. False after the time-out.

        Returns False soon after `close`. Raises DiscoveryError if the service fails; the caller backs off and calls again.
        """
        deadline = time.monotonic() + timeout_seconds
        if not self.watches(facts):
            self._stopping.wait(timeout_seconds)
            return False
        cloud = self._cloud_of(_watched_platform(self._settings, facts))
        poll_seconds = cloud.poll_seconds if isinstance(cloud, ChangingCloud) else DEFAULT_POLL_SECONDS
        if self._reported:
            self._stopping.wait(min(REST_SECONDS, poll_seconds, timeout_seconds))
            self._reported = False
        while not self._stopping.is_set():
            try:
                seen = self._poll(cloud, deadline)
            except DiscoveryError:
                if self._stopping.is_set():
                    return False
                raise
            before = {name: self.notices.get(name, facts.values.get(name)) for name in seen}
            self.notices = {**self.notices, **seen}
            if before != seen:
                self._reported = True
                _log_termination(before, seen)
                return True
            left = deadline - time.monotonic()
            self._stopping.wait(max(0.0, min(left, poll_seconds)))
            if left <= poll_seconds:
                return False
        return False

    def close(self) -> None:
        """Make a `wait` in another thread return soon, also if it waits for an answer of the service."""
        self._stopping.set()

    def _cloud_of(self, name: str) -> Cloud | ChangingCloud:
        if self._cloud is None or name != self._name:
            self._cloud, self._name = plugins.load(CLOUDS, name, "metadata service")(), name
        return self._cloud

    def _poll(self, cloud: Cloud | ChangingCloud, wait_deadline: float) -> dict[str, FactValue | None]:
        """Return the current values of the changing facts, None for a fact that does not exist."""
        context = Context(self._paths, self._settings, self._poll_deadline(cloud, wait_deadline), stopping=self._stopping)
        context.label = f"{ProviderName.IMDS}:{self._name}"
        parts: Iterator[RawFacts] = cloud.changing(context) if isinstance(cloud, ChangingCloud) else cloud.discover(context)
        seen: dict[str, FactValue | None] = {}
        for part in parts:
            for name in part.keys() & set(CHANGING_FACTS):
                try:
                    seen[name] = fact_validation.validate(name, part[name])
                except fact_validation.FactRejected:
                    continue
            if self._stopping.is_set():
                break
        return seen

    def _poll_deadline(self, cloud: Cloud | ChangingCloud, wait_deadline: float) -> float:
        """Return the deadline of a poll. Only a long poll may take the whole wait.

        A stalled request could otherwise take half of the wait, and a spot instance ends two minutes after its notice.
        """
        now, seconds = time.monotonic(), float(self._settings.timeout)
        if not isinstance(cloud, ChangingCloud):
            return now + seconds
        deadline = now + max(seconds, cloud.poll_timeout_seconds)
        return max(deadline, wait_deadline) if cloud.long_polls else deadline


def _log_termination(before: Mapping[str, FactValue | None], now: Mapping[str, FactValue | None]) -> None:
    """Log a termination, or its withdrawal, so that the logs of an instance that is gone have the reason."""
    reason = now.get("terminating", before.get("terminating"))
    if reason == before.get("terminating"):
        return
    if reason is None:
        log.warning("the platform has cancelled the termination of this instance (it was: %s)", before["terminating"])
    else:
        time_text = now.get("terminating_at") or "an unknown time"
        log.warning("the platform will terminate this instance: %s, at %s", reason, time_text)


def _watched_platform(settings: Discovery, facts: Facts) -> str:
    """Return the name in CLOUDS of the service that was asked, or would be, or "".

    A platform that only [facts] names, for example to choose layers, is not a reason to send requests.
    """
    if settings.imds not in ("auto", "off"):
        return settings.imds
    labels = (label.partition(":") for label in facts.providers.values())
    from_cloud_init = facts.providers.get("platform") == ProviderName.CLOUD_INIT
    default = facts.values.get("platform") if from_cloud_init else ""
    platform = next((name for kind, _, name in labels if kind == ProviderName.IMDS), default)
    return platform if isinstance(platform, str) and platform in CLOUDS and platform != "configdrive" else ""
