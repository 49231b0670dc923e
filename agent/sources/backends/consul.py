"""`consul`: a layer is a KV prefix, and services are read by health. Blocking queries report changes.

A fetch is two requests: the index of the prefix, then every layer in one read-only transaction, so that all layers are of
one moment. The index is read first: a change in between is then reported again instead of missed.
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
from agent.sources.waiting import wait_for_any

_MAX_OPERATIONS = 64
_LONGEST_WAIT_SECONDS = 540.0
_EXTRA_SECONDS = 5.0
_SHORTEST_QUERY_SECONDS = 0.5
_SLICE_SECONDS = 0.5


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
    """Consul's KV store and catalog, from Consul 0.7 on. The API is at https://developer.hashicorp.com/consul/api-docs."""

    options_class: ClassVar[type[ConsulOptions]] = ConsulOptions
    added_layers: ClassVar[tuple[str, ...]] = ("services",)

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
        names_query, *service_queries = self._queries()
        indexes = [_index(self._get(names_query, deadline))]
        entries = self._read([self._prefix(layer) for layer in layers], deadline)
        fetched = [self._layer(layer, layers, entries[self._prefix(layer)]) for layer in layers]
        if self._options.services:
            services = {}
            for name, query in zip(self._options.services, service_queries, strict=True):
                reply = self._get(query, deadline)
                indexes.append(_index(reply))
                services[name] = _instances(reply)
            fetched.append(Layer("services", {"services": services}))
        return Snapshot(tuple(fetched), ",".join(str(index) for index in indexes))

    def _prefix(self, layer: str) -> str:
        path = key_tree.join_path(self._options.prefix, layer)
        return f"{path}/" if path else ""

    def _queries(self) -> list[str]:
        """Return the queries that can block: the names below the prefix, then each service's passing instances."""
        services = [f"/v1/health/service/{quote(name, safe='')}?passing=1" for name in self._options.services]
        return [f"/v1/kv/{quote(self._prefix(''))}?keys&separator=/", *services]

    def _url(self, path: str, **query: str) -> str:
        parameters = {"dc": self._options.datacenter, "ns": self._options.namespace, **query}
        encoded = urlencode({name: value for name, value in parameters.items() if value})
        return f"{self._base}{path}{'&' if encoded and '?' in path else '?' if encoded else ''}{encoded}"

    def _get(self, path: str, deadline: float) -> Reply:
        return self._client.request("GET", self._url(path), **self._limits(deadline), expect=(200, 404))

    def _limits(self, deadline: float) -> dict[str, Any]:
        return {"timeout_seconds": self._context.timeout_seconds, "deadline": deadline}

    def _read(self, prefixes: Sequence[str], deadline: float) -> dict[str, list[dict[str, Any]]]:
        """Return the entries below each prefix. Up to 64 layers are of one moment."""
        entries: dict[str, list[dict[str, Any]]] = {prefix: [] for prefix in prefixes}
        unique = list(entries)
        for start in range(0, len(unique), _MAX_OPERATIONS):
            part = unique[start : start + _MAX_OPERATIONS]
            operation = {"Verb": "get-tree", **({"Namespace": self._options.namespace} if self._options.namespace else {})}
            body = json.dumps([{"KV": {**operation, "Key": prefix}} for prefix in part]).encode()
            reply = self._client.request("PUT", self._url("/v1/txn"), body=body, **self._limits(deadline), expect=(200, 409))
            answer = json_body(reply)
            if not isinstance(answer, dict) or answer.get("Errors"):
                raise SourceDenied(f"{reply.url} refuses to read", hint="the token needs key_prefix read on every layer")
            for result in answer.get("Results") or ():
                entry = _entry(result, reply)
                for prefix in part:
                    if entry["Key"].startswith(prefix):
                        entries[prefix].append(entry)
            if _is_filtered(reply) and not any(entries[prefix] for prefix in part):
                raise SourceDenied(f"{reply.url}: the ACLs hide every key", hint="the token needs key_prefix read")
        return entries

    def _layer(self, layer: str, layers: Sequence[str], entries: list[dict[str, Any]]) -> Layer:
        prefix = self._prefix(layer)
        if not entries:
            return Layer(layer, None)
        # If two layers of one transaction overlap, the answer has an entry twice.
        pairs = {e["Key"].removeprefix(prefix): _value(e) for e in entries if not (e["Key"].endswith("/") and not e["Value"])}
        excluded = key_tree.nested_layers(layer, layers)
        tree = key_tree.build_tree(pairs.items(), "/", f'layer "{layer}"', exclude_prefixes=excluded)
        return Layer(layer, tree, str(max(int(entry.get("ModifyIndex", 0)) for entry in entries)))

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        deadline = time.monotonic() + timeout_seconds
        queries = self._queries()
        indexes = [max(1, int(index)) if index.isdigit() else 1 for index in seen.revision.split(",")]
        if len(indexes) != len(queries):
            return True
        try:
            if len(queries) == 1:
                return self._block(self._client, queries[0], indexes[0], deadline)
            return self._block_on_all(list(zip(queries, indexes, strict=True)), deadline)
        except SourceUnreachable:
            if self._client.closed or self._context.stopping.is_set():
                return False
            raise

    def _block(self, client: Client, path: str, index: int, deadline: float) -> bool:
        """Run blocking queries until the index changes or the deadline passes. A restored store's index goes backwards."""
        stopping = self._context.stopping
        while (left := deadline - time.monotonic()) > 0 and not client.closed and not stopping.is_set():
            started = time.monotonic()
            # Consul adds up to a sixteenth to a wait.
            wait = min(left, _LONGEST_WAIT_SECONDS) * 15 / 16
            url = self._url(path, index=str(index), wait=f"{max(1, int(wait * 1000))}ms")
            seconds = wait * 17 / 16 + _EXTRA_SECONDS
            reply = client.request("GET", url, timeout_seconds=seconds, expect=(200, 404), attempts=1)
            if _index(reply) != index:
                return True
            if time.monotonic() - started < wait * 0.9:  # queries that do not block must not become a storm
                wait_for_any(min(_SHORTEST_QUERY_SECONDS, max(0.0, deadline - time.monotonic())), stopping)
        return False

    def _block_on_all(self, queries: Sequence[tuple[str, int]], deadline: float) -> bool:
        """Run one blocking query a connection. The first that sees a change ends the others."""
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
                result = self._next_result(results)
                if isinstance(result, SourceError):
                    raise result
                if result:
                    return True
            return False
        finally:
            client.close()

    def _next_result(self, results: queue.Queue[bool | SourceError]) -> bool | SourceError:
        """Return the result of the query that ends next, or False when parbake stops."""
        while not self._context.stopping.is_set():
            try:
                return results.get(timeout=_SLICE_SECONDS)
            except queue.Empty:
                continue
        return False

    def close(self) -> None:
        self._client.close()
        if self._watching is not None:
            self._watching.close()


def _index(reply: Reply) -> int:
    """Return the store's index of an answer, at least 1: a query for index 0 would not block."""
    index = reply.headers.get("x-consul-index", "")
    if not index.isdigit():
        raise SourceInvalid(f"{reply.url}: the answer has no X-Consul-Index", hint="is it Consul that answers there?")
    return max(1, int(index))


def _entry(result: Any, reply: Reply) -> dict[str, Any]:
    entry = result.get("KV") if isinstance(result, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("Key"), str) or "Value" not in entry:
        raise SourceInvalid(f"{reply.url}: the answer has entries that are not KV pairs")
    return entry


def _value(entry: Mapping[str, Any]) -> str:
    try:
        return key_tree.decode_text(base64.b64decode(entry["Value"] or "", validate=True), entry["Key"])
    except (binascii.Error, ValueError, TypeError):
        raise SourceInvalid(f"the value of {entry['Key']!r} is not in base64, as Consul sends it") from None


def _is_filtered(reply: Reply) -> bool:
    """Return whether the ACLs hid something. The status is 200 even if nothing is left."""
    return reply.headers.get("x-consul-results-filtered-by-acls") == "true"


def _instances(reply: Reply) -> list[dict[str, Any]]:
    """Return a service's instances as {address, port, node, tags, meta}, sorted."""
    answer = json_body(reply) if reply.status == 200 else []
    if not answer and _is_filtered(reply):
        hint = "the token needs service read on it, and node read on the nodes of its instances"
        raise SourceDenied(f"{reply.url}: the ACLs hide every instance", hint=hint)
    try:
        instances = [
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
        raise SourceInvalid(f"{reply.url}: the answer is not a list of instances") from None
    return sorted(instances, key=lambda instance: (instance["address"], instance["port"], instance["node"]))
