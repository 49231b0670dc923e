"""Requests to Vault with a token: the token is renewed, and replaced by a new login when Vault refuses it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.errors import SourceDenied, SourceInvalid
from agent.net.http_client import Client, Reply, json_body
from agent.secret import Secret
from agent.sources import SourceContext
from agent.sources.backends.vault_auth import Login, VaultOptions, read_token

_RENEW_AT, _REPLACE_BELOW = 2 / 3, 1 / 3
"""A lease is due after two thirds of its time; a renewal that grants less than a third of it is not worth keeping."""


@dataclass(slots=True)
class Lease:
    """A token, or a secret with a lease. `ends` is a time of time.monotonic(); `seconds` is 0 if the lease never ends."""

    id: str = field(repr=False)
    seconds: float
    renewable: bool
    ends: float
    content: dict[str, Any] = field(repr=False)

    def due(self) -> float:
        """Return the time of time.monotonic() at which it must be renewed or replaced."""
        return self.ends - self.seconds * (1 - _RENEW_AT) if self.seconds else float("inf")

    def has_ended(self) -> bool:
        """Return whether the lease is over."""
        return bool(self.seconds) and self.ends <= time.monotonic()

    def extend(self, answer: Mapping[str, Any]) -> bool:
        """Take over the duration that a renewal granted. Return False if it is too short: the lease must be replaced."""
        granted = answer.get("lease_duration", 0)
        if not isinstance(granted, (int, float)) or granted < self.seconds * _REPLACE_BELOW:
            return False
        self.ends = time.monotonic() + granted
        return True


class VaultSession:
    """The HTTP API at one address, with the token of the configured auth method.

    `on_new_token` is called after a login has replaced the token: leases end with the token that requested them. Times are
    of time.monotonic(). The API is at https://developer.hashicorp.com/vault/api-docs.
    """

    def __init__(self, options: VaultOptions, context: SourceContext, on_new_token: Callable[[], None]) -> None:
        self.base = f"{options.address.rstrip('/')}/v1"
        self.token: Lease | None = None
        self._options = options
        self._context = context
        self._on_new_token = on_new_token
        # A standby redirects to the active server, which needs the token too.
        self._client = Client(context.paths, tls=options, stopping=context.stopping, trust_redirects=True)
        self._login = Login(options, context)

    def ask(self, method: str, path: str, deadline: float) -> Reply:
        """Send a request with the token, and once more with a new token if it is denied.

        Return the reply with status 200 or 404. Raises SourceUnreachable, SourceDenied or SourceInvalid.
        """
        previous = self.token
        headers = self.auth_headers(deadline)
        try:
            return self.send(method, path, deadline, None, headers)
        except SourceDenied:
            if previous is None or self.token is not previous:  # the login is new, or the token is from a file
                raise
        fresh = self._log_in(deadline)
        # If the new token is denied as well, the policy denies: the old token and its leases are good, and stay.
        reply = self.send(method, path, deadline, None, {"X-Vault-Token": Secret(fresh.id)})
        self._replace_token(fresh)
        return reply

    def send(
        self,
        method: str,
        path: str,
        deadline: float,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str | Secret],
        expect: Sequence[int] = (200, 404),
    ) -> Reply:
        """Send one request. `path` is below /v1, `body` is sent as JSON, and `expect` are the statuses that are no error."""
        namespace = {"X-Vault-Namespace": self._options.namespace} if self._options.namespace else {}
        return self._client.request(
            method,
            f"{self.base}/{path}",
            headers={"X-Vault-Request": "true", **namespace, **headers},
            body=None if body is None else json.dumps(body).encode(),
            timeout_seconds=self._context.timeout_seconds,
            deadline=deadline,
            expect=expect,
        )

    def auth_headers(self, deadline: float) -> Mapping[str, str | Secret]:
        """Return the header with the token. The token is renewed or replaced first if it is due."""
        if self._options.auth == "token":
            return {"X-Vault-Token": Secret(read_token(self._options, self._context))}
        token = self.token
        if token is None or (time.monotonic() >= token.due() and not self.renew_token(token, deadline)):
            token = self._log_in(deadline)
            self._replace_token(token)
        return {"X-Vault-Token": Secret(token.id)}

    def renew_token(self, token: Lease, deadline: float) -> bool:
        """Renew the token. Return False if it must be replaced."""
        if not token.renewable or token.ends <= time.monotonic():
            return False
        headers = {"X-Vault-Token": Secret(token.id)}
        try:
            reply = self.send("PUT", "auth/token/renew-self", deadline, {}, headers)
            return token.extend(table_of(reply, "auth"))
        except (SourceDenied, SourceInvalid):
            return False

    def _replace_token(self, token: Lease) -> None:
        self.token = token
        self._on_new_token()

    def _log_in(self, deadline: float) -> Lease:
        reply = self.send("PUT", self._login.path, deadline, self._login.body(), {}, (200, 400, 404))
        if reply.status == 404:
            raise SourceDenied(f"{reply.url}: no auth method is mounted there", hint="check auth_mount")
        if reply.status == 400:
            raise SourceDenied(f"{reply.url}: the login is refused", hint="check the role and its credential")
        return new_lease(table_of(reply, "auth"), "client_token", {}, reply)

    def close(self) -> None:
        """Close the connections, and end requests in other threads."""
        self._client.close()
        self._login.close()


def new_lease(answer: Mapping[str, Any], id_field: str, content: dict[str, Any], reply: Reply) -> Lease:
    """Return the lease of an answer, whose id is in `id_field`. Raises SourceInvalid."""
    identity, seconds = answer.get(id_field), answer.get("lease_duration", 0)
    if not isinstance(identity, str) or not isinstance(seconds, (int, float)) or isinstance(seconds, bool):
        raise SourceInvalid(f"{reply.url}: the answer has no {id_field}")
    return Lease(identity, float(seconds), answer.get("renewable") is True, time.monotonic() + seconds, content)


def table_of(reply: Reply, name: str = "") -> dict[str, Any]:
    """Return the answer's JSON table, or the table `name` in it. Raises SourceInvalid."""
    answer = json_body(reply)
    answer = answer.get(name) if name and isinstance(answer, dict) else answer
    if reply.status == 404 or not isinstance(answer, dict):
        raise SourceInvalid(f"{reply.url}: the answer is not from Vault")
    return answer
