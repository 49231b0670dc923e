"""The requests of a cold boot and of a poll are those in docs/reference/backends.md."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.sources import Source
from tests.integration.sources.benches import AzureBench, Bench, GcpBench, RedisBench, ZookeeperBench
from tests.servers.scripted import scripted

PAGE = Path(__file__).parents[3] / "docs/reference/backends.md"
LAYERS = ("common", "env/dev", "env/dev/web", "instance/none")


def documented() -> dict[str, tuple[int, int]]:
    """Return backend -> (requests of the first fetch, of a later one without changes), from the page's table."""
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| (\d+) \| (\d+) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    return {name: (int(first), int(later)) for name, first, later in rows}


def counted(bench: Bench) -> tuple[int, int]:
    """Return (first, later), by the store's own counter if its protocol is not HTTP."""
    if isinstance(bench, RedisBench):
        return differences(bench.open(), lambda: redis_commands(bench))
    if isinstance(bench, ZookeeperBench):
        return differences(bench.open(), lambda: zookeeper_packets(bench))
    assert bench.port is not None
    with scripted() as proxy:
        proxy.plays = [proxy.forwarding(bench.port)]
        return differences(bench.open(proxy.port), lambda: len(proxy.requests))


def differences(source: Source[object], count: Callable[[], int]) -> tuple[int, int]:
    numbers = [count()]
    for _ in range(2):
        source.fetch(LAYERS)
        numbers.append(count())
    source.close()
    return numbers[1] - numbers[0], numbers[2] - numbers[1]


def redis_commands(bench: RedisBench) -> int:
    import redis

    client = redis.Redis(port=bench.server.port, password="right")
    found = client.info("commandstats")
    client.close()
    names = ("cmdstat_scan", "cmdstat_hgetall", "cmdstat_mget", "cmdstat_exists")
    return sum(found[name]["calls"] for name in names if name in found)


def zookeeper_packets(bench: ZookeeperBench) -> int:
    """Return the packets that the server received, without this question. The time is too short for a heartbeat."""
    with socket.create_connection(("127.0.0.1", bench.server.port), 5) as wire:
        wire.sendall(b"srvr")
        found = re.search(rb"Received: (\d+)", wire.makefile("rb").read())
    assert found
    bench.questions += 1
    return int(found[1]) - bench.questions


@pytest.mark.needs.with_args(lambda kind: kind.stop is not Bench.stop)
def test_the_page_has_the_requests_of_a_fetch(bench: Bench) -> None:
    """Four layers, five keys: the first fetch with its login, and a fetch without changes."""
    bench.put("common", "db/host", "h")
    bench.put("common", "db/port", "1")
    bench.put("common", "name", "x")
    bench.put("env/dev", "name", "x")
    bench.put("env/dev/web", "name", "x")
    if isinstance(bench, AzureBench):
        bench.server.secrets = {name: (value, 1) for name, (value, _) in bench.server.secrets.items()}
    if isinstance(bench, (GcpBench, AzureBench)):
        bench.server.page = 25
    measured, documented_counts = counted(bench), documented()[bench.backend]
    if isinstance(bench, ZookeeperBench):  # the test's own session may have sent a heartbeat in between
        assert all(0 <= one - other <= 2 for one, other in zip(measured, documented_counts, strict=True))
    else:
        assert measured == documented_counts
