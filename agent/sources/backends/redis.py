"""`redis`: keys below a prefix, or one hash, a layer; watched through keyspace notifications where the server sends them."""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from agent.errors import SourceDenied, SourceError, SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.net.credentials import read_secret
from agent.net.http_client import MAX_BODY_BYTES, TlsOptions, check_url, shown
from agent.net.sockets import describe_network_error
from agent.settings.schema import setting
from agent.sources import SourceContext, key_tree, optional

T = TypeVar("T")
_PAGE = 1000
_MOST_KEYS = 1_000_000
_DRAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions(TlsOptions):
    url: str = setting("redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH", "redis://127.0.0.1:6379/0")
    prefix: str = setting("what the names of the keys begin with", "")
    separator: str = setting("what stands between the segments of a key, and for the slashes of a layer", ":")
    username: str = setting("the ACL user; default: the default user", "")
    password_file: str = setting("file, or credential:NAME, with the password", "")

    def __post_init__(self) -> None:
        check_url(self.url, "url", schemes=("redis", "rediss", "unix"))
        if not self.separator:
            raise ValueError("separator is empty")
        if not re.fullmatch(r"/?\d*", urlsplit(self.url).path) and not self.url.startswith("unix:"):
            raise ValueError("url: the path must be the number of a database, such as /0")


class RedisSource:
    """Redis from 4.0 on, and what speaks its protocol."""

    options_class: ClassVar[type[Any]] = RedisOptions

    def __init__(self, options: RedisOptions, context: SourceContext) -> None:
        optional.require("redis", "redis", "redis", "python3-redis")
        self._options = options
        self._context = context
        self._client: Any = None
        self._pubsub: Any = None
        self._budget: Any = None
        self._closed = threading.Event()
        self._poll_at = self._next_poll()
        self._place = f"redis at {shown(options.url).partition('://')[2]}"
        options.warn()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        seconds = self._context.timeout_seconds
        try:
            return optional.call_with_timeout(
                seconds, lambda: self._retried(lambda: self._fetch(layers)), self._place, self._drop
            )
        finally:
            self._poll_at = self._next_poll()

    def _next_poll(self) -> float:
        return time.monotonic() + self._context.poll_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret

    def _fetch(self, layers: Sequence[str]) -> Snapshot:
        self._connected()
        self._budget.left = MAX_BODY_BYTES
        prefixes = {layer: self._prefix(layer) for layer in layers}
        exclude_prefixes = {layer: key_tree.nested_layers(layer, layers) for layer in layers}
        names = {layer: self._names(prefixes[layer], exclude_prefixes[layer]) for layer in layers}
        pipe = self._connected().pipeline(transaction=True)  # the values of all layers are of one moment
        for layer in layers:
            pipe.hgetall(self._hash(layer))
            for start in range(0, len(names[layer]), _PAGE):
                pipe.mget(names[layer][start : start + _PAGE])
        self._budget.left = MAX_BODY_BYTES
        answers = iter(pipe.execute(raise_on_error=False))
        read = []
        for layer in layers:
            fields = next(answers)
            values = [v for _ in range(0, len(names[layer]), _PAGE) for v in _usable(next(answers))]
            pairs = dict(zip(names[layer], values, strict=True))
            read.append(self._layer(layer, layers, fields, pairs))
        return Snapshot(tuple(read), key_tree.combined(read))

    def _hash(self, layer: str) -> bytes:
        return self._prefix(layer)[: -len(self._options.separator)].encode()

    def _prefix(self, layer: str) -> str:
        mark = self._options.separator
        return key_tree.joined(self._options.prefix, layer.replace("/", mark), separator=mark) + mark

    def _names(self, prefix: str, exclude_prefixes: Sequence[str]) -> list[bytes]:
        mark = self._options.separator
        others = tuple((prefix + other.replace("/", mark)).encode() for other in exclude_prefixes)
        pattern = re.sub(r"([\[\]*?\\])", r"\\\1", prefix if prefix != mark else "") + "*"
        names: set[bytes] = set()
        for name in self._connected().scan_iter(match=pattern, count=_PAGE):
            if not (others and name.startswith(others)) and name + mark.encode() not in others:
                names.add(name)
            if len(names) > _MOST_KEYS:
                raise SourceInvalid(f"more than {_MOST_KEYS} keys begin with {prefix}")
        return sorted(names)

    def _layer(self, layer: str, layers: Sequence[str], fields: Any, values: dict[bytes, bytes | None]) -> Layer:
        prefix, where = self._prefix(layer), f'layer "{layer}"'
        gone = [name for name, value in values.items() if value is None and name != self._hash(layer)]
        if isinstance(fields, Exception):
            raise SourceInvalid(f"{where}: the key {self._hash(layer)!r} is no hash")
        if gone and any(self._connected().exists(name) for name in gone):
            raise SourceInvalid(f"{where}: {gone[0]!r} is no string", hint="keys below a prefix must be strings")
        kept = {name: value for name, value in values.items() if value is not None}
        if fields and kept:
            raise SourceInvalid(f"{where} is a hash and has keys below its name as well", hint="keep one of the two")
        if not fields and not kept:
            return Layer(layer, None)
        start = "" if fields else prefix if prefix != self._options.separator else ""
        pairs = []
        for name, value in (fields or kept).items():
            key = key_tree.text(name, repr(name))
            pairs.append((key.removeprefix(start), key_tree.text(value, key)))
        tree = key_tree.tree(pairs, self._options.separator, where)
        return Layer(layer, tree, key_tree.digest(repr(sorted(pairs))))

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        try:
            with self._translated():
                return self._wait(seen, timeout_seconds)
        except (SourceError, AttributeError, RuntimeError, TypeError) as error:
            if self._closed.is_set():
                return False
            if isinstance(error, SourceError):
                raise
            # What the library does where another thread's fetch has dropped the connections.
            raise SourceUnreachable("redis: the connection of the watch was dropped") from None

    def _wait(self, seen: Snapshot, timeout_seconds: float) -> bool:
        layers = [layer.name for layer in seen.layers]
        deadline = time.monotonic() + timeout_seconds
        if self._pubsub is None:
            begin: Callable[[], bool] = lambda: self._notifies() and self._subscribe(layers)  # noqa: E731
            if not optional.call_with_timeout(self._context.timeout_seconds, begin, self._place, self._drop):
                self._closed.wait(max(0.0, min(deadline, self._poll_at) - time.monotonic()))
                return not self._closed.is_set() and time.monotonic() >= self._poll_at
            if self.fetch(layers) != seen:  # what changed before the subscription
                return True
        while not self._closed.is_set() and (left := deadline - time.monotonic()) > 0:
            if self._pubsub.get_message(ignore_subscribe_messages=True, timeout=left) is not None:
                self._drain()
                return not self._closed.is_set()
        return False

    def _drain(self) -> None:
        """Take what else waits: one fetch answers all of it. A server that is written to without end is not waited for."""
        end = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < end and self._pubsub.get_message(timeout=0) is not None:
            pass

    def _notifies(self) -> bool:
        """Whether the server tells of changes to keys: K, and A or each of generic, string, hash and expired."""
        try:
            found = self._connected().config_get("notify-keyspace-events")
        except self._library().ResponseError:  # not allowed to ask, as on managed servers
            return False
        flags = "".join(value if isinstance(value, str) else value.decode() for value in found.values())
        return "K" in flags and ("A" in flags or set("g$hx") <= set(flags))

    def _subscribe(self, layers: Sequence[str]) -> bool:
        pubsub = self._connected().pubsub()
        patterns = []
        for layer in layers:
            mark = self._options.separator
            prefix = self._prefix(layer) if self._prefix(layer) != mark else ""
            quoted = re.sub(r"([\[\]*?\\])", r"\\\1", prefix)
            patterns += [f"__keyspace@*__:{quoted}*", f"__keyspace@*__:{quoted.removesuffix(mark)}"]
        pubsub.psubscribe(*patterns)
        self._pubsub = pubsub
        return True

    def _retried(self, call: Callable[[], T]) -> T:
        """Once more over a new connection: an idle one may have died with a server that is back."""
        try:
            with self._translated():
                return call()
        except SourceUnreachable:
            if self._closed.is_set():
                raise
        with self._translated():
            return call()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        library = self._library()
        place = self._place
        try:
            yield
        except (library.AuthenticationError, library.NoPermissionError) as error:
            self._drop()
            hint = "check username, password_file and the ACL"
            raise SourceDenied(f"{place}: {type(error).__name__}", hint=hint) from None
        except (library.ConnectionError, library.TimeoutError, OSError, ValueError) as error:
            self._drop()
            if "NOAUTH" in str(error) or "WRONGPASS" in str(error):
                raise SourceDenied(f"{place}: it wants a password", hint="check password_file") from None
            late = isinstance(error, library.TimeoutError)
            otherwise = "no answer in time" if late else "the connection broke off, or is not Redis's"
            known = describe_network_error(error) or (otherwise, None)
            raise SourceUnreachable(f"{place}: {known[0]}", hint=known[1]) from None
        except library.ResponseError as error:
            word = str(error).split(" ", 1)[0]
            if word in ("LOADING", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "TRYAGAIN"):
                raise SourceUnreachable(f"{place}: {word}") from None
            if word in ("NOAUTH", "WRONGPASS", "NOPERM"):
                self._drop()
                raise SourceDenied(f"{place}: {word}", hint="check username, password_file and the ACL") from None
            raise SourceInvalid(f"{place} refuses a command: {word}") from None
        except library.RedisError as error:
            self._drop()
            raise SourceInvalid(f"{place}: {type(error).__name__}", hint="is it Redis that answers there?") from None

    def _library(self) -> Any:
        import redis.exceptions

        return redis.exceptions

    def _connected(self) -> Any:
        if self._closed.is_set():
            raise SourceUnreachable("redis: closed")
        if self._client is None:
            from agent.sources.backends.redisconnection import Budget, client

            password = self._options.password_file and read_secret(self._options.password_file, self._context.paths)
            self._budget = Budget()
            self._client = client(self._options, self._context, password or None, self._budget)
        return self._client

    def _drop(self) -> None:
        """Forget the connections; the next use makes new ones, with the password read anew."""
        client, pubsub, self._client, self._pubsub = self._client, self._pubsub, None, None
        # Two threads may drop at once, the one that is cut off and the one that cuts; the library minds that.
        with contextlib.suppress(Exception):
            if client is not None:
                client.connection_pool.disconnect()
            if pubsub is not None:
                pubsub.close()

    def close(self) -> None:
        self._closed.set()
        self._drop()


def _usable(values: Any) -> Sequence[bytes | None]:
    if isinstance(values, Exception):
        raise values
    return values  # type: ignore[no-any-return]
