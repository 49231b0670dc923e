"""Whole instances of every network backend before a network that misbehaves: `parbake run`, seen from outside."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.integration.sources.benches import OVER_NETWORK
from tests.integration.sources.fleet import Fleet, Instance
from tests.servers.farnetwork import FarNetwork, Resolver
from tests.servers.faulty import Certificates, Faulty


def needs_all() -> None:
    if reasons := [reason for kind in OVER_NETWORK if (reason := kind.missing())]:
        pytest.skip("; ".join(reasons))


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the benches' own boto3."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@pytest.fixture
def fleet(tmp_path: Path, certificates: Certificates) -> Iterator[Fleet]:
    needs_all()
    with Fleet(tmp_path / "fleet", certificates) as started:
        yield started


REASONS = {
    "refuse": "refused|in time",
    "reset": "reset|broke off|closed|connection broken|in time",
    "hang": "in time",
    "drip": "in time",
    "500": "500|SERVFAIL",
    "expired": "expired",
    "elsewhere": "mismatch|not valid for|doesn't match|does not match",
    "stranger": "issuer|not trusted",
    "no name server": "not resolve",
    "no such name": "not resolve",
}


def stale_and_untouched(fleet: Fleet, hit: Sequence[Instance], fault: str, before: dict[str, tuple[int, str]]) -> None:
    """Each of `hit` says stale and why, and its target is the very file that it was."""
    why = re.compile(REASONS.get(fault, "."))
    fleet.wait(lambda one: one.is_("stale") and bool(why.search(one.error)), f"say stale because of {fault}", hit)
    changed = [one.bench.backend for one in hit if one.target() != before[one.bench.backend]]
    assert not changed, f"{fault}: these wrote a target: {changed}"


def test_every_fault_keeps_the_last_good_and_passes_by_itself(fleet: Fleet) -> None:
    """Issue 4: whatever the network does, each backend says stale with the reason, leaves the target alone, and has the
    value that was changed meanwhile as soon as the fault is over, without a restart. So it does when it was started again."""
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


def targets(fleet: Fleet) -> dict[str, tuple[int, str]]:
    return {one.bench.backend: one.target() for one in fleet.instances}


def showing(value: str) -> Callable[[Instance], bool]:
    return lambda one: one.shows(value)


def put(fleet: Fleet, value: str) -> None:
    for one in fleet.instances:
        one.put(value)


def certificates_that_do_not_fit(fleet: Fleet, value: str) -> None:
    """Expired, of another name, of another CA, one after the other: nothing of what such a server says is believed."""
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
    """The server ends, and comes back; where it has forgotten everything, it is filled again."""
    before = targets(fleet)
    for one in fleet.instances:
        one.bench.stop()
    stale_and_untouched(fleet, fleet.instances, "restart", before)
    for one in fleet.instances:
        one.bench.start()
    put(fleet, value)
    fleet.wait(showing(value), "converge after a restart of its store")


def start_without_the_store(fleet: Fleet, value: str) -> None:
    """Stopped and started with the store away, each comes up on the last good, says stale, and recovers by itself."""
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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
def test_a_network_that_is_gone_for_a_minute(tmp_path: Path) -> None:
    """Issue 4: every packet is lost for a minute, and nobody says so. Each backend notices, half-open connections
    included, keeps the last good, and converges by itself afterwards; and so it does when its store's name does not resolve."""
    needs_all()
    certificates = Certificates(tmp_path / "tls", f"DNS:{Resolver.name}")
    with FarNetwork() as network, Resolver(network, tmp_path / "resolver") as resolver, Fleet(
        tmp_path / "fleet",
        certificates,
        host=lambda kind: network.address if kind.udp else resolver.name,
        bind=network.bind,
        bind_udp=network.bind_udp,
        prefix=resolver.prefix,
    ) as fleet:  # fmt: skip
        before = targets(fleet)
        network.pass_on(False)
        gone = time.monotonic()
        put(fleet, "10.0.0.2")
        stale_and_untouched(fleet, fleet.instances, "lost packets", before)
        time.sleep(max(0.0, gone + 60 - time.monotonic()))
        network.pass_on(True)
        fleet.wait(showing("10.0.0.2"), "converge after a minute without a network")
        named = [one for one in fleet.instances if not one.bench.udp]
        before = targets(fleet)
        resolver.stop()
        for one in named:
            one.put("10.0.0.3")
            one.proxy.cut()
        stale_and_untouched(fleet, named, "no name server", before)
        resolver.start(knowing=False)
        time.sleep(35)  # a source that is away is asked every 30 s at the latest: by now each was
        stale_and_untouched(fleet, named, "no such name", before)
        resolver.start()
        fleet.wait(showing("10.0.0.3"), "converge once the name resolves", named)
