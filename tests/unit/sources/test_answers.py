"""Answers of stores that are easily misread: next pages, hidden entries, outdated tokens, times in whole seconds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SourceDenied, SourceInvalid
from agent.net.http_reply import Reply
from agent.paths import Paths
from agent.sources import SourceContext
from agent.sources.backends.azure_keyvault import AzureKeyvaultOptions, AzureKeyvaultSource
from agent.sources.backends.consul import ConsulOptions, ConsulSource
from agent.sources.backends.etcd import EtcdOptions, EtcdSource
from agent.sources.backends.http import HttpOptions, HttpSource

CONTEXT = SourceContext("site", Paths(), 5.0)


class Asked:
    """Takes the place of the HTTP client: a subclass answers, and every request is on record."""

    closed = False

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.sent: list[Mapping[str, Any]] = []

    def request(self, method: str, url: str, headers: Mapping[str, Any] | None = None, **_: Any) -> Reply:
        path = "/" + url.split("/", 3)[3]
        self.paths.append(path)
        self.sent.append(headers or {})
        status, answer, answer_headers = self.answer(path, headers or {})
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return Reply(status, answer_headers, body, url.partition("?")[0])

    def answer(self, path: str, headers: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        raise NotImplementedError

    def close(self) -> None:
        self.closed = True


# -- Key Vault


class Vault(Asked):
    def __init__(self, more: str) -> None:
        super().__init__()
        self.more = more

    def answer(self, path: str, headers: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if path.startswith("/secrets?"):
            second = "skiptoken" in path
            ids = [{"id": f"https://site.vault.azure.net/secrets/common--{'b' if second else 'a'}"}]
            return 200, {"value": ids, "nextLink": None if second else self.more}, {}
        return 200, {"value": "v"}, {}


def keyvault(tmp_path: Path, more: str) -> AzureKeyvaultSource:
    token = tmp_path / "token"
    token.write_text("x")
    options = AzureKeyvaultOptions(vault_url="https://site.vault.azure.net", token_file=str(token))
    source = AzureKeyvaultSource(options, CONTEXT)
    source._client = Vault(more)  # type: ignore[assignment]
    return source


@pytest.mark.parametrize("host", ["site.vault.azure.net:443", "site.vault.azure.net", "SITE.vault.azure.net:443"])
def test_azures_next_page_carries_the_port(host: str, tmp_path: Path) -> None:
    """Azure's next link has a port and the vault's URL has none: it is the same host."""
    source = keyvault(tmp_path, f"https://{host}/secrets?api-version=7.4&$skiptoken=eyJO")
    assert source.fetch(["common"]).layers[0].tree == {"a": "v", "b": "v"}


@pytest.mark.parametrize(
    "more",
    [
        "https://site.vault.azure.net:8443/secrets?$skiptoken=x",
        "http://site.vault.azure.net:443/secrets?$skiptoken=x",
        "https://other.vault.azure.net:443/secrets?$skiptoken=x",
        "https://u:p@site.vault.azure.net:443/secrets?$skiptoken=x",
        "https://site.vault.azure.net:x/secrets?$skiptoken=x",
        "https://[site/secrets?$skiptoken=x",
        "/secrets?$skiptoken=x",
    ],
)
def test_a_next_page_elsewhere_gets_no_token(more: str, tmp_path: Path) -> None:
    """Another port, scheme, host or user is another host, and so is an invalid URL."""
    source = keyvault(tmp_path, more)
    with pytest.raises(SourceInvalid, match="another host"):
        source.fetch(["common"])
    assert len(source._client.paths) == 1  # type: ignore[attr-defined]


# -- Consul


class Consul(Asked):
    instances: list[Any] = []  # noqa: RUF012 - one test, one answer
    hidden = True

    def answer(self, path: str, headers: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        indexed = {"x-consul-index": "9"}
        if path.startswith("/v1/health"):
            return 200, self.instances, indexed | ({"x-consul-results-filtered-by-acls": "true"} if self.hidden else {})
        if path.startswith("/v1/txn"):
            return 200, {"Results": [], "Errors": None}, indexed
        return 200, [], indexed


def consul(hidden: bool, *instances: Any) -> ConsulSource:
    source = ConsulSource(ConsulOptions(services=("web",)), CONTEXT)
    client = Consul()
    client.hidden, client.instances = hidden, list(instances)
    source._client = client  # type: ignore[assignment]
    return source


def test_instances_that_the_acls_hide_are_not_instances_that_are_down() -> None:
    """A token that lost its rights gets 200 and []: accepted, it would empty the list of a balancer."""
    with pytest.raises(SourceDenied, match="the ACLs hide every instance"):
        consul(True).fetch(["common"])


def test_a_service_without_instances_is_accepted() -> None:
    """Without the header the answer is complete; with it, visible instances are accepted."""
    assert consul(False).fetch(["common"]).layers[-1].tree == {"services": {"web": []}}
    one = {"Node": {"Node": "n", "Address": "10.0.0.1"}, "Service": {"Address": "", "Port": 80}}
    (layer,) = [layer for layer in consul(True, one).fetch(["common"]).layers if layer.name == "services"]
    assert layer.tree is not None
    assert [instance["port"] for instance in layer.tree["services"]["web"]] == [80]


# -- etcd


class Etcd(Asked):
    """With JWT, a token is valid for one revision of the users and roles."""

    refusal: tuple[int, int, str] = (400, 3, "etcdserver: revision of auth store is old")

    def __init__(self) -> None:
        super().__init__()
        self.revision = 1
        self.never = False

    def answer(self, path: str, headers: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if path.endswith("authenticate"):
            return 200, {"token": f"jwt-{self.revision}"}, {}
        if self.never or headers["Authorization"].reveal() != f"jwt-{self.revision}":
            status, code, text = self.refusal
            return status, {"error": text, "code": code, "message": text}, {}
        return 200, {"header": {"revision": "5"}, "responses": [{"response_range": {}}]}, {}

    def stream(self, method: str, url: str, **_: Any) -> Iterator[bytes]:
        raise SourceDenied("401")
        yield b""

    @property
    def logins(self) -> int:
        return sum(path.endswith("authenticate") for path in self.paths)


@pytest.fixture
def etcd(tmp_path: Path) -> EtcdSource:
    password = tmp_path / "password"
    password.write_text("x")
    source = EtcdSource(EtcdOptions(username="u", password_file=str(password)), CONTEXT)
    source._client = Etcd()  # type: ignore[assignment]
    return source


@pytest.mark.parametrize(
    "refusal",
    [
        (400, 3, "etcdserver: revision of auth store is old"),
        (401, 16, "etcdserver: invalid auth token"),
        (400, 3, "etcdserver: invalid auth token"),
    ],
)
def test_an_outdated_token_is_replaced_once(refusal: tuple[int, int, str], etcd: EtcdSource) -> None:
    """After a change of any user or role every token is refused: log in again before the source counts as denied."""
    server: Any = etcd._client
    server.refusal = refusal
    etcd.fetch(["common"])
    server.revision = 2
    etcd.fetch(["common"])
    etcd.fetch(["common"])
    assert server.logins == 2
    server.never = True
    with pytest.raises(SourceDenied):
        etcd.fetch(["common"])
    assert server.logins == 3


def test_what_is_denied_for_good_is_not_asked_for_twice(etcd: EtcdSource) -> None:
    """A role that may not read is not a problem of the token."""
    server: Any = etcd._client
    server.refusal, server.never = (403, 7, "etcdserver: permission denied"), True
    with pytest.raises(SourceDenied):
        etcd.fetch(["common"])
    assert server.logins == 1


def test_a_watch_that_is_refused_logs_in_again(etcd: EtcdSource) -> None:
    """The next watch must not use the token that was refused."""
    server: Any = etcd._client
    seen = etcd.fetch(["common"])
    for _ in range(2):
        with pytest.raises(SourceDenied):
            etcd.watch(seen, 1.0)
    assert server.logins == 2


# -- HTTP


class Document(Asked):
    """A server whose versions differ in Last-Modified only, in whole seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.stamps = b'{"a": 1}', {"last-modified": "Thu, 26 Nov 2026 02:00:00 GMT"}

    def answer(self, path: str, headers: Mapping[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if headers.get("If-Modified-Since") == self.stamps["last-modified"]:
            return 304, b"", self.stamps
        return 200, self.body, {"content-type": "application/json", **self.stamps}


def http(**stamps: str) -> tuple[HttpSource, Document]:
    source, server = HttpSource(HttpOptions(url="http://h/x"), CONTEXT), Document()
    server.stamps |= stamps
    source._client = server  # type: ignore[assignment]
    return source, server


@pytest.mark.parametrize("date", ["Thu, 26 Nov 2026 02:00:00 GMT", "Thu, 26 Nov 2026 02:00:01 GMT", "soon", None])
def test_a_second_change_within_one_second_is_seen(date: str | None) -> None:
    """A recent Last-Modified may be of two versions, so it is not a condition; nor is one without the server's own time."""
    source, server = http(**({"date": date} if date else {}))
    assert source.fetch([""]).layers[0].tree == {"a": 1}
    first = source.fetch([""])
    server.body = b'{"a": 2}'
    second = source.fetch([""])
    assert second.layers[0].tree == {"a": 2}
    assert second.revision != first.revision


def test_an_old_document_is_asked_for_with_a_condition() -> None:
    """Once its second is over, Last-Modified identifies a version."""
    source, server = http(date="Thu, 26 Nov 2026 02:00:02 GMT")
    first = source.fetch([""])
    assert source.fetch([""]) == first
    assert [sent.get("If-Modified-Since") for sent in server.sent] == [None, server.stamps["last-modified"]]
