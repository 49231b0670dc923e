"""A connection pool of the redis library with TLS by parbake's own options. Imported with the first connection."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis

from agent.model import Secret
from agent.sources import SourceContext

if TYPE_CHECKING:
    from agent.sources.redis import RedisOptions

_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 30,
    socket.TCP_KEEPINTVL: 10,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 30_000,
}


def client(options: RedisOptions, context: SourceContext, password: Secret | None) -> Any:
    """A client that connects when it is first used. Raises SourceUnreachable for unreadable certificates."""
    parts = urlsplit(options.url)
    settings: dict[str, Any] = {
        "db": int(parts.path.strip("/") or 0) if parts.scheme != "unix" else 0,
        "username": options.username or None,
        "password": password.reveal() if password else None,
        "socket_timeout": context.timeout_seconds,
        "socket_connect_timeout": context.timeout_seconds,
        "health_check_interval": 30,
    }
    if parts.scheme == "unix":
        kind: Any = redis.UnixDomainSocketConnection
        settings["path"] = str(context.places.host(parts.path))
        del settings["socket_connect_timeout"]  # older versions of the library do not know it here
    else:
        settings |= {"host": parts.hostname, "port": parts.port or 6379, "socket_keepalive": True}
        settings["socket_keepalive_options"] = _KEEPALIVE
        kind = _encrypted(options, context) if parts.scheme == "rediss" else redis.Connection
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=kind, **settings))


def _encrypted(options: RedisOptions, context: SourceContext) -> Any:
    tls = options.ssl_context(context.places)

    class Encrypted(redis.Connection):
        def _connect(self) -> Any:
            plain: Any = super()._connect()  # type: ignore[no-untyped-call]
            try:
                return tls.wrap_socket(plain, server_hostname=options.server_name or self.host)
            except BaseException:
                plain.close()
                raise

    return Encrypted
