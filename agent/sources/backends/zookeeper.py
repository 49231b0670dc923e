"""`zookeeper`: a layer is the tree of nodes below a path. Each read leaves a watch, so that a change is reported at once."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.net.credentials import read_secret, resolve_path
from agent.settings.schema import setting
from agent.sources import SourceContext, key_tree, optional
from agent.sources.waiting import wait_for_any

_MAX_DEPTH = 32
_MAX_BYTES = 32 << 20
_SESSION_SECONDS = 10.0
_SLICE_SECONDS = 0.5


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
    """ZooKeeper from 3.4 on. A node with children is a table; a node without is its value."""

    options_class: ClassVar[type[ZookeeperOptions]] = ZookeeperOptions

    def __init__(self, options: ZookeeperOptions, context: SourceContext) -> None:
        optional.require("kazoo", "zookeeper", "zookeeper", "python3-kazoo")
        self._options = options
        self._context = context
        self._peer = f"zookeeper at {', '.join(options.hosts)}"
        self._client: Any = None
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._watched_revision = ""
        self._closed = threading.Event()
        self._connection_log = _ConnectionLog()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        with self._lock:
            deadline = time.monotonic() + self._context.timeout_seconds
            with self._translated():
                client = self._connected(deadline)
                self._changed.clear()
                fetched = [self._layer(client, layer, layers, deadline) for layer in layers]
            self._watched_revision = key_tree.combined_revision(fetched)
            return Snapshot(tuple(fetched), self._watched_revision)

    def _layer(self, client: Any, layer: str, layers: Sequence[str], deadline: float) -> Layer:
        top = "/" + key_tree.join_path(self._options.prefix, layer)
        nodes, newest = self._walk(client, top, deadline)
        if not nodes:
            self._result(client.exists_async(top, watch=self._wake), deadline)
            return Layer(layer, None)
        parents = {path.rpartition("/")[0] for path in nodes}
        pairs = []
        for path, value in nodes.items():
            key = path.removeprefix(top).lstrip("/")
            if path not in parents and key and not path.startswith("/zookeeper/"):
                pairs.append((key, key_tree.decode_text(value, path)))
            elif value and key and path != "/zookeeper":
                raise SourceInvalid(f"{path} has a value and children as well", hint="give the value its own node")
        excluded = key_tree.nested_layers(layer, layers)
        return Layer(layer, key_tree.build_tree(pairs, "/", f'layer "{layer}"', exclude_prefixes=excluded), str(newest))

    def _walk(self, client: Any, top: str, deadline: float) -> tuple[dict[str, bytes], int]:
        """Return the value of every node from `top` on, by path, and the newest transaction among them.

        The nodes are read breadth first, with the requests of one depth under way at the same time.
        """
        from kazoo.exceptions import NoNodeError

        nodes: dict[str, bytes] = {}
        newest, size, paths = 0, 0, [top]
        for _ in range(_MAX_DEPTH):
            calls = [
                (path, client.get_async(path, watch=self._wake), client.get_children_async(path, watch=self._wake))
                for path in paths
            ]
            paths = []
            for path, value_call, children_call in calls:
                with contextlib.suppress(NoNodeError):  # deleted meanwhile, or never there
                    content, stat = self._result(value_call, deadline)
                    names = self._result(children_call, deadline)
                    nodes[path] = content or b""
                    size += len(nodes[path])
                    newest = max(newest, stat.mzxid, stat.pzxid)
                    paths += [f"{path.rstrip('/')}/{name}" for name in sorted(names)]
            if size > _MAX_BYTES:
                raise SourceInvalid(f"{top} holds more than {_MAX_BYTES} bytes")
            if not paths:
                return nodes, newest
        raise SourceInvalid(f"{top} is nested deeper than {_MAX_DEPTH}")

    def _result(self, call: Any, deadline: float) -> Any:
        """Return the result of an asynchronous call of kazoo, or raise its error; SourceUnreachable when stopped."""
        while not call.wait(min(_SLICE_SECONDS, _left(deadline))):
            self._check_stopped()
            if _left(deadline) <= 0:
                break
        return call.get(block=False)

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        """Return True if a node that the last fetch read has changed, or if the session and its watches were lost."""
        if self._client is None or seen.revision != self._watched_revision:
            return not self._is_stopped()
        wait_for_any(timeout_seconds, self._changed, self._closed, self._context.stopping)
        return self._changed.is_set() and not self._is_stopped()

    def _is_stopped(self) -> bool:
        return self._closed.is_set() or self._context.stopping.is_set()

    def _check_stopped(self) -> None:
        if self._is_stopped():
            raise SourceUnreachable(f"{self._peer}: {'closed' if self._closed.is_set() else 'stopped'}")

    def _wake(self, _: Any) -> None:
        self._changed.set()

    def _on_session_state(self, state: Any) -> None:
        if state != "CONNECTED":
            self._changed.set()

    def _connected(self, deadline: float) -> Any:
        from kazoo.client import KazooClient

        self._check_stopped()
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
            hosts, logger = ",".join(options.hosts), self._connection_log.logger
            client = KazooClient(hosts=hosts, timeout=_SESSION_SECONDS, logger=logger, **settings)
            self._connection_log.last = ""
            client.add_listener(self._on_session_state)
            self._client = client
            client.start_async()
        client = self._client
        while not client.connected:
            self._check_stopped()
            if _left(deadline) <= 0:
                reason = f" ({self._connection_log.last})" if self._connection_log.last else ""
                raise SourceUnreachable(f"{self._peer}: no session in time{reason}")
            time.sleep(0.02)
        return client

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn kazoo's exceptions into errors of the source."""
        from kazoo import exceptions
        from kazoo.handlers.threading import KazooTimeoutError

        try:
            yield
        except (exceptions.NoAuthError, exceptions.AuthFailedError):
            self._drop()
            raise SourceDenied(f"{self._peer}: it denies the read", hint="check username, password_file and ACLs") from None
        except (exceptions.KazooException, KazooTimeoutError, OSError) as error:
            self._drop()
            late = isinstance(error, KazooTimeoutError)
            raise SourceUnreachable(f"{self._peer}: {'no answer in time' if late else type(error).__name__}") from None
        except SourceUnreachable:
            self._drop()
            raise

    def _drop(self) -> None:
        """Abandon the session. The next fetch opens another, with the password read again."""
        client, self._client = self._client, None
        if client is not None:  # kazoo's own stop may take seconds
            threading.Thread(target=_end, args=(client,), name="zookeeper end", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        self._changed.set()
        self._drop()


class _ConnectionLog(logging.Handler):
    """Keeps the reason of kazoo's last failed connection: kazoo retries in a thread, and only its log has the reason.

    The log ends here, because kazoo writes a line for every attempt.
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
    return max(0.0, deadline - time.monotonic())
