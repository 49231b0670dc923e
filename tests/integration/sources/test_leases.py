"""Vault's dynamic secrets through a template, from the first lease to its successor."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.conftest import Image
from tests.integration.sources.benches import VaultBench
from tests.integration.sources.fleet import source_table

SETTINGS = """
[keys."dynamic.database.creds.web.username"]
required = true
[keys."dynamic.database.creds.web.password"]
required = true
secret = true
[[template]]
source = "db.j2"
target = "/etc/db.conf"
"""
TEMPLATE = "{% set db = config.dynamic.database.creds.web %}{{ db.username }} {{ db.password }}\n"


def until(check: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_lease_is_renewed_and_replaced_before_it_ends(image: Image) -> None:
    """The daemon renews the lease while that is granted. Near its maximum age the daemon renders a new user while the old one
    is still valid, without a poll and without a restart. The password is in its target alone."""
    bench = VaultBench(image.root / "bench")
    with bench.held:
        bench.begin()
        vault = bench.server
        vault.lease_seconds, vault.longest_seconds = 6.0, 15.0
        bench.put("common", "name", "x")
        more = 'poll = "1h"\ndynamic = ["database/creds/web"]\n'
        image.settings(source_table(bench, image, bench.port or 0, "http", more) + SETTINGS, site=False)
        image.template("db.j2", TEMPLATE)
        process = image.start("run")
        try:
            until(lambda: image.path("/etc/db.conf").exists(), 30)
            assert image.read("/etc/db.conf") == "v-web-1 p-1\n"
            until(lambda: image.read("/etc/db.conf") == "v-web-2 p-2\n", 60)
            assert process.poll() is None
        finally:
            process.kill()
            process.communicate()
        renewals = [request for request in vault.requests if request.path == "/v1/sys/leases/renew"]
        assert renewals
        (_, ended), (born, _) = list(vault.leases.values())[:2]
        assert born < ended
        assert len([request for request in vault.requests if request.path == "/v1/database/creds/web"]) == 2
        state = [path for path in image.path("/var/lib/parbake").rglob("*") if path.is_file()]
        assert not [path for path in state if b"p-1" in path.read_bytes()]
