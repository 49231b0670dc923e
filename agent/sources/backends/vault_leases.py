"""Vault's secrets with a lease: requested once, renewed in a thread, and replaced before they end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from agent.errors import SourceDenied, SourceError, SourceInvalid, SourceUnreachable
from agent.model import Layer
from agent.net.backoff import Backoff
from agent.sources import SourceContext, decoding, key_tree
from agent.sources.backends.vault_auth import VaultOptions
from agent.sources.backends.vault_session import Lease, VaultSession, new_lease, table_of
from agent.sources.waiting import wait_for_any

log = logging.getLogger("parbake.sources")
_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS = 0.5, 30.0
_DENIED_FIRST_DELAY_SECONDS, _DENIED_LAST_DELAY_SECONDS = 5.0, 300.0


class VaultLeases:
    """The leases of the `dynamic` paths, and the session whose token they depend on.

    `lock` is held while the leases or the token change; `VaultSource.fetch` holds it too. `on_lost` is called, in the thread
    that renews, if a secret must be fetched again.
    """

    def __init__(self, options: VaultOptions, context: SourceContext, on_lost: Callable[[], None]) -> None:
        self.session = VaultSession(options, context, self._forget)
        self.lock = threading.RLock()
        self.bug: BaseException | None = None
        """An unexpected error that ended the thread, for the watch to raise."""
        self._paths = options.dynamic
        self._context = context
        self._on_lost = on_lost
        self._leases: dict[str, Lease] = {}
        self._schedule_changed = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def fetch(self, deadline: float) -> Layer:
        """Return the secrets as the layer `dynamic`.

        A secret is kept until it must be replaced, because each request makes a new user in the database.
        """
        for _ in range(2):  # a token that is replaced for a later path takes the leases of the earlier paths with it
            for path in self._paths:
                self._hold(path, deadline)
            if not self.has_lost():
                break
        else:
            raise SourceUnreachable(f"{self.session.base}: its token was revoked meanwhile")
        pairs: list[tuple[str, Any]] = []
        for path in self._paths:
            pairs += [(f"{path}/{key}", value) for key, value in self._leases[path].content.items()]
        revision = key_tree.digest(repr([self._leases[path].id for path in self._paths]))
        return Layer("dynamic", {"dynamic": key_tree.build_tree(pairs, "/", "dynamic")}, revision)

    def has_lost(self) -> bool:
        """Return whether a secret must be fetched again."""
        return any(path not in self._leases for path in self._paths)

    def reschedule(self) -> None:
        """Make the thread look again at what is due next."""
        self._schedule_changed.set()

    def keep_renewing(self) -> None:
        """Start the thread that renews, unless it runs."""
        if (self._thread is None or not self._thread.is_alive()) and not self._is_stopped():
            self._thread = threading.Thread(target=self._work, name=f"renew {self._context.name}", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread and the requests. Leases are not revoked, because applications still use them."""
        self._closed.set()
        self._schedule_changed.set()
        self.session.close()

    def _forget(self) -> None:
        self._leases.clear()

    def _hold(self, path: str, deadline: float) -> None:
        """Keep or renew the lease of a path, or request a new one."""
        lease = self._leases.get(path)
        if lease is not None and (time.monotonic() < lease.due() or self._renew(lease, deadline)):
            return
        reply = self.session.ask("GET", quote(path), deadline)
        if reply.status == 404:
            raise SourceInvalid(f"{reply.url}: the path does not exist", hint="check dynamic")
        answer = table_of(reply)
        content = decoding.plain_table(answer.get("data"), reply.url)
        self._leases[path] = new_lease(answer, "lease_id", content, reply)

    def _renew(self, lease: Lease, deadline: float) -> bool:
        """Renew a lease. Return False if it must be replaced, as near its maximum age."""
        headers = self.session.auth_headers(deadline)
        if not lease.renewable or all(lease is not kept for kept in self._leases.values()):
            return False
        body = {"lease_id": lease.id, "increment": int(lease.seconds)}
        try:
            # Without a new login: a new token cannot renew a lease of the old one.
            return lease.extend(table_of(self.session.send("PUT", "sys/leases/renew", deadline, body, headers)))
        except (SourceDenied, SourceInvalid):
            return False

    def _is_stopped(self) -> bool:
        return self._closed.is_set() or self._context.stopping.is_set()

    def _work(self) -> None:
        """Renew what is due until stopped. An unexpected error ends the thread; the next watch raises it and restarts."""
        unavailable = Backoff(_FIRST_DELAY_SECONDS, _LAST_DELAY_SECONDS, low=0.5)
        denied = Backoff(_DENIED_FIRST_DELAY_SECONDS, _DENIED_LAST_DELAY_SECONDS, low=0.5)
        try:
            while not self._is_stopped():
                self._schedule_changed.clear()
                if self._closed.is_set():
                    return
                with self.lock:
                    left = self._next_due() - time.monotonic()
                if left > 0:
                    wait_for_any(left, self._schedule_changed, self._context.stopping)
                    continue
                try:
                    self._renew_due()
                    unavailable.reset()
                    denied.reset()
                except SourceError as error:
                    extra = {"PARBAKE_SOURCE": self._context.name}
                    log.info("source %s: a lease cannot be renewed: %s", self._context.name, error, extra=extra)
                    delay = (denied if isinstance(error, SourceDenied) else unavailable).next_seconds()
                    requested = error.retry_after_seconds if isinstance(error, SourceUnreachable) else None
                    wait_for_any(max(delay, requested or 0.0), self._closed, self._context.stopping)
        except Exception as error:  # noqa: BLE001 - raised by the watch, or the end of this thread would go unnoticed
            self.bug = error
            self._on_lost()

    def _next_due(self) -> float:
        """Return the time at which the token or a lease must be renewed next."""
        token = self.session.token
        held = [*self._leases.values(), *([token] if token is not None else [])]
        return min((lease.due() for lease in held), default=float("inf"))

    def _renew_due(self) -> None:
        """Renew what is due, the token first. A lease that cannot be renewed is dropped, and `on_lost` is called."""
        with self.lock:
            deadline = time.monotonic() + self._context.timeout_seconds
            token = self.session.token
            if token is not None and not self._leases:
                if token.due() <= time.monotonic() and not self.session.renew_token(token, deadline):
                    self.session.token = None  # no lease depends on it, so the next fetch may log in
                return
            try:
                self.session.auth_headers(deadline)
                self._renew_leases(deadline)
            finally:
                self._drop_ended()
                if self.has_lost():
                    self._on_lost()

    def _renew_leases(self, deadline: float) -> None:
        """Renew the leases that are due, all of them although one engine is unavailable; then raise its error."""
        failure: SourceError | None = None
        for path, lease in list(self._leases.items()):
            try:
                if lease.due() <= time.monotonic() and not self._renew(lease, deadline):
                    self._leases.pop(path, None)
            except SourceUnreachable as error:
                failure = error
        if failure is not None:
            raise failure

    def _drop_ended(self) -> None:
        if self.session.token is not None and self.session.token.has_ended():
            self.session.token = None
            self._leases.clear()
        for path, lease in list(self._leases.items()):
            if lease.has_ended():
                del self._leases[path]
