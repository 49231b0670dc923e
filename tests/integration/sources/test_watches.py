"""Watches of stores that do not report every change: a compacted history, a server that sends no notifications.

An expired session of ZooKeeper is in test_network_gone.py: a minute without a network outlasts it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.paths import Paths
from agent.sources import SourceContext
from agent.sources.backends.redis import RedisOptions, RedisSource
from tests.integration.sources.benches import EtcdBench, RedisBench, running
from tests.servers.stores import Redis, encoded


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdBench]:
    if reason := EtcdBench.missing():
        pytest.skip(reason)
    for bench in running(EtcdBench, tmp_path / "bench"):
        assert isinstance(bench, EtcdBench)
        yield bench


def test_a_compacted_history_is_a_change(etcd: EtcdBench) -> None:
    """A watch from a revision that etcd has compacted returns True, and the next watch starts from the new fetch."""
    etcd.put("common", "name", "one")
    source = etcd.open()
    seen = source.fetch(["common"])
    for value in ("two", "three"):
        etcd.put("common", "name", value)
    newest = etcd.server.post("/v3/kv/range", {"key": encoded("x")})["header"]["revision"]
    etcd.server.post("/v3/kv/compaction", {"revision": newest, "physical": True})
    assert source.watch(seen, 10)  # type: ignore[attr-defined]
    seen = source.fetch(["common"])
    assert seen.layers[0].tree == {"name": "three"}
    assert not source.watch(seen, 0.5)  # type: ignore[attr-defined]
    etcd.put("common", "name", "four")
    assert source.watch(seen, 10)  # type: ignore[attr-defined]


@pytest.mark.parametrize("flags", ["", "Ex", "Kg"])
def test_a_redis_that_does_not_notify_is_polled(tmp_path: Path, flags: str) -> None:
    """With notifications off, or too few of them, the watch returns True at each poll, and no sooner."""
    if reason := RedisBench.missing():
        pytest.skip(reason)
    with Redis(tmp_path / "redis", notifications=flags) as server:
        server.ask("SET", "site:common:name", "one")
        options = RedisOptions(url=f"redis://127.0.0.1:{server.port}/0", prefix="site")
        source = RedisSource(options, SourceContext("redis", Paths(), 5.0, poll_seconds=1.0))
        seen = source.fetch(["common"])
        started = time.monotonic()
        assert source.watch(seen, 60)
        assert time.monotonic() - started >= 0.9
        server.ask("SET", "site:common:name", "two")
        assert source.watch(seen, 60)
        assert source.fetch(["common"]).layers[0].tree == {"name": "two"}
        source.close()
