"""A connection pool of the redis library with TLS by parbake's own options. Imported with the first connection."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from agent.errors import SourceInvalid
from agent.net.http_client import MAX_BODY_BYTES
from agent.secret import Secret
from agent.sources import SourceContext

if TYPE_CHECKING:
    from agent.sources.backends.redis import RedisOptions

_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 30,
    socket.TCP_KEEPINTVL: 10,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 30_000,
}


@dataclass(slots=True)
class Budget:
    """How many bytes may still be read before it is too much. The library itself reads whatever the server sends."""

    left: int = MAX_BODY_BYTES

    def spend(self, count: int) -> None:
        """Raises SourceInvalid once more was read than was given."""
        self.left -= count
        if self.left < 0:
            raise SourceInvalid(f"redis sends more than {MAX_BODY_BYTES} bytes", hint="look for a key with a huge value")


class _Counted:
    """A socket, less what is read from it."""

    def __init__(self, wire: socket.socket, budget: Budget) -> None:
        self._wire, self._budget = wire, budget

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)

    def recv(self, *args: Any) -> bytes:
        found = self._wire.recv(*args)
        self._budget.spend(len(found))
        return found

    def recv_into(self, *args: Any) -> int:
        count = self._wire.recv_into(*args)
        self._budget.spend(count)
        return count


def client(options: RedisOptions, context: SourceContext, password: Secret | None, budget: Budget) -> Any:
    """A client that connects when it is first used. Raises SourceUnreachable for unreadable certificates."""
    parts = urlsplit(options.url)
    settings: dict[str, Any] = {
        "db": int(parts.path.strip("/") or 0) if parts.scheme != "unix" else 0,
        "username": options.username or None,
        "password": password.reveal() if password else None,
        "socket_timeout": context.timeout_seconds,
        "socket_connect_timeout": context.timeout_seconds,
        "health_check_interval": 30,
        # Not even an idle subscription may be made anew behind our back: what changed meanwhile would never be told.
        "retry": Retry(NoBackoff(), 0, ()),
    }
    if parts.scheme == "unix":
        kind: Any = redis.UnixDomainSocketConnection
        settings["path"] = str(context.paths.host(parts.path))
        del settings["socket_connect_timeout"]  # older versions of the library do not know it here
    else:
        settings |= {"host": parts.hostname, "port": parts.port or 6379, "socket_keepalive": True}
        settings["socket_keepalive_options"] = _KEEPALIVE
        kind = _encrypted(options, context) if parts.scheme == "rediss" else redis.Connection
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=_bounded(kind, budget), **settings))


def _bounded(kind: Any, budget: Budget) -> Any:
    class Bounded(kind):  # type: ignore[misc]
        def _connect(self) -> Any:
            return _Counted(super()._connect(), budget)

    return Bounded


def _encrypted(options: RedisOptions, context: SourceContext) -> Any:
    tls = options.ssl_context(context.paths)

    class Encrypted(redis.Connection):
        def _connect(self) -> Any:
            plain: Any = super()._connect()  # type: ignore[no-untyped-call]
            try:
                return tls.wrap_socket(plain, server_hostname=options.server_name or self.host)
            except BaseException:
                plain.close()
                raise

    return Encrypted
