"""The tests' Consul is a real one, and its data outlive a stop."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.image.lab.binaries import consul_binary
from tests.servers.consul import Consul
from tests.servers.processes import ServerError

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consul]:
    with Consul(consul_binary(), tmp_path_factory.mktemp("consul")) as server:
        yield server


def test_keys_survive_a_stop_and_a_kill(consul: Consul) -> None:
    """A key is readable over TCP after the server was stopped and after it was killed."""
    consul.put("env/dev/db/password", "s3cret \u00e4")
    consul.put("env/dev/empty", "")
    consul.stop()
    with pytest.raises(ServerError, match="does not answer"):
        consul.put("env/dev/late", "x")
    consul.start()
    consul.stop(kill=True)
    consul.start()
    with urllib.request.urlopen(f"{consul.url}/v1/kv/env/dev/db/password?raw", timeout=5) as answer:
        assert answer.read().decode() == "s3cret \u00e4"
        assert int(answer.headers["X-Consul-Index"]) > 0
    consul.delete("env/dev", recurse=True)
    with pytest.raises(ServerError, match="404"):
        consul.request("GET", "/v1/kv/env/dev?recurse")


def test_a_paused_server_accepts_and_never_answers(consul: Consul) -> None:
    """There is no answer during the pause, and the data are the same after it."""
    consul.put("a", "1")
    consul.pause()
    with pytest.raises(ServerError, match="timed out"):
        consul.request("GET", "/v1/kv/a", timeout_seconds=0.5)
    consul.resume()
    assert consul.request("GET", "/v1/kv/a")[0]["Key"] == "a"


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """Settings that Consul refuses end in an error with Consul's own message."""
    broken = Consul(consul_binary(), tmp_path, settings={"no_such_setting": 1})
    with pytest.raises(ServerError, match="no_such_setting"), broken:
        pytest.fail("it started")
