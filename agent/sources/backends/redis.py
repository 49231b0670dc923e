"""`redis`: a layer is the keys below a prefix, or one hash. Keyspace notifications report changes if the server sends them."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from agent.errors import SourceError, SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.net.backoff import jittered
from agent.net.credentials import read_secret
from agent.net.http_client import MAX_BODY_BYTES, TlsOptions, check_url, shown
from agent.settings.schema import setting
from agent.sources import SourceContext, key_tree, optional
from agent.sources.waiting import wait_for_any

T = TypeVar("T")
_PAGE = 1000
_MAX_KEYS = 1_000_000
_DRAIN_SECONDS = 1.0
_SLICE_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisOptions(TlsOptions):
    url: str = setting("redis://HOST:PORT/DB, rediss:// for TLS, or unix:///PATH", "redis://127.0.0.1:6379/0")
    prefix: str = setting("the beginning of the keys' names", "")
    separator: str = setting("the text between the segments of a key, which also replaces a layer's slashes", ":")
    username: str = setting("the ACL user; default: the default user", "")
    password_file: str = setting("file, or credential:NAME, with the password", "")

    def __post_init__(self) -> None:
        check_url(self.url, "url", schemes=("redis", "rediss", "unix"))
        if not self.separator:
            raise ValueError("separator is empty")
        if not re.fullmatch(r"/?\d*", urlsplit(self.url).path) and not self.url.startswith("unix:"):
            raise ValueError("url: the path must be the number of a database, such as /0")


class RedisSource:
    """Redis from 4.0 on, and other stores with its protocol. Notifications are at https://redis.io/docs/latest/develop/pubsub/."""

    options_class: ClassVar[type[RedisOptions]] = RedisOptions

    def __init__(self, options: RedisOptions, context: SourceContext) -> None:
        optional.require("redis", "redis", "redis", "python3-redis")
        self._options = options
        self._context = context
        self._client: Any = None
        self._pubsub: Any = None
        self._budget: Any = None
        self._closed = threading.Event()
        self._poll_at = self._next_poll()
        self._peer = f"redis at {shown(options.url).partition('://')[2]}"
        options.warn()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        try:
            return self._with_timeout(lambda: self._retried(lambda: self._fetch(layers)))
        finally:
            self._poll_at = self._next_poll()

    def _with_timeout(self, call: Callable[[], T]) -> T:
        """Return what `call` returns. The library restarts its own time-out with each read."""
        context = self._context
        return optional.call_with_timeout(context.timeout_seconds, call, self._peer, self._drop, context.stopping)

    def _next_poll(self) -> float:
        return time.monotonic() + jittered(self._context.poll_seconds)

    def _fetch(self, layers: Sequence[str]) -> Snapshot:
        self._connected()
        self._budget.left = MAX_BODY_BYTES
        names = {layer: self._names(layer, layers) for layer in layers}
        pipe = self._connected().pipeline(transaction=True)  # the values of all layers are of one moment
        for layer in layers:
            pipe.hgetall(self._hash(layer))
            for start in range(0, len(names[layer]), _PAGE):
                pipe.mget(names[layer][start : start + _PAGE])
        self._budget.left = MAX_BODY_BYTES
        answers = iter(pipe.execute(raise_on_error=False))
        fetched = []
        for layer in layers:
            fields = next(answers)
            values = [value for _ in range(0, len(names[layer]), _PAGE) for value in _checked(next(answers))]
            pairs = dict(zip(names[layer], values, strict=True))
            fetched.append(self._layer(layer, fields, pairs))
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched))

    def _hash(self, layer: str) -> bytes:
        return self._prefix(layer)[: -len(self._options.separator)].encode()

    def _prefix(self, layer: str) -> str:
        separator = self._options.separator
        return key_tree.join_path(self._options.prefix, layer.replace("/", separator), separator=separator) + separator

    def _names(self, layer: str, layers: Sequence[str]) -> list[bytes]:
        """Return the names of a layer's keys, sorted, without those of layers inside it."""
        separator, prefix = self._options.separator, self._prefix(layer)
        nested = key_tree.nested_layers(layer, layers)
        excluded = tuple((prefix + other.replace("/", separator)).encode() for other in nested)
        names: set[bytes] = set()
        for name in self._connected().scan_iter(match=_pattern(prefix, separator) + "*", count=_PAGE):
            if not (excluded and name.startswith(excluded)) and name + separator.encode() not in excluded:
                names.add(name)
            if len(names) > _MAX_KEYS:
                raise SourceInvalid(f"more than {_MAX_KEYS} keys begin with {prefix}")
        return sorted(names)

    def _layer(self, layer: str, fields: Any, values: dict[bytes, bytes | None]) -> Layer:
        prefix, where = self._prefix(layer), f'layer "{layer}"'
        without_value = [name for name, value in values.items() if value is None and name != self._hash(layer)]
        if isinstance(fields, Exception):
            raise SourceInvalid(f"{where}: the key {self._hash(layer)!r} is not a hash")
        if without_value and any(self._connected().exists(name) for name in without_value):
            raise SourceInvalid(f"{where}: {without_value[0]!r} is not a string", hint="keys below a prefix must be strings")
        strings = {name: value for name, value in values.items() if value is not None}
        if fields and strings:
            raise SourceInvalid(f"{where} is a hash and has keys below its name as well", hint="keep one of the two")
        if not fields and not strings:
            return Layer(layer, None)
        start = "" if fields or prefix == self._options.separator else prefix
        pairs = []
        for name, value in (fields or strings).items():
            key = key_tree.decode_text(name, repr(name))
            pairs.append((key.removeprefix(start), key_tree.decode_text(value, key)))
        tree = key_tree.build_tree(pairs, self._options.separator, where)
        return Layer(layer, tree, key_tree.digest(repr(sorted(pairs))))

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        try:
            with self._translated():
                return self._wait(seen, timeout_seconds)
        except (SourceError, AttributeError, RuntimeError, TypeError) as error:
            if self._is_stopped():
                return False
            if isinstance(error, SourceError):
                raise
            # The library raises these if a fetch in another thread drops the connections.
            raise SourceUnreachable(f"{self._peer}: the connection of the watch was dropped") from None

    def _wait(self, seen: Snapshot, timeout_seconds: float) -> bool:
        layers = [layer.name for layer in seen.layers]
        deadline = time.monotonic() + timeout_seconds
        if self._pubsub is None:
            if not self._with_timeout(lambda: self._notifies() and self._subscribe(layers)):
                wait_for_any(min(deadline, self._poll_at) - time.monotonic(), self._closed, self._context.stopping)
                return not self._is_stopped() and time.monotonic() >= self._poll_at
            if self.fetch(layers) != seen:  # a change before the subscription
                return True
        while not self._is_stopped() and (left := deadline - time.monotonic()) > 0:
            if self._pubsub.get_message(ignore_subscribe_messages=True, timeout=min(left, _SLICE_SECONDS)) is not None:
                self._drain()
                return not self._is_stopped()
        return False

    def _is_stopped(self) -> bool:
        return self._closed.is_set() or self._context.stopping.is_set()

    def _drain(self) -> None:
        """Take the waiting notifications, because one fetch answers all of them; for a limited time."""
        end = time.monotonic() + _DRAIN_SECONDS
        while time.monotonic() < end and self._pubsub.get_message(timeout=0) is not None:
            pass

    def _notifies(self) -> bool:
        """Return whether the server notifies of changed keys: its flags are K, and A or each of g, $, h and x."""
        from redis.exceptions import ResponseError

        try:
            answer = self._connected().config_get("notify-keyspace-events")
        except ResponseError:  # CONFIG is not allowed, as on managed servers
            return False
        flags = "".join(value if isinstance(value, str) else value.decode() for value in answer.values())
        return "K" in flags and ("A" in flags or set("g$hx") <= set(flags))

    def _subscribe(self, layers: Sequence[str]) -> bool:
        pubsub = self._connected().pubsub()
        separator = self._options.separator
        patterns = []
        for layer in layers:
            keys, name = _pattern(self._prefix(layer), separator), _pattern(self._prefix(layer), separator, strip=True)
            patterns += [f"__keyspace@*__:{keys}*", f"__keyspace@*__:{name}"]
        pubsub.psubscribe(*patterns)
        self._pubsub = pubsub
        return True

    def _retried(self, call: Callable[[], T]) -> T:
        """Call, and once more over a new connection: an idle connection may be dead although the server is back."""
        try:
            with self._translated():
                return call()
        except SourceUnreachable:
            if self._is_stopped():
                raise
        with self._translated():
            return call()

    def _translated(self) -> AbstractContextManager[None]:
        from agent.sources.backends.redis_connection import translated_errors

        return translated_errors(self._peer, self._drop)

    def _connected(self) -> Any:
        if self._closed.is_set():
            raise SourceUnreachable(f"{self._peer}: closed")
        if self._client is None:
            from agent.sources.backends.redis_connection import ByteBudget, new_client

            password = self._options.password_file and read_secret(self._options.password_file, self._context.paths)
            self._budget = ByteBudget()
            self._client = new_client(self._options, self._context, password or None, self._budget)
        return self._client

    def _drop(self) -> None:
        """Close the connections. The next use opens others, with the password read again."""
        client, pubsub, self._client, self._pubsub = self._client, self._pubsub, None, None
        # Two threads may drop at the same time, for which the library is not made.
        with contextlib.suppress(Exception):
            if client is not None:
                client.connection_pool.disconnect()
            if pubsub is not None:
                pubsub.close()

    def close(self) -> None:
        self._closed.set()
        self._drop()


def _checked(values: Any) -> Sequence[bytes | None]:
    """Return the values of one answer of a pipeline, or raise its error."""
    if isinstance(values, Exception):
        raise values
    return values  # type: ignore[no-any-return]


def _pattern(prefix: str, separator: str, *, strip: bool = False) -> str:
    """Return a glob pattern that matches a prefix literally; "" for the top of the database.

    With `strip` it matches the name of a layer's hash, which is the prefix without the separator at its end.
    """
    if prefix == separator:
        return ""
    return re.sub(r"([\[\]*?\\])", r"\\\1", prefix.removesuffix(separator) if strip else prefix)
