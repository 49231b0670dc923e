"""`vault`: a KV secret a layer, and secrets with a lease that are renewed, and replaced before they end."""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from agent.errors import SourceDenied, SourceError, SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.net.http_client import Client, Reply, json_body
from agent.secret import Secret
from agent.sources import SourceContext, decoding, key_tree
from agent.sources.backends.vaultauth import Login, VaultOptions, token_of_file

log = logging.getLogger("parbake.sources")
_RENEW_AT, _REPLACE_BELOW = 2 / 3, 1 / 3
_FIRST_DELAY, _LAST_DELAY = 0.5, 30.0
_FIRST_DENIED_DELAY, _LAST_DENIED_DELAY = 5.0, 300.0


@dataclass(slots=True)
class _Lease:
    """Something of Vault's that ends. Times are of time.monotonic()."""

    id: str
    seconds: float
    renewable: bool
    ends: float
    content: dict[str, Any]

    def due(self) -> float:
        """When it must be renewed or replaced."""
        return self.ends - self.seconds * (1 - _RENEW_AT) if self.seconds else float("inf")


class VaultSource:
    """Vault from 0.10 on, and OpenBao."""

    options_class: ClassVar[type[Any]] = VaultOptions

    def __init__(self, options: VaultOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._base = f"{options.address.rstrip('/')}/v1"
        # A standby redirects to the active server, which wants the token too.
        self._client = Client(context.paths, tls=options, stopping=context.stopping, trust_redirects=True)
        self._login = Login(options, context)
        self._token: _Lease | None = None
        self._leases: dict[str, _Lease] = {}
        self._version = ""
        self._closed = threading.Event()
        self._lock = threading.RLock()
        self._poll_at = self._next_poll()
        self._woken, self._renewed = threading.Event(), threading.Event()
        self._renewing: threading.Thread | None = None
        self._bug: BaseException | None = None

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        with self._lock:
            try:
                deadline = time.monotonic() + self._context.timeout_seconds
                read = [self._layer(layer, deadline) for layer in layers]
                if self._options.dynamic:
                    read.append(self._dynamic(deadline))
                return Snapshot(tuple(read), key_tree.combined(read), secret=True)
            finally:
                self._poll_at = self._next_poll()
                self._renewed.set()  # what is due next may be something else now

    def _next_poll(self) -> float:
        return time.monotonic() + self._context.poll_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret

    def _layer(self, layer: str, deadline: float) -> Layer:
        path = key_tree.joined(self._options.prefix, layer)
        if not path:
            raise SourceInvalid("a layer without a path is no secret of Vault", hint="set prefix, or name the layer")
        mount = quote(self._options.mount.strip("/"))
        version = self._engine_version(mount, deadline)
        reply = self._ask("GET", f"{mount}/{'data/' if version == '2' else ''}{quote(path)}", deadline)
        if reply.status == 404:  # in version 2 a deleted secret too, with its metadata
            return Layer(layer, None)
        found = _table(reply, "data")
        if version == "2":
            metadata, held = found.get("metadata") or {}, found.get("data")
            if held is None:
                return Layer(layer, None)
            return Layer(layer, decoding.table(held, reply.url), str(metadata.get("version", "")))
        return Layer(layer, decoding.table(found, reply.url), key_tree.digest(reply.body))

    def _engine_version(self, mount: str, deadline: float) -> str:
        if not self._version:
            reply = self._ask("GET", f"sys/internal/ui/mounts/{mount}", deadline)
            if reply.status == 404:
                raise SourceInvalid(f"{reply.url}: nothing is mounted there", hint="check mount")
            options = _table(reply, "data").get("options")
            self._version = str((options or {}).get("version") or "1")
        return self._version

    def _dynamic(self, deadline: float) -> Layer:
        """Secrets with a lease, kept until they must be replaced: asking again would make new users each time."""
        for _ in range(2):  # a token that is replaced at a later path takes the leases of the earlier ones with it
            for path in self._options.dynamic:
                self._hold(path, deadline)
            if not self._lost():
                break
        else:
            raise SourceUnreachable(f"{self._base}: its token was revoked meanwhile")
        pairs = [
            (f"{path}/{key}", value) for path in self._options.dynamic for key, value in self._leases[path].content.items()
        ]
        revision = key_tree.digest(repr([self._leases[path].id for path in self._options.dynamic]))
        return Layer("dynamic", {"dynamic": key_tree.tree(pairs, "/", "dynamic")}, revision)

    def _hold(self, path: str, deadline: float) -> None:
        """Have a lease for the path that is good for a while."""
        lease = self._leases.get(path)
        if lease is not None and (time.monotonic() < lease.due() or self._renew(lease, deadline)):
            return
        reply = self._ask("GET", quote(path), deadline)
        if reply.status == 404:
            raise SourceInvalid(f"{reply.url}: there is no such path", hint="check dynamic")
        answer = _table(reply)
        self._leases[path] = _lease(answer, "lease_id", decoding.table(answer.get("data"), reply.url), reply)

    def _lost(self) -> bool:
        """Whether something must be fetched anew."""
        return any(path not in self._leases for path in self._options.dynamic)

    def _renew(self, lease: _Lease, deadline: float) -> bool:
        """Whether the lease now lasts long enough; False near its greatest age, when a new one must take its place."""
        headers = self._authorised(deadline)
        if not lease.renewable or all(lease is not kept for kept in self._leases.values()):
            return False
        body = {"lease_id": lease.id, "increment": int(lease.seconds)}
        try:
            # Not through _ask: a new token could not renew it either, since a lease ends with the token that asked for it.
            answer = _table(self._send("PUT", "sys/leases/renew", deadline, body, headers))
        except (SourceDenied, SourceInvalid):
            return False
        granted = answer.get("lease_duration", 0)
        if not isinstance(granted, (int, float)) or granted < lease.seconds * _REPLACE_BELOW:
            return False
        lease.ends = time.monotonic() + granted
        return True

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        """True when a lease had to be replaced, and at the poll, since KV engines tell of nothing.

        A thread renews what is due from the first watch on, whatever delays the next one: a back-off, a convergence, a
        layer that is denied.
        """
        deadline = time.monotonic() + timeout_seconds
        ends = bool(self._options.dynamic) or self._options.auth != "token"
        if ends and (self._renewing is None or not self._renewing.is_alive()) and not self._closed.is_set():
            self._renewing = threading.Thread(target=self._keep, name=f"renew {self._context.name}", daemon=True)
            self._renewing.start()
        while True:
            self._woken.clear()
            if self._closed.is_set():
                return False
            if self._bug is not None:
                bug, self._bug = self._bug, None
                raise bug
            now = time.monotonic()
            if self._poll_at <= now or self._lost():
                return True
            if deadline <= now:
                return False
            self._woken.wait(min(self._poll_at, deadline) - now)

    def _keep(self) -> None:
        """Renew what is due until closed. A bug ends it, and is the watch's to raise; the next watch begins anew."""
        delay = _FIRST_DELAY
        try:
            while True:
                self._renewed.clear()
                if self._closed.is_set():
                    return
                with self._lock:
                    left = self._due() - time.monotonic()
                if left > 0:
                    self._renewed.wait(min(left, threading.TIMEOUT_MAX))
                    continue
                try:
                    self._renew_due()
                    delay = _FIRST_DELAY
                except SourceError as error:
                    said = {"PARBAKE_SOURCE": self._context.name}
                    log.info("source %s: what is due cannot be renewed: %s", self._context.name, error, extra=said)
                    denied = isinstance(error, SourceDenied)
                    delay = max(delay, _FIRST_DENIED_DELAY) if denied else delay
                    pause = random.uniform(delay / 2, delay)  # noqa: S311 - jitter, not a secret
                    asked = error.retry_after_seconds if isinstance(error, SourceUnreachable) else None
                    self._closed.wait(max(pause, asked or 0.0))
                    delay = min(delay * 2, _LAST_DENIED_DELAY if denied else _LAST_DELAY)
        except Exception as bug:  # noqa: BLE001 - raised by the watch, or this thread's end would go unnoticed
            self._bug = bug
            self._woken.set()

    def _due(self) -> float:
        """When the first of what is held must be renewed."""
        held = [*self._leases.values(), *([self._token] if self._token is not None else [])]
        return min((lease.due() for lease in held), default=float("inf"))

    def _renew_due(self) -> None:
        """Renew what is due, the token first; what is not to be renewed is lost, which wakes the watch."""
        with self._lock:
            deadline = time.monotonic() + self._context.timeout_seconds
            failed: SourceError | None = None
            token = self._token
            if token is not None and not self._leases:
                if token.due() <= time.monotonic() and not self._renew_token(token, deadline):
                    self._token = None  # nothing hangs on it: the next fetch logs in, if ever there is one
                return
            try:
                self._authorised(deadline)
                for path, lease in list(self._leases.items()):
                    try:
                        if lease.due() <= time.monotonic() and not self._renew(lease, deadline):
                            self._leases.pop(path, None)
                    except SourceUnreachable as error:  # one engine that is down must not cost the leases of the others
                        failed = error
                if failed is not None:
                    raise failed
            finally:
                if self._token is not None and self._token.seconds and self._token.ends <= time.monotonic():
                    self._token = None
                    self._leases.clear()
                for path, lease in list(self._leases.items()):
                    if lease.seconds and lease.ends <= time.monotonic():
                        del self._leases[path]
                if self._lost():
                    self._woken.set()

    def _ask(self, method: str, path: str, deadline: float, body: Mapping[str, Any] | None = None) -> Reply:
        known = self._token
        headers = self._authorised(deadline)
        try:
            return self._send(method, path, deadline, body, headers)
        except SourceDenied:
            if known is None or self._token is not known:  # the login is of just now, or a token's file is
                raise
        fresh = self._log_in(deadline)
        # Where this is denied, too, it is the policy that denies: the token and its leases are good, and stay.
        reply = self._send(method, path, deadline, body, {"X-Vault-Token": Secret(fresh.id)})
        self._replace(fresh)  # it was revoked; whoever logs in anew knows
        return reply

    def _send(
        self,
        method: str,
        path: str,
        deadline: float,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, Any],
        expect: Sequence[int] = (200, 404),
    ) -> Reply:
        named = {"X-Vault-Namespace": self._options.namespace} if self._options.namespace else {}
        return self._client.request(
            method,
            f"{self._base}/{path}",
            headers={"X-Vault-Request": "true", **named, **headers},
            body=None if body is None else json.dumps(body).encode(),
            timeout_seconds=self._context.timeout_seconds,
            deadline=deadline,
            expect=expect,
        )

    def _authorised(self, deadline: float) -> Mapping[str, str | Secret]:
        if self._options.auth == "token":
            return {"X-Vault-Token": Secret(token_of_file(self._options, self._context))}
        token = self._token
        if token is None or (time.monotonic() >= token.due() and not self._renew_token(token, deadline)):
            token = self._log_in(deadline)
            self._replace(token)
        return {"X-Vault-Token": Secret(token.id)}

    def _replace(self, token: _Lease) -> None:
        self._token = token
        self._leases.clear()  # leases end with the token that asked for them

    def _log_in(self, deadline: float) -> _Lease:
        reply = self._send("PUT", self._login.path, deadline, self._login.body(), {}, (200, 400, 404))
        if reply.status == 404:
            raise SourceDenied(f"{reply.url}: no auth method is mounted there", hint="check auth_mount")
        if reply.status == 400:
            raise SourceDenied(f"{reply.url}: the login is refused", hint="check the role and its credential")
        return _lease(_table(reply, "auth"), "client_token", {}, reply)

    def _renew_token(self, token: _Lease, deadline: float) -> bool:
        if not token.renewable or token.ends <= time.monotonic():
            return False
        headers = {"X-Vault-Token": Secret(token.id)}
        try:
            answer = _table(self._send("PUT", "auth/token/renew-self", deadline, {}, headers), "auth")
        except (SourceDenied, SourceInvalid):
            return False
        granted = answer.get("lease_duration", 0)
        if not isinstance(granted, (int, float)) or granted < token.seconds * _REPLACE_BELOW:
            return False
        token.ends = time.monotonic() + granted
        return True

    def close(self) -> None:
        self._closed.set()
        self._woken.set()
        self._renewed.set()
        self._client.close()
        self._login.close()


def _lease(answer: Mapping[str, Any], name: str, content: dict[str, Any], reply: Reply) -> _Lease:
    identity, seconds = answer.get(name), answer.get("lease_duration", 0)
    if not isinstance(identity, str) or not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise SourceInvalid(f"{reply.url} answers without {name}")
    return _Lease(identity, float(seconds), answer.get("renewable") is True, time.monotonic() + seconds, content)


def _table(reply: Reply, field: str = "") -> dict[str, Any]:
    """The answer, or a table in it. Raises SourceInvalid where that is none."""
    found = json_body(reply)
    found = found.get(field) if field and isinstance(found, dict) else found
    if reply.status == 404 or not isinstance(found, dict):
        raise SourceInvalid(f"{reply.url} answers with something that is not of Vault")
    return found
