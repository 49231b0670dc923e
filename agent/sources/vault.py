"""`vault`: a KV secret a layer, and secrets with a lease that are renewed, and replaced before they end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote

from agent.errors import SourceDenied, SourceInvalid
from agent.httpclient import Client, Reply, json_body
from agent.model import Layer, Secret, Snapshot
from agent.sources import SourceContext, documents, keys
from agent.sources.vaultauth import Login, VaultOptions, token_of_file

_RENEW_AT, _REPLACE_BELOW = 2 / 3, 1 / 3


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
        self._client = Client(context.places, tls=options, stopping=context.stopping, trust_redirects=True)
        self._login = Login(options, context)
        self._token: _Lease | None = None
        self._leases: dict[str, _Lease] = {}
        self._version = ""
        self._closed = threading.Event()
        self._lock = threading.RLock()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        with self._lock:
            deadline = time.monotonic() + self._context.timeout_seconds
            read = [self._layer(layer, deadline) for layer in layers]
            if self._options.dynamic:
                read.append(self._dynamic(deadline))
            return Snapshot(tuple(read), keys.combined(read), secret=True)

    def _layer(self, layer: str, deadline: float) -> Layer:
        path = keys.joined(self._options.prefix, layer)
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
            return Layer(layer, documents.table(held, reply.url), str(metadata.get("version", "")))
        return Layer(layer, documents.table(found, reply.url), keys.digest(reply.body))

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
        for path in self._options.dynamic:
            lease = self._leases.get(path)
            if lease is not None and (time.monotonic() < lease.due() or self._renew(lease, deadline)):
                continue
            reply = self._ask("GET", quote(path), deadline)
            if reply.status == 404:
                raise SourceInvalid(f"{reply.url}: there is no such path", hint="check dynamic")
            answer = _table(reply)
            self._leases[path] = _lease(answer, "lease_id", documents.table(answer.get("data"), reply.url), reply)
        pairs = [
            (f"{path}/{key}", value) for path in self._options.dynamic for key, value in self._leases[path].content.items()
        ]
        revision = keys.digest(repr([self._leases[path].id for path in self._options.dynamic]))
        return Layer("dynamic", {"dynamic": keys.tree(pairs, "/", "dynamic")}, revision)

    def _renew(self, lease: _Lease, deadline: float) -> bool:
        """Whether the lease now lasts long enough; False near its greatest age, when a new one must take its place."""
        if not lease.renewable:
            return False
        body = {"lease_id": lease.id, "increment": int(lease.seconds)}
        try:
            answer = _table(self._ask("PUT", "sys/leases/renew", deadline, body))
        except (SourceDenied, SourceInvalid):
            return False
        granted = answer.get("lease_duration", 0)
        if not isinstance(granted, (int, float)) or granted < lease.seconds * _REPLACE_BELOW:
            return False
        lease.ends = time.monotonic() + granted
        return True

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        """True when a lease had to be replaced, and at the poll, since KV engines tell of nothing."""
        deadline = time.monotonic() + timeout_seconds
        poll = time.monotonic() + self._context.poll_seconds
        while not self._closed.is_set():
            now = time.monotonic()
            due = min([lease.due() for lease in self._leases.values()], default=float("inf"))
            if due <= now:
                if not self._keep(now + self._context.timeout_seconds):
                    return True
                continue
            if poll <= now:
                return True
            if deadline <= now:
                return False
            self._closed.wait(min(due, poll, deadline) - now)
        return False

    def _keep(self, deadline: float) -> bool:
        """Renew what is due; False where something must be fetched anew."""
        with self._lock:
            now = time.monotonic()
            due = {path: lease for path, lease in self._leases.items() if lease.due() <= now}
            lost = [path for path, lease in due.items() if not self._renew(lease, deadline)]
            for path in lost:
                del self._leases[path]
            return not lost

    def _ask(self, method: str, path: str, deadline: float, body: Mapping[str, Any] | None = None) -> Reply:
        try:
            return self._send(method, path, deadline, body, self._authorised(deadline))
        except SourceDenied:
            if self._options.auth == "token" or self._token is None:
                raise
            self._token = None  # it may have been revoked; whoever logs in anew knows
            self._leases.clear()
            return self._send(method, path, deadline, body, self._authorised(deadline))

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
        if token is not None and time.monotonic() >= token.due():
            self._token = None  # else the renewal would ask for a renewal
            fresh = {"X-Vault-Token": Secret(token.id)}
            if not self._renew_token(token, fresh, deadline):
                self._leases.clear()  # leases end with the token that asked for them
                token = None
            self._token = token
        if self._token is None:
            reply = self._send("PUT", self._login.path, deadline, self._login.body(), {}, (200, 400, 404))
            if reply.status == 404:
                raise SourceDenied(f"{reply.url}: no auth method is mounted there", hint="check auth_mount")
            if reply.status == 400:
                raise SourceDenied(f"{reply.url}: the login is refused", hint="check the role and its credential")
            self._token = _lease(_table(reply, "auth"), "client_token", {}, reply)
        return {"X-Vault-Token": Secret(self._token.id)}

    def _renew_token(self, token: _Lease, headers: Mapping[str, Any], deadline: float) -> bool:
        if not token.renewable or token.ends <= time.monotonic():
            return False
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
