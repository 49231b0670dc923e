"""The cost of a watch of Redis: many changed keys are one alarm, and a poll comes when it is due."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent.paths import Paths
from agent.sources import SourceContext
from agent.sources.backends.redis import RedisOptions, RedisSource
from tests.integration.sources.benches import RedisBench
from tests.servers.stores import Redis


def open_redis(server: Redis, poll: float = 60.0) -> RedisSource:
    options = RedisOptions(url=f"redis://127.0.0.1:{server.port}/0", prefix="site")
    return RedisSource(options, SourceContext("redis", Paths(), 5.0, poll_seconds=poll))


def test_a_burst_of_changed_keys_is_one_alarm(tmp_path: Path) -> None:
    """Forty keys of one transaction are fetched once, not forty times with pauses in between."""
    if reason := RedisBench.missing():
        pytest.skip(reason)
    with Redis(tmp_path / "redis", notifications="KA") as server:
        source = open_redis(server)
        seen = source.fetch(["common"])
        assert not source.watch(seen, 0.3)
        server.ask("MSET", *(word for number in range(40) for word in (f"site:common:k{number}", "v")))
        time.sleep(0.2)
        assert source.watch(seen, 5)
        seen = source.fetch(["common"])
        assert len(seen.layers[0].tree or {}) == 40
        assert not source.watch(seen, 0.5)
        server.ask("SET", "site:common:k1", "w")
        assert source.watch(seen, 5)
        source.close()


def test_a_poll_that_is_longer_than_a_watch_comes(tmp_path: Path) -> None:
    """Without notifications the time of a poll counts from the last fetch, over any number of watches."""
    if reason := RedisBench.missing():
        pytest.skip(reason)
    with Redis(tmp_path / "redis", notifications="") as server:
        source = open_redis(server, poll=1.0)
        seen = source.fetch(["common"])
        started = time.monotonic()
        while not source.watch(seen, 0.3):
            assert time.monotonic() - started < 5
        assert 0.85 <= time.monotonic() - started <= 1.4
        source.close()
