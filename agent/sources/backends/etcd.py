"""`etcd`: a layer is a key range, over the v3 JSON gateway. A fetch is one transaction, and one stream watches all layers.

The gateway is at https://etcd.io/docs/latest/dev-guide/api_grpc_gateway/.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.formats import strict_json
from agent.model import Layer, Snapshot
from agent.net.credentials import read_secret
from agent.net.http_client import Client, Reply, TlsOptions, check_url, json_body
from agent.secret import Secret
from agent.settings.schema import setting
from agent.sources import SourceContext, key_tree

T = TypeVar("T")
_UNAUTHENTICATED = 16
_TOKEN_REFUSED = (b"revision of auth store is old", b"invalid auth token")


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdOptions(TlsOptions):
    endpoints: tuple[str, ...] = setting("the members' client URLs, tried in order", ("http://127.0.0.1:2379",))
    prefix: str = setting("the prefix that layers are below", "")
    username: str = setting("the user, if authentication is enabled", "")
    password_file: str = setting("file, or credential:NAME, with the user's password", "")

    def __post_init__(self) -> None:
        for endpoint in self.endpoints:
            check_url(endpoint, "endpoints")
        if not self.endpoints:
            raise ValueError("endpoints is empty")
        if bool(self.username) != bool(self.password_file):
            raise ValueError("username and password_file go together")


class EtcdSource:
    """etcd from 3.4 on."""

    options_class: ClassVar[type[EtcdOptions]] = EtcdOptions

    def __init__(self, options: EtcdOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._client = Client(context.paths, tls=options, stopping=context.stopping)
        self._endpoints = [endpoint.rstrip("/") for endpoint in options.endpoints]
        self._token: Secret | None = None

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._context.timeout_seconds
        ranges = [{"request_range": self._range(layer)} for layer in layers]
        answer = self._try_endpoints(lambda base: self._ask(base, "/v3/kv/txn", {"success": ranges}, deadline), deadline)
        responses = answer.get("responses", [])
        try:
            revision = str(int(answer["header"]["revision"]))
            entries = [_field(response, "response_range", "responseRange").get("kvs", []) for response in responses]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise SourceInvalid("etcd's answer is not the result of a transaction") from None
        if len(entries) != len(layers):
            raise SourceInvalid(f"etcd answers for {len(entries)} of {len(layers)} layers")
        fetched = [self._layer(layer, layers, part) for layer, part in zip(layers, entries, strict=True)]
        return Snapshot(tuple(fetched), revision)

    def _prefix(self, layer: str) -> str:
        root = "/" if self._options.prefix.startswith("/") else ""
        path = key_tree.join_path(self._options.prefix, layer)
        return f"{root}{path}/" if path else root

    def _range(self, layer: str) -> dict[str, str]:
        first = self._prefix(layer).encode()
        last = first[:-1] + bytes([first[-1] + 1]) if first else b"\0"
        return {"key": base64.b64encode(first or b"\0").decode(), "range_end": base64.b64encode(last).decode()}

    def _layer(self, layer: str, layers: Sequence[str], entries: Sequence[Mapping[str, Any]]) -> Layer:
        if not entries:
            return Layer(layer, None)
        prefix, pairs, newest = self._prefix(layer), [], 0
        for entry in entries:
            try:
                key = base64.b64decode(entry["key"]).decode("utf-8")
                value = base64.b64decode(entry.get("value", ""))
                newest = max(newest, int(_field(entry, "mod_revision", "modRevision")))
            except (KeyError, TypeError, ValueError, binascii.Error):
                raise SourceInvalid(f'layer "{layer}" has a key that is not UTF-8 text, or an invalid entry') from None
            pairs.append((key.removeprefix(prefix), key_tree.decode_text(value, key)))
        excluded = key_tree.nested_layers(layer, layers)
        tree = key_tree.build_tree(pairs, "/", f'layer "{layer}"', exclude_prefixes=excluded)
        return Layer(layer, tree, str(newest))

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        """Return True at the first event in a layer, and if the history since `seen` is compacted away."""
        deadline = time.monotonic() + timeout_seconds
        start = str(int(seen.revision) + 1) if seen.revision.isdigit() else "1"
        requests = [
            json.dumps({"create_request": {**self._range(layer.name), "start_revision": start}}) for layer in seen.layers
        ]
        body = "\n".join(requests).encode()
        try:
            return self._try_endpoints(lambda base: self._wait(base, body, deadline), deadline)
        except SourceUnreachable:
            if self._is_stopped():
                return False
            raise

    def _wait(self, base: str, body: bytes, deadline: float) -> bool:
        url = f"{base}/v3/watch"
        for line in self._stream(base, url, body, max(0.05, deadline - time.monotonic())):
            if not line.strip():
                continue
            try:
                event = strict_json.parse(line.decode("utf-8"))
                result = event.get("result", {})
                changed = result.get("events") or result.get("canceled")
            except (ValueError, AttributeError):
                raise SourceInvalid(f"{url} sends a line that is not an event") from None
            if event.get("error"):
                self._token = None
                raise SourceUnreachable(f"{url}: the watch was refused")
            if changed:
                return True
        if time.monotonic() < deadline:
            raise SourceUnreachable(f"{url}: the server ended the watch")
        return False

    def _stream(self, base: str, url: str, body: bytes, seconds: float) -> Iterator[bytes]:
        headers = self._auth_headers(base)
        try:
            yield from self._client.stream("POST", url, headers=headers, body=body, timeout_seconds=seconds)
        except (SourceDenied, SourceInvalid):
            self._token = None  # the token may be the reason: the next watch logs in
            raise

    def _try_endpoints(self, call: Callable[[str], T], deadline: float) -> T:
        """Call with the first endpoint that can be reached, and put it first for the next time."""
        failure = SourceUnreachable("no endpoint was reached in time")
        for endpoint in list(self._endpoints):
            try:
                result = call(endpoint)
            except SourceUnreachable as error:
                failure = error
                if time.monotonic() >= deadline or self._is_stopped():
                    break
                continue
            self._endpoints.sort(key=lambda other: other != endpoint)
            return result
        raise failure

    def _is_stopped(self) -> bool:
        return self._client.closed or self._context.stopping.is_set()

    def _ask(self, base: str, path: str, query: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        share = (deadline - time.monotonic()) / (1 if base == self._endpoints[-1] else 2)
        until = min(deadline, time.monotonic() + max(0.1, share))
        reply = self._post(base, path, query, until, self._auth_headers(base, until))
        if self._token is not None and _is_token_refused(reply):
            self._token = None
            reply = self._post(base, path, query, until, self._auth_headers(base, until))
        return self._checked(reply)

    def _post(self, base: str, path: str, query: Mapping[str, Any], until: float, headers: Mapping[str, str | Secret]) -> Reply:
        return self._client.request(
            "POST",
            f"{base}{path}",
            headers=headers,
            body=json.dumps(query).encode(),
            timeout_seconds=self._context.timeout_seconds,
            deadline=until,
            expect=(200, 400, 401, 403, 412),
            attempts=3,
        )

    def _checked(self, reply: Reply) -> dict[str, Any]:
        answer = json_body(reply)
        anonymous = reply.status == 400 and b"user name is empty" in reply.body
        if reply.status in (401, 403) or anonymous or (reply.status != 200 and self._options.username):
            raise SourceDenied(f"{reply.url} answers {reply.status}", hint="check the user, its password and its role")
        if reply.status != 200 or not isinstance(answer, dict):
            raise SourceInvalid(f"{reply.url} answers {reply.status} without a result", hint="is it etcd that answers there?")
        return answer

    def _auth_headers(self, base: str, until: float | None = None) -> Mapping[str, str | Secret]:
        """Return the header with the token, and log in if there is no token. Each login reads the password's file."""
        if not self._options.username:
            return {}
        if self._token is None:
            password = read_secret(self._options.password_file, self._context.paths).reveal()
            login = {"name": self._options.username, "password": password}
            until = until or time.monotonic() + self._context.timeout_seconds
            answer = self._checked(self._post(base, "/v3/auth/authenticate", login, until, {}))
            self._token = Secret(str(answer.get("token", "")))
        return {"Authorization": self._token}

    def close(self) -> None:
        self._client.close()


def _field(entry: Mapping[str, Any], *names: str) -> Any:
    """Return a field by the first of its names that it has: versions of the gateway differ in them."""
    return next((entry[name] for name in names if name in entry), {})


def _is_token_refused(reply: Reply) -> bool:
    """Return whether the token is refused. After each change of a user or a role a JWT is refused with INVALID_ARGUMENT."""
    if reply.status == 200:
        return False
    if any(message in reply.body for message in _TOKEN_REFUSED):
        return True
    answer = json_body(reply)
    return isinstance(answer, dict) and answer.get("code") == _UNAUTHENTICATED
