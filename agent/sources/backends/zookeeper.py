"""`zookeeper`: the tree of nodes below a path, a layer; every read leaves a watch, so a change is seen at once."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.net.credentials import read_secret, resolve_path
from agent.settings.schema import setting
from agent.sources import SourceContext, key_tree, optional

_DEEPEST = 32
_MOST_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ZookeeperOptions:
    hosts: tuple[str, ...] = setting("the ensemble's members, each HOST:PORT", ("127.0.0.1:2181",))
    prefix: str = setting("the node that layers are below", "")
    username: str = setting("the user of digest authentication", "")
    password_file: str = setting("file, or credential:NAME, with the user's password", "")
    ca_file: str = setting("PEM file of the CA that signed the servers' certificates; it switches TLS on", "")
    cert_file: str = setting("PEM file of the client certificate", "")
    key_file: str = setting("PEM file of the client certificate's key, or credential:NAME", "")

    def __post_init__(self) -> None:
        if not self.hosts or any(not host or "/" in host or "," in host for host in self.hosts):
            raise ValueError('hosts must be a list of "HOST:PORT"')
        if bool(self.username) != bool(self.password_file):
            raise ValueError("username and password_file go together")
        if bool(self.cert_file) != bool(self.key_file) or (self.cert_file and not self.ca_file):
            raise ValueError("cert_file and key_file go together, and with ca_file")


class ZookeeperSource:
    """ZooKeeper from 3.4 on. A node with children is a table; one with none is its value."""

    options_class: ClassVar[type[Any]] = ZookeeperOptions

    def __init__(self, options: ZookeeperOptions, context: SourceContext) -> None:
        optional.require("kazoo", "zookeeper", "zookeeper", "python3-kazoo")
        self._options = options
        self._context = context
        self._client: Any = None
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._seen = ""
        self._closed = False
        self._troubles = _Troubles()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        with self._lock:
            deadline = time.monotonic() + self._context.timeout_seconds
            with self._translated():
                client = self._connected(deadline)
                self._changed.clear()
                read = [self._layer(client, layer, layers, deadline) for layer in layers]
            self._seen = key_tree.combined(read)
            return Snapshot(tuple(read), self._seen)

    def _layer(self, client: Any, layer: str, layers: Sequence[str], deadline: float) -> Layer:
        top = "/" + key_tree.joined(self._options.prefix, layer)
        found, newest = self._walk(client, top, deadline)
        if not found:
            client.exists_async(top, watch=self._wake).get(timeout=_left(deadline))
            return Layer(layer, None)
        parents = {path.rpartition("/")[0] for path in found}
        pairs = []
        for path, value in found.items():
            key = path.removeprefix(top).lstrip("/")
            if path not in parents and key and not path.startswith("/zookeeper/"):
                pairs.append((key, key_tree.text(value, path)))
            elif value and key and path != "/zookeeper":
                raise SourceInvalid(f"{path} has a value and children as well", hint="give the value a node of its own")
        tree = key_tree.tree(pairs, "/", f'layer "{layer}"', exclude_prefixes=key_tree.nested_layers(layer, layers))
        return Layer(layer, tree, str(newest))

    def _walk(self, client: Any, top: str, deadline: float) -> tuple[dict[str, bytes], int]:
        """Every node from `top` on with its value, breadth first, a whole generation under way at once."""
        from kazoo.exceptions import NoNodeError

        found: dict[str, bytes] = {}
        newest, size, level = 0, 0, [top]
        for _ in range(_DEEPEST):
            calls = [
                (path, client.get_async(path, watch=self._wake), client.get_children_async(path, watch=self._wake))
                for path in level
            ]
            level = []
            for path, value, children in calls:
                with contextlib.suppress(NoNodeError):  # deleted meanwhile, or never there
                    content, stat = value.get(timeout=_left(deadline))
                    names = children.get(timeout=_left(deadline))
                    found[path] = content or b""
                    size += len(found[path])
                    newest = max(newest, stat.mzxid, stat.pzxid)
                    level += [f"{path.rstrip('/')}/{name}" for name in sorted(names)]
            if size > _MOST_BYTES:
                raise SourceInvalid(f"{top} holds more than {_MOST_BYTES} bytes")
            if not level:
                return found, newest
        raise SourceInvalid(f"{top} is nested deeper than {_DEEPEST}")

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        """True once a node that the last fetch read has changed, or the session was lost and its watches with it."""
        if self._client is None or seen.revision != self._seen:
            return not self._closed
        return self._changed.wait(timeout_seconds) and not self._closed

    def _wake(self, _: Any) -> None:
        self._changed.set()

    def _session(self, state: Any) -> None:
        if state != "CONNECTED":
            self._changed.set()

    def _connected(self, deadline: float) -> Any:
        from kazoo.client import KazooClient

        if self._closed:
            raise SourceUnreachable("zookeeper: closed")
        if self._client is None:
            options, paths = self._options, self._context.paths
            settings: dict[str, Any] = {}
            if options.username:
                password = read_secret(options.password_file, paths).reveal()
                settings["auth_data"] = [("digest", f"{options.username}:{password}")]
            if options.ca_file:
                settings |= {"use_ssl": True, "ca": str(resolve_path(options.ca_file, paths))}
            if options.cert_file:
                settings["certfile"] = str(resolve_path(options.cert_file, paths))
                settings["keyfile"] = str(resolve_path(options.key_file, paths))
            client = KazooClient(hosts=",".join(options.hosts), timeout=10.0, logger=self._troubles.logger, **settings)
            self._troubles.last = ""
            client.add_listener(self._session)
            self._client = client
            client.start_async()
        while not self._client.connected:
            if _left(deadline) <= 0.01 or self._closed:
                why = f" ({self._troubles.last})" if self._troubles.last else ""
                raise SourceUnreachable(f"zookeeper at {', '.join(self._options.hosts)}: no session in time{why}")
            time.sleep(0.02)
        return self._client

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        from kazoo import exceptions
        from kazoo.handlers.threading import KazooTimeoutError

        place = f"zookeeper at {', '.join(self._options.hosts)}"
        try:
            yield
        except (exceptions.NoAuthError, exceptions.AuthFailedError):
            self._drop()
            raise SourceDenied(f"{place}: it denies the read", hint="check username, password_file and ACLs") from None
        except (exceptions.KazooException, KazooTimeoutError, OSError) as error:
            self._drop()
            raise SourceUnreachable(f"{place}: {type(error).__name__}") from None
        except SourceUnreachable:
            self._drop()
            raise

    def _drop(self) -> None:
        """Forget the session; the next fetch opens another, with the password read anew."""
        client, self._client = self._client, None
        if client is not None:
            ending: Callable[[], None] = lambda: _end(client)  # noqa: E731 - kazoo's own stop may take seconds
            threading.Thread(target=ending, name="zookeeper end", daemon=True).start()

    def close(self) -> None:
        self._closed = True
        self._changed.set()
        self._drop()


class _Troubles(logging.Handler):
    """What kazoo last said of a connection that failed: it tries again in a thread of its own, and only its log tells.

    The log ends here, since kazoo writes a line for every attempt.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        self.logger = logging.Logger("kazoo", logging.WARNING)
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Cannot resolve"):
            self.last = "a name does not resolve"
        elif str(record.msg).startswith("Connection "):
            self.last = record.getMessage().partition(": ")[2].lower()


def _end(client: Any) -> None:
    with contextlib.suppress(Exception):
        client.stop()
        client.close()


def _left(deadline: float) -> float:
    return max(0.01, deadline - time.monotonic())
