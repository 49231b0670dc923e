"""Whole instances of every network backend without a network, and without a resolver."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.integration.sources.fleet import Fleet, needs_all, put, showing, stale_and_untouched, targets
from tests.servers.farnetwork import FarNetwork, Resolver
from tests.servers.faulty import Certificates

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("aws_credentials")]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
def test_a_network_that_is_gone_for_a_minute(tmp_path: Path) -> None:
    """Every packet is lost for a minute, without an error. Each backend notices, half-open connections included, keeps the
    last good, and converges by itself afterwards; and so it does after its store's name did not resolve."""
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
        time.sleep(35)  # an unavailable source is asked every 30 s at the latest, so that each was asked by now
        stale_and_untouched(fleet, named, "no such name", before)
        resolver.start()
        fleet.wait(showing("10.0.0.3"), "converge once the name resolves", named)
