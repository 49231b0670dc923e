"""The dns source against a real DNS server: services as lists of instances, one layer a domain."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import SourceInvalid, SourceUnreachable
from agent.paths import Paths
from agent.sources import SourceContext
from agent.sources.backends.dns import DnsOptions, DnsSource
from tests.servers.stores import Dnsmasq

RECORDS = (
    "srv-host=_http._tcp.web.dev.test,one.dev.test,8080,10,5",
    "srv-host=_http._tcp.web.dev.test,two.dev.test,8081,5,0",
    "host-record=one.dev.test,10.0.0.1",
    "host-record=two.dev.test,10.0.0.2,fd00::2",
    "host-record=db.dev.test,10.0.0.9",
    "cname=database.dev.test,db.dev.test",
    "txt-record=_none._tcp.dev.test,nothing",
    "srv-host=_gone._tcp.dev.test,nowhere.dev.test,1,1,1",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Dnsmasq]:
    if not Dnsmasq.installed():
        pytest.skip("dnsmasq is not installed (dnsmasq-base)")
    pytest.importorskip("dns")
    made = Dnsmasq(tmp_path / "dns")
    made.records = list(RECORDS)
    with made:
        yield made


def source(server: Dnsmasq, seconds: float = 5.0, **services: str) -> DnsSource:
    options = DnsOptions(services=services, nameservers=(f"127.0.0.1:{server.port}",))
    return DnsSource(options, SourceContext("dns", Paths(), seconds))


def test_srv_and_address_records_are_services_in_a_stable_order(server: Dnsmasq) -> None:
    """By priority, with every address of a target; an alias is followed; HOST:PORT gives the port itself."""
    found = source(server, web="_http._tcp.web", db="database:5432").fetch(["dev.test"]).layers[0].tree
    assert found is not None
    web = [(one["address"], one["port"], one["node"]) for one in found["services"]["web"]]
    assert web == [
        ("10.0.0.2", 8081, "two.dev.test"),
        ("fd00::2", 8081, "two.dev.test"),
        ("10.0.0.1", 8080, "one.dev.test"),
    ]
    assert found["services"]["web"][2]["meta"] == {"priority": "10", "weight": "5"}
    assert [(one["address"], one["port"]) for one in found["services"]["db"]] == [("10.0.0.9", 5432)]


def test_no_such_name_is_absent_and_no_such_record_is_an_empty_list(server: Dnsmasq) -> None:
    """When the last server of a service is removed, the list is empty, and not the previous one."""
    layers = source(server, none="_none._tcp", other="_other._tcp").fetch(["dev.test", "prod.test"]).layers
    assert layers[0].tree == {"services": {"none": []}}
    assert layers[1].tree is None


def test_targets_without_addresses_are_an_error(server: Dnsmasq) -> None:
    """A zone in the middle of a change does not take every server out of a config."""
    with pytest.raises(SourceInvalid, match="no target"):
        source(server, gone="_gone._tcp").fetch(["dev.test"])


def test_an_answer_too_long_for_a_datagram_is_whole(server: Dnsmasq) -> None:
    """Two hundred servers come over TCP, none missing."""
    server.stop()
    server.records += [f"srv-host=_big._tcp.dev.test,h{number}.dev.test,80,1,1" for number in range(200)]
    server.records += [f"host-record=h{number}.dev.test,10.1.0.{number}" for number in range(200)]
    server.start()
    found = source(server, big="_big._tcp").fetch(["dev.test"]).layers[0].tree
    assert found is not None
    assert len({one["address"] for one in found["services"]["big"]}) == 200


def test_a_server_that_ended_or_hangs_is_unreachable_and_used_again(server: Dnsmasq) -> None:
    """A missing answer is not an empty answer; it is an error within the time-out."""
    asked = source(server, 1.5, db="db:5432")
    before = asked.fetch(["dev.test"])
    for fault, repair in ((server.stop, server.start), (server.pause, server.resume)):
        fault()
        started = time.monotonic()
        with pytest.raises(SourceUnreachable):
            asked.fetch(["dev.test"])
        assert time.monotonic() - started < 2.5
        repair()
        assert asked.fetch(["dev.test"]) == before
