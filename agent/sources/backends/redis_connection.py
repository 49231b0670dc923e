"""Connection pools of the redis library, with parbake's TLS options, a limit on what is read, and parbake's errors.

The module imports the library, so the backend imports it with the first connection.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.net.http_client import MAX_BODY_BYTES
from agent.net.sockets import describe_network_error
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

_UNAVAILABLE = ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "TRYAGAIN")
_DENIED = ("NOAUTH", "WRONGPASS", "NOPERM")
_DENIED_HINT = "check username, password_file and the ACL"


@dataclass(slots=True)
class ByteBudget:
    """How many bytes may still be read. The library itself reads everything that the server sends."""

    left: int = MAX_BODY_BYTES

    def spend(self, count: int) -> None:
        """Count bytes that were read. Raises SourceInvalid if they are more than are left."""
        self.left -= count
        if self.left < 0:
            raise SourceInvalid(f"redis sends more than {MAX_BODY_BYTES} bytes", hint="look for a key with a huge value")


class _CountingSocket:
    """A socket that spends a budget with each read."""

    def __init__(self, connection: socket.socket, budget: ByteBudget) -> None:
        self._connection, self._budget = connection, budget

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def recv(self, *args: Any) -> bytes:
        content = self._connection.recv(*args)
        self._budget.spend(len(content))
        return content

    def recv_into(self, *args: Any) -> int:
        count = self._connection.recv_into(*args)
        self._budget.spend(count)
        return count


def new_client(options: RedisOptions, context: SourceContext, password: Secret | None, budget: ByteBudget) -> Any:
    """Return a client that connects when it is first used. Raises SourceUnreachable for unreadable certificates."""
    parts = urlsplit(options.url)
    settings: dict[str, Any] = {
        "db": int(parts.path.strip("/") or 0) if parts.scheme != "unix" else 0,
        "username": options.username or None,
        "password": password.reveal() if password else None,
        "socket_timeout": context.timeout_seconds,
        "socket_connect_timeout": context.timeout_seconds,
        "health_check_interval": 30,
        # The library must not renew a subscription by itself: changes during the interruption would be lost.
        "retry": Retry(NoBackoff(), 0, ()),
    }
    if parts.scheme == "unix":
        kind: Any = redis.UnixDomainSocketConnection
        settings["path"] = str(context.paths.host(parts.path))
        del settings["socket_connect_timeout"]  # older versions of the library do not have it for Unix sockets
    else:
        settings |= {"host": parts.hostname, "port": parts.port or 6379, "socket_keepalive": True}
        settings["socket_keepalive_options"] = _KEEPALIVE
        kind = _tls_connection(options, context) if parts.scheme == "rediss" else redis.Connection
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=_counting(kind, budget), **settings))


def _counting(kind: Any, budget: ByteBudget) -> Any:
    class CountingConnection(kind):  # type: ignore[misc]
        def _connect(self) -> Any:
            return _CountingSocket(super()._connect(), budget)

    return CountingConnection


def _tls_connection(options: RedisOptions, context: SourceContext) -> Any:
    tls = options.ssl_context(context.paths)

    class TlsConnection(redis.Connection):
        def _connect(self) -> Any:
            plain: Any = super()._connect()  # type: ignore[no-untyped-call]
            try:
                return tls.wrap_socket(plain, server_hostname=options.server_name or self.host)
            except BaseException:
                plain.close()
                raise

    return TlsConnection


@contextlib.contextmanager
def translated_errors(peer: str, drop: Callable[[], None]) -> Iterator[None]:
    """Turn the library's exceptions into errors of the source, without their text, which may hold a value.

    `peer` names the server in messages. `drop` closes the connections; it is called if they cannot be used again.
    """
    try:
        yield
    except (exceptions.AuthenticationError, exceptions.NoPermissionError) as error:
        drop()
        raise SourceDenied(f"{peer}: {type(error).__name__}", hint=_DENIED_HINT) from None
    except (exceptions.ConnectionError, exceptions.TimeoutError, OSError, ValueError) as error:
        drop()
        if "NOAUTH" in str(error) or "WRONGPASS" in str(error):
            raise SourceDenied(f"{peer}: it wants a password", hint="check password_file") from None
        late = isinstance(error, exceptions.TimeoutError)
        otherwise = "no answer in time" if late else "the connection broke off, or is not Redis's"
        reason, hint = describe_network_error(error) or (otherwise, None)
        raise SourceUnreachable(f"{peer}: {reason}", hint=hint) from None
    except exceptions.ResponseError as error:
        code = str(error).split(" ", 1)[0]
        if code in _UNAVAILABLE:
            raise SourceUnreachable(f"{peer}: {code}") from None
        if code in _DENIED:
            drop()
            raise SourceDenied(f"{peer}: {code}", hint=_DENIED_HINT) from None
        raise SourceInvalid(f"{peer} refuses a command: {code}") from None
    except exceptions.RedisError as error:
        drop()
        raise SourceInvalid(f"{peer}: {type(error).__name__}", hint="is it Redis that answers there?") from None
