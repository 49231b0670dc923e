"""`consul`: a KV prefix a layer and services by health, watched through blocking queries.

Two requests a fetch: the index of the prefix, then every layer in one read-only transaction, which is one moment of the
store. The index is asked first, so that a change in between is seen again and not missed.
"""

from __future__ import annotations

import base64
import binascii
import json
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

from agent.errors import SourceDenied, SourceError, SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.net.credentials import read_secret
from agent.net.http_client import Client, Reply, TlsOptions, check_url, json_body, split_address
from agent.secret import Secret
from agent.settings.schema import setting
from agent.sources import SourceContext, key_tree

_MOST_OPERATIONS = 64
_LONGEST_WAIT_SECONDS = 540.0
_SLACK_SECONDS = 5.0
_SHORTEST_ROUND_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulOptions(TlsOptions):
    address: str = setting("the HTTP API: http://, https:// or unix:///PATH", "http://127.0.0.1:8500")
    prefix: str = setting("the KV prefix that layers are below", "")
    token_file: str = setting("file, or credential:NAME, with the ACL token", "")
    datacenter: str = setting("the datacenter; default: the agent's own", "")
    namespace: str = setting("the namespace (Consul Enterprise)", "")
    services: tuple[str, ...] = setting("services whose passing instances appear as config.services.NAME", ())

    def __post_init__(self) -> None:
        check_url(self.address, "address", schemes=("http", "https", "unix"))


class ConsulSource:
    """Consul's KV store and catalog, from Consul 0.7 on."""

    options_class: ClassVar[type[Any]] = ConsulOptions

    def __init__(self, options: ConsulOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._base, self._socket = split_address(options.address, context.paths)
        self._client = self._connect()
        self._watching: Client | None = None

    def _connect(self) -> Client:
        return Client(
            self._context.paths,
            tls=self._options,
            headers=self._token,
            unix_socket=self._socket,
            stopping=self._context.stopping,
        )

    def _token(self) -> Mapping[str, str | Secret]:
        if not self._options.token_file:
            return {}
        return {"X-Consul-Token": read_secret(self._options.token_file, self._context.paths)}

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._context.timeout_seconds
        indexes = {path: _index(self._ask(path, deadline)) for path in self._queries()[:1]}
        entries = self._read([self._prefix(layer) for layer in layers], deadline)
        found = [self._layer(layer, layers, entries[self._prefix(layer)]) for layer in layers]
        if self._options.services:
            services = {}
            for name, path in zip(self._options.services, self._queries()[1:], strict=True):
                reply = self._ask(path, deadline)
                indexes[path], services[name] = _index(reply), _instances(reply)
            found.append(Layer("services", {"services": services}))
        return Snapshot(tuple(found), ",".join(str(index) for index in indexes.values()))

    def _prefix(self, layer: str) -> str:
        path = key_tree.joined(self._options.prefix, layer)
        return f"{path}/" if path else ""

    def _queries(self) -> list[str]:
        """The queries that can block: the names below the prefix, and then each service's passing instances."""
        start = quote(self._prefix(""))
        separator = "&keys&separator=/"
        services = [f"/v1/health/service/{quote(name, safe='')}?passing=1" for name in self._options.services]
        return [f"/v1/kv/{start}?{separator[1:]}", *services]

    def _url(self, path: str, **query: str) -> str:
        named = {"dc": self._options.datacenter, "ns": self._options.namespace, **query}
        more = urlencode({name: value for name, value in named.items() if value})
        return f"{self._base}{path}{'&' if more and '?' in path else '?' if more else ''}{more}"

    def _ask(self, path: str, deadline: float) -> Reply:
        return self._client.request("GET", self._url(path), **self._times(deadline), expect=(200, 404))

    def _times(self, deadline: float) -> dict[str, Any]:
        return {"timeout_seconds": self._context.timeout_seconds, "deadline": deadline}

    def _read(self, prefixes: Sequence[str], deadline: float) -> dict[str, list[dict[str, Any]]]:
        """The entries below each prefix, all of one moment (of up to 64 layers)."""
        found: dict[str, list[dict[str, Any]]] = {prefix: [] for prefix in prefixes}
        names = list(found)
        for start in range(0, len(names), _MOST_OPERATIONS):
            part = names[start : start + _MOST_OPERATIONS]
            tree = {"Verb": "get-tree", **({"Namespace": self._options.namespace} if self._options.namespace else {})}
            body = json.dumps([{"KV": {**tree, "Key": prefix}} for prefix in part]).encode()
            reply = self._client.request("PUT", self._url("/v1/txn"), body=body, **self._times(deadline), expect=(200, 409))
            answer = json_body(reply)
            if not isinstance(answer, dict) or answer.get("Errors"):
                raise SourceDenied(f"{reply.url} refuses to read", hint="the token needs key_prefix read on every layer")
            for result in answer.get("Results") or ():
                entry = _entry(result, reply)
                for prefix in part:
                    if entry["Key"].startswith(prefix):
                        found[prefix].append(entry)
            if _filtered(reply) and not any(found[prefix] for prefix in part):
                raise SourceDenied(f"{reply.url}: the ACLs hide every key", hint="the token needs key_prefix read")
        return found

    def _layer(self, layer: str, layers: Sequence[str], entries: list[dict[str, Any]]) -> Layer:
        prefix = self._prefix(layer)
        if not entries:
            return Layer(layer, None)
        # Two layers of one transaction that overlap give the same entry twice.
        pairs = {e["Key"].removeprefix(prefix): _value(e) for e in entries if not (e["Key"].endswith("/") and not e["Value"])}
        tree = key_tree.tree(pairs.items(), "/", f'layer "{layer}"', exclude_prefixes=key_tree.nested_layers(layer, layers))
        return Layer(layer, tree, str(max(int(entry.get("ModifyIndex", 0)) for entry in entries)))

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        queries = self._queries()
        indexes = [max(1, int(word)) if word.isdigit() else 1 for word in seen.revision.split(",")]
        if len(indexes) != len(queries):
            return True
        try:
            if len(queries) == 1:
                return self._block(self._client, queries[0], indexes[0], deadline)
            return self._block_on_all(list(zip(queries, indexes, strict=True)), deadline)
        except SourceUnreachable:
            if self._client.closed:
                return False
            raise

    def _block(self, client: Client, path: str, index: int, deadline: float) -> bool:
        """One blocking query after the other until the index moves; backwards too, as a restored store's does."""
        while (left := deadline - time.monotonic()) > 0 and not client.closed and not self._context.stopping.is_set():
            begun = time.monotonic()
            # Consul adds up to a sixteenth to a wait.
            wait = min(left, _LONGEST_WAIT_SECONDS) * 15 / 16
            url = self._url(path, index=str(index), wait=f"{max(1, int(wait * 1000))}ms")
            reply = client.request("GET", url, timeout_seconds=wait * 17 / 16 + _SLACK_SECONDS, expect=(200, 404), attempts=1)
            if _index(reply) != index:
                return True
            early = wait * 0.9 - (time.monotonic() - begun)
            if early > 0:  # a query that does not block must not become a storm
                self._context.stopping.wait(min(_SHORTEST_ROUND_SECONDS, max(0.0, deadline - time.monotonic())))
        return False

    def _block_on_all(self, queries: Sequence[tuple[str, int]], deadline: float) -> bool:
        """One connection a query, as each blocks; the first that sees a change ends the others."""
        client = self._watching = self._connect()
        results: queue.Queue[bool | SourceError] = queue.Queue()

        def run(path: str, index: int) -> None:
            try:
                results.put(self._block(client, path, index, deadline))
            except SourceError as error:
                results.put(error)

        try:
            for path, index in queries:
                threading.Thread(target=run, args=(path, index), name="consul watch", daemon=True).start()
            for _ in queries:
                result = results.get()
                if isinstance(result, SourceError):
                    raise result
                if result:
                    return True
            return False
        finally:
            client.close()

    def close(self) -> None:
        self._client.close()
        if self._watching is not None:
            self._watching.close()


def _index(reply: Reply) -> int:
    """The store's index of an answer; at least 1, since a wait for 0 would not block."""
    word = reply.headers.get("x-consul-index", "")
    if not word.isdigit():
        raise SourceInvalid(f"{reply.url} answers without X-Consul-Index", hint="is it Consul that answers there?")
    return max(1, int(word))


def _entry(result: Any, reply: Reply) -> dict[str, Any]:
    entry = result.get("KV") if isinstance(result, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("Key"), str) or "Value" not in entry:
        raise SourceInvalid(f"{reply.url} answers with entries that are no KV pairs")
    return entry


def _value(entry: Mapping[str, Any]) -> str:
    try:
        return key_tree.text(base64.b64decode(entry["Value"] or "", validate=True), entry["Key"])
    except (binascii.Error, ValueError, TypeError):
        raise SourceInvalid(f"the value of {entry['Key']!r} is not the base64 that Consul sends") from None


def _filtered(reply: Reply) -> bool:
    """Whether the ACLs hid something: what is left may be nothing, with a status of 200."""
    return reply.headers.get("x-consul-results-filtered-by-acls") == "true"


def _instances(reply: Reply) -> list[dict[str, Any]]:
    answer = json_body(reply) if reply.status == 200 else []
    if not answer and _filtered(reply):
        hint = "the token needs service read on it, and node read where its instances are"
        raise SourceDenied(f"{reply.url}: the ACLs hide every instance", hint=hint)
    try:
        found = [
            {
                "address": entry["Service"].get("Address") or entry["Node"]["Address"],
                "port": entry["Service"]["Port"],
                "node": entry["Node"]["Node"],
                "tags": list(entry["Service"].get("Tags") or ()),
                "meta": dict(entry["Service"].get("Meta") or {}),
            }
            for entry in answer
        ]
    except (KeyError, TypeError, AttributeError):
        raise SourceInvalid(f"{reply.url} answers with no list of instances") from None
    return sorted(found, key=lambda one: (one["address"], one["port"], one["node"]))
