"""A metadata service: 404 is an answer; 429, 5xx and a broken connection are tried again, inside the one deadline."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Self

from agent.discovery import Context, userdata
from agent.discovery.metadata_connection import MAX_BODY, Connection, Reply, TooLong
from agent.errors import DiscoveryError
from agent.model import Attempt

FIRST_PAUSE_SECONDS = 0.05
MOST_PAUSE_SECONDS = 1.0
FIRST_ADDRESS_SECONDS = 1.0
"""How long one of several addresses may take before the next is tried: they are all on the link."""


class Service:
    """One platform's service. `headers` goes with every request.

    Of several addresses the first that answers is kept, so that an instance with IPv6 alone is served too. `retried`
    are statuses that mean "not yet" on this platform besides 429 and 5xx.
    """

    def __init__(
        self,
        context: Context,
        *bases: str,
        headers: Mapping[str, str] | None = None,
        unix_socket: str = "",
        retried: tuple[int, ...] = (),
        privileged_port: bool = False,
    ) -> None:
        self._context = context
        self.headers = dict(headers or {})
        self._retried = retried
        self._aborted = False
        addresses = (context.settings.imds_url,) if context.settings.imds_url else bases
        self._connections = [Connection(base, unix_socket=unix_socket, privileged_port=privileged_port) for base in addresses]

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> bytes | None:
        """The body, or None where the service says 404. Raises DiscoveryError."""
        reply = self.request("GET", path, headers or {})
        if reply.status in (404, 410):
            return None
        if reply.status not in (200, 204):
            raise self._refused("GET", path, reply)
        if b"<html" in reply.body[:256].lower():
            raise DiscoveryError(f"{self._name(path)} answered with a web page: something else answers there")
        return reply.body

    def token(self, path: str, headers: Mapping[str, str]) -> str | None:
        """What a PUT gives, or None where the service has no such thing (404, 405). Raises DiscoveryError.

        A time-out is an error and never None: falling back to requests without a token is for services without them.
        """
        reply = self.request("PUT", path, {"Content-Length": "0", **headers})
        if reply.status in (404, 405):
            return None
        if reply.status != 200:
            raise self._refused("PUT", path, reply)
        token = self._decode(reply.body, path).strip()
        if not token.isprintable() or not token.isascii() or not token:
            raise DiscoveryError(f"{self._name(path)} gave something that is no token")
        return token

    def text(self, path: str) -> str | None:
        """A body of one line, or None where there is none."""
        body = self.get(path)
        return (self._decode(body, path).strip() or None) if body is not None else None

    def lines(self, path: str) -> list[str]:
        """The entries of a listing, [] where there is none."""
        return [line.strip() for line in (self.text(path) or "").splitlines() if line.strip()]

    def json(self, path: str, headers: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """A JSON object, or None where there is none. Raises DiscoveryError for anything else, such as half of one."""
        body = self.get(path, headers)
        return userdata.json_table(body, self._name(path)) if body else None

    def yaml(self, path: str) -> dict[str, Any] | None:
        """A YAML mapping, or None where there is none."""
        body = self.get(path)
        return userdata.yaml_table(body, self._name(path)) if body else None

    def request(self, method: str, path: str, headers: Mapping[str, str], *, patient: bool = False) -> Reply:
        """Any final answer, once one comes. Raises DiscoveryError at the deadline, with what happened last.

        `patient` is for what takes its time to answer: it is given all that is left.
        """
        start, pause, tries, last = time.monotonic(), FIRST_PAUSE_SECONDS, 0, "it was not asked"
        while (now := time.monotonic()) < self._context.deadline and not self._aborted:
            connection = self._connections[tries % len(self._connections)]
            tries += 1
            # Half of what is left: a request that got lost must not take the time of the one that would not.
            share = (self._context.deadline - now) / (1 if patient else 2)
            if len(self._connections) > 1:
                share = min(share, FIRST_ADDRESS_SECONDS)
            until = now + max(0.2, share)
            try:
                reply = connection.send(method, path, {**self.headers, **headers}, min(until, self._context.deadline))
            except TooLong:
                raise DiscoveryError(f"{self._name(path)} answered with more than {MAX_BODY} bytes") from None
            except (OSError, HTTPException, ValueError) as error:
                last = _reason(error)
                wait = 0.0 if tries < len(self._connections) else random.uniform(pause / 2, pause)  # noqa: S311
            else:
                last = f"it answered {reply.status}"
                if reply.status != 429 and reply.status < 500 and reply.status not in self._retried:
                    self._connections = [connection]
                    self._note(f"{method} {path}: {reply.status}", start)
                    return reply
                wait = max(random.uniform(pause / 2, pause), _retry_after(reply))  # noqa: S311
            pause = min(pause * 2, MOST_PAUSE_SECONDS)
            if tries >= len(self._connections) and time.monotonic() + wait >= self._context.deadline:
                break
            time.sleep(wait)
        self._note(f"{method} {path}: {last}", start)
        raise DiscoveryError(f"{self._name(path)} gave no answer within the time of discovery: {last}")

    def abort(self) -> None:
        """Make a request in another thread fail at once."""
        self._aborted = True
        for connection in self._connections:
            connection.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()

    def _note(self, outcome: str, start: float) -> None:
        self._context.attempts.append(Attempt(self._context.label, outcome, round(time.monotonic() - start, 6)))

    def _name(self, path: str) -> str:
        return f"{self._connections[0].base}{path.partition('?')[0]}"

    def _decode(self, body: bytes, path: str) -> str:
        return userdata.text(body, self._name(path))

    def _refused(self, method: str, path: str, reply: Reply) -> DiscoveryError:
        what = f"{self._name(path)} answered {method} with {reply.status}"
        if 300 <= reply.status < 400:
            return DiscoveryError(f"{what}, a redirect, which is not followed for metadata")
        if reply.status in (401, 403):
            return DiscoveryError(
                f"{what}: it refuses this instance",
                hint="the service may be switched off, or something between it and this instance changes requests",
            )
        return DiscoveryError(what)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return f"the answer broke off, or is no HTTP ({type(error).__name__})"


def _retry_after(reply: Reply) -> float:
    text = reply.headers.get("retry-after", "")
    return float(text) if text.isdigit() and len(text) < 6 else 0.0
