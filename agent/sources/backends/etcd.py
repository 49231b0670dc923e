"""`etcd`: a key range a layer, over the v3 JSON gateway. One transaction a fetch, and one stream to watch all layers."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.net.credentials import read_secret
from agent.net.http_client import Client, Reply, TlsOptions, check_url, json_body
from agent.secret import Secret
from agent.settings.schema import setting
from agent.sources import SourceContext, key_tree

T = TypeVar("T")
_UNAUTHENTICATED = 16
_OUTDATED = (b"revision of auth store is old", b"invalid auth token")


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdOptions(TlsOptions):
    endpoints: tuple[str, ...] = setting("the members' client URLs, tried in order", ("http://127.0.0.1:2379",))
    prefix: str = setting("the prefix that layers are below", "")
    username: str = setting("the user, where authentication is enabled", "")
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

    options_class: ClassVar[type[Any]] = EtcdOptions

    def __init__(self, options: EtcdOptions, context: SourceContext) -> None:
        self._options = options
        self._context = context
        self._client = Client(context.paths, tls=options, stopping=context.stopping)
        self._endpoints = [endpoint.rstrip("/") for endpoint in options.endpoints]
        self._token: Secret | None = None

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._context.timeout_seconds
        ranges = [{"request_range": self._range(layer)} for layer in layers]
        answer = self._somewhere(lambda base: self._ask(base, "/v3/kv/txn", {"success": ranges}, deadline), deadline)
        responses = answer.get("responses", [])
        try:
            revision = str(int(answer["header"]["revision"]))
            found = [_field(response, "response_range", "responseRange").get("kvs", []) for response in responses]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise SourceInvalid("etcd answers with something that is no transaction") from None
        if len(found) != len(layers):
            raise SourceInvalid(f"etcd answers for {len(found)} of {len(layers)} layers")
        read = [self._layer(layer, layers, entries) for layer, entries in zip(layers, found, strict=True)]
        return Snapshot(tuple(read), revision)

    def _prefix(self, layer: str) -> str:
        start = "/" if self._options.prefix.startswith("/") else ""
        path = key_tree.joined(self._options.prefix, layer)
        return f"{start}{path}/" if path else start

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
                raise SourceInvalid(f'layer "{layer}" has a key that is not UTF-8 text, or no entry of etcd') from None
            pairs.append((key.removeprefix(prefix), key_tree.text(value, key)))
        tree = key_tree.tree(pairs, "/", f'layer "{layer}"', exclude_prefixes=key_tree.nested_layers(layer, layers))
        return Layer(layer, tree, str(newest))

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        """True on the first event in any layer, and where the history since `seen` is compacted away."""
        deadline = time.monotonic() + timeout_seconds
        start = str(int(seen.revision) + 1) if seen.revision.isdigit() else "1"
        requests = [
            json.dumps({"create_request": {**self._range(layer.name), "start_revision": start}}) for layer in seen.layers
        ]
        body = "\n".join(requests).encode()
        try:
            return self._somewhere(lambda base: self._wait(base, body, deadline), deadline)
        except SourceUnreachable:
            if self._client.closed:
                return False
            raise

    def _wait(self, base: str, body: bytes, deadline: float) -> bool:
        left = max(0.05, deadline - time.monotonic())
        for line in self._stream(base, body, left):
            if not line.strip():
                continue
            try:
                event = json.loads(line)
                result = event.get("result", {})
            except (ValueError, AttributeError):
                raise SourceInvalid(f"{base}/v3/watch sends a line that is no event") from None
            if event.get("error"):
                self._token = None
                raise SourceUnreachable(f"{base}/v3/watch: the watch was refused")
            if result.get("events") or result.get("canceled"):
                return True
        if time.monotonic() < deadline:
            raise SourceUnreachable(f"{base}/v3/watch: the server ended the watch")
        return False

    def _stream(self, base: str, body: bytes, seconds: float) -> Iterator[bytes]:
        headers = self._authorised(base)
        try:
            yield from self._client.stream("POST", f"{base}/v3/watch", headers=headers, body=body, timeout_seconds=seconds)
        except (SourceDenied, SourceInvalid):
            self._token = None  # it may be no more than that: the next watch logs in
            raise

    def _somewhere(self, call: Callable[[str], T], deadline: float) -> T:
        """The first endpoint that can be reached; it is the first one next time, too."""
        failure = SourceUnreachable("no endpoint was reached in time")
        for endpoint in list(self._endpoints):
            try:
                result = call(endpoint)
            except SourceUnreachable as error:
                failure = error
                if time.monotonic() >= deadline or self._client.closed:
                    break
                continue
            self._endpoints.sort(key=lambda one: one != endpoint)
            return result
        raise failure

    def _ask(self, base: str, path: str, query: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        share = (deadline - time.monotonic()) / (1 if base == self._endpoints[-1] else 2)
        until = min(deadline, time.monotonic() + max(0.1, share))
        reply = self._post(base, path, query, until, self._authorised(base, until))
        if self._token is not None and _outdated(reply):
            self._token = None
            reply = self._post(base, path, query, until, self._authorised(base, until))
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
        nobody = reply.status == 400 and b"user name is empty" in reply.body
        if reply.status in (401, 403) or nobody or (reply.status != 200 and self._options.username):
            raise SourceDenied(f"{reply.url} answers {reply.status}", hint="check the user, its password and its role")
        if reply.status != 200 or not isinstance(answer, dict):
            raise SourceInvalid(f"{reply.url} answers {reply.status} with no result", hint="is it etcd that answers there?")
        return answer

    def _authorised(self, base: str, until: float | None = None) -> Mapping[str, str | Secret]:
        """The header of a token, fetched anew where there is none; the password's file is read each time."""
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
    """A field under either of the names that versions of the gateway give it."""
    return next((entry[name] for name in names if name in entry), {})


def _outdated(reply: Reply) -> bool:
    """Whether it is the token that is refused. A JWT is refused after every change of a user or a role, with the code of an
    invalid argument."""
    if reply.status == 200:
        return False
    if any(words in reply.body for words in _OUTDATED):
        return True
    answer = json_body(reply)
    return isinstance(answer, dict) and answer.get("code") == _UNAUTHENTICATED
