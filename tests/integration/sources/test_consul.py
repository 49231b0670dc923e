"""Properties of Consul alone: services by health, one moment for all layers, indexes that go backwards, ACLs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import SourceInvalid
from agent.paths import Paths
from agent.sources import SourceContext
from agent.sources.backends.consul import ConsulOptions, ConsulSource
from tests.image.lab.binaries import consul_binary
from tests.integration.sources.benches import ConsulBench
from tests.servers.consul import Consul
from tests.servers.scripted import answer, scripted


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[Consul]:
    if reason := ConsulBench.missing():
        pytest.skip(reason)
    with Consul(consul_binary(), tmp_path / "consul") as server:
        yield server


def open_consul(url: str, **options: object) -> ConsulSource:
    given = ConsulOptions(address=url, **{"prefix": "site", **options})  # type: ignore[arg-type]
    return ConsulSource(given, SourceContext("consul", Paths(), 5.0))


def register(consul: Consul, number: int, status: str = "passing") -> None:
    service = {
        "Name": "db", "ID": f"db{number}", "Address": f"10.0.0.{number}", "Port": 5432, "Tags": ["primary"],
        "Meta": {"zone": "a"}, "Check": {"TTL": "1h", "Status": status},
    }  # fmt: skip
    consul.request("PUT", "/v1/agent/service/register", json.dumps(service).encode())


def test_only_passing_instances_are_services_and_their_change_is_seen(consul: Consul) -> None:
    """A critical instance is not in the list; when it passes, the watch wakes and it is."""
    register(consul, 1)
    register(consul, 2, "critical")
    source = open_consul(consul.url, services=("db", "absent"))
    seen = source.fetch(["common"])
    assert seen.layers[-1].tree == {
        "services": {
            "absent": [],
            "db": [{"address": "10.0.0.1", "port": 5432, "node": "lab", "tags": ["primary"], "meta": {"zone": "a"}}],
        }
    }
    threading.Timer(0.3, consul.request, ("PUT", "/v1/agent/check/pass/service:db2")).start()
    started = time.monotonic()
    assert source.watch(seen, 10)
    assert time.monotonic() - started < 1.5
    tree = source.fetch(["common"]).layers[-1].tree
    assert tree is not None
    assert [one["address"] for one in tree["services"]["db"]] == ["10.0.0.1", "10.0.0.2"]
    source.close()


def test_a_key_changed_between_two_layers_is_in_both_or_in_none(consul: Consul) -> None:
    """All layers are of one moment: a pair that is always written together is never read apart."""
    pair = [{"KV": {"Verb": "set", "Key": f"site/{layer}/n", "Value": "MA=="}} for layer in ("a", "b")]
    consul.request("PUT", "/v1/txn", json.dumps(pair).encode())
    stop = threading.Event()

    def write() -> None:
        import base64

        number = 0
        while not stop.is_set():
            number += 1
            value = base64.b64encode(str(number).encode()).decode()
            both = [{"KV": {"Verb": "set", "Key": f"site/{layer}/n", "Value": value}} for layer in ("a", "b")]
            consul.request("PUT", "/v1/txn", json.dumps(both).encode())

    writer = threading.Thread(target=write)
    writer.start()
    source = open_consul(consul.url)
    try:
        numbers = [[layer.tree for layer in source.fetch(["a", "b"]).layers] for _ in range(40)]
    finally:
        stop.set()
        writer.join()
    assert all(a == b for a, b in numbers)
    assert len({str(a) for a, _ in numbers}) > 1
    source.close()


def test_a_folder_of_the_web_interface_is_not_a_key(consul: Consul) -> None:
    """An empty folder, as Consul's own interface writes it, is an empty layer."""
    consul.put("site/common/", "")
    source = open_consul(consul.url)
    assert source.fetch(["common", "none"]).layers[0].tree == {}
    source.close()


def test_values_that_are_not_text_are_an_error_that_names_the_key(consul: Consul) -> None:
    """Bytes must be stored in base64."""
    consul.put("site/common/key", b"\xff\xfe\x00")
    source = open_consul(consul.url)
    with pytest.raises(SourceInvalid, match="site/common/key"):
        source.fetch(["common"])
    source.close()


def test_ten_thousand_keys_are_two_requests(consul: Consul) -> None:
    """The number of requests does not grow with the number of keys."""
    for start in range(0, 10_000, 64):
        part = range(start, min(start + 64, 10_000))
        keys = [{"KV": {"Verb": "set", "Key": f"site/common/t{n % 100}/k{n}", "Value": "eA=="}} for n in part]
        consul.request("PUT", "/v1/txn", json.dumps(keys).encode())
    with scripted() as proxy:
        proxy.plays = [proxy.forwarding(consul.port)]
        source = open_consul(proxy.url)
        tree = source.fetch(["common", "env/dev"]).layers[0].tree
        source.close()
        assert tree is not None
        assert sum(len(table) for table in tree.values()) == 10_000
        assert len(proxy.requests) == 2


@pytest.mark.parametrize(("index", "wakes"), [("3", True), ("0", True), ("9", False)])
def test_an_index_that_goes_backwards_is_a_change_and_a_broken_one_no_storm(index: str, wakes: bool) -> None:
    """A restored Consul has a lower index, which is a change. A server that does not block gets few requests."""
    with scripted() as server:
        server.plays = [server.answering(answer(b"[]", "200 OK", f"X-Consul-Index: {index}"))]
        source = open_consul(server.url)
        from agent.model import Layer, Snapshot

        seen = Snapshot((Layer("common", None),), "9")
        assert source.watch(seen, 2.0) is wakes
        assert len(server.requests) <= 6
        source.close()


def test_an_answer_without_an_index_is_not_consul() -> None:
    """A web server on the port is an error that names the missing header."""
    with scripted() as server:
        server.plays = [server.answering(answer(b"[]"))]
        source = open_consul(server.url)
        with pytest.raises(SourceInvalid, match="X-Consul-Index"):
            source.fetch(["common"])
        source.close()
