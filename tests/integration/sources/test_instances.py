"""Whole instances of every network backend before a network that misbehaves: `parbake run`, seen from outside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.sources.fleet import Fleet, needs_all, put, showing, stale_and_untouched, targets
from tests.servers.faulty import Certificates, Faulty

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("aws_credentials")]


@pytest.fixture
def fleet(tmp_path: Path, certificates: Certificates) -> Iterator[Fleet]:
    needs_all()
    with Fleet(tmp_path / "fleet", certificates) as started:
        yield started


def test_every_fault_keeps_the_last_good_and_passes_by_itself(fleet: Fleet) -> None:
    """During each fault of the network every backend is stale with the reason and leaves the target alone. After the fault
    it has the value that was changed meanwhile, without a restart; and so it does after a start during the fault."""
    over_http = [one for one in fleet.instances if one.bench.http or one.bench.udp]
    for number, fault in enumerate(("refuse", "reset", "hang", "drip", "500"), 2):
        hit = over_http if fault == "500" else fleet.instances
        before = targets(fleet)
        fleet.set(fault, hit)
        put(fleet, f"10.0.0.{number}")
        stale_and_untouched(fleet, hit, fault, before)
        fleet.set("pass", hit)
        fleet.wait(showing(f"10.0.0.{number}"), f"converge after {fault}")
    certificates_that_do_not_fit(fleet, "10.0.0.7")
    stores_that_restart(fleet, "10.0.0.8")
    start_without_the_store(fleet, "10.0.0.9")


def certificates_that_do_not_fit(fleet: Fleet, value: str) -> None:
    """Expired, of another name, of another CA, one after the other: no answer of such a server is accepted."""
    hit = [one for one in fleet.instances if isinstance(one.proxy, Faulty) and one.proxy.certificate]
    before = targets(fleet)
    for wrong in ("expired", "elsewhere", "stranger", "good"):
        for one in hit:
            assert isinstance(one.proxy, Faulty)
            one.proxy.certificate = getattr(fleet.certificates, wrong)
            one.proxy.cut()
        if wrong == "expired":
            put(fleet, value)
        if wrong != "good":
            stale_and_untouched(fleet, hit, wrong, before)
    fleet.wait(showing(value), "converge with the right certificate")


def stores_that_restart(fleet: Fleet, value: str) -> None:
    """The server ends and starts again; a store that keeps nothing is filled again."""
    before = targets(fleet)
    for one in fleet.instances:
        one.bench.stop()
    stale_and_untouched(fleet, fleet.instances, "restart", before)
    for one in fleet.instances:
        one.bench.start()
    put(fleet, value)
    fleet.wait(showing(value), "converge after a restart of its store")


def start_without_the_store(fleet: Fleet, value: str) -> None:
    """Stopped and started without the store, each instance uses the last good, is stale, and recovers by itself."""
    before = targets(fleet)
    fleet.set("refuse", fleet.instances)
    assert {one.bench.backend: one.stop() for one in fleet.instances} == dict.fromkeys(before, 0)
    for one in fleet.instances:
        one.put(value)
        one.image.path("/run/parbake/status.json").unlink()
        one.start()
    stale_and_untouched(fleet, fleet.instances, "refuse", before)
    fleet.set("pass", fleet.instances)
    fleet.wait(showing(value), "converge after a start without its store")
