"""Implausible and invalid answers are not accepted: `parbake once` on real stores, and on servers in their place."""

from __future__ import annotations

import functools
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from agent.cli.main import main
from tests.conftest import REPOSITORY, Image
from tests.integration.sources.benches import Bench, ConsulBench, EtcdBench, FileBench, HttpBench, RedisBench
from tests.integration.sources.benches.base import Documents
from tests.integration.sources.fleet import source_table
from tests.servers.scripted import Scripted, answer, scripted

CONTRACT = """
[keys.name]
required = true
[keys.port]
type = "integer"
required = true
[[template]]
source = "app.j2"
target = "/etc/app.conf"
"""
CANARY = "c4nary"
KINDS = (FileBench, HttpBench, ConsulBench, EtcdBench, RedisBench)


class Converged:
    """An image that has converged on a bench's store, for further runs of `once`."""

    def __init__(self, bench: Bench, image: Image, capsys: pytest.CaptureFixture[str]) -> None:
        self.bench, self.image, self._capsys = bench, image, capsys
        self.settings(bench.port or 0)
        image.template("app.j2", "{{ config.name }}:{{ config.port }}\n")
        for layer, key, value in (("common", "name", "one"), ("common", "port", "80"), ("env/dev", "name", "dev")):
            bench.put(layer, key, value)
        assert self.once()[0] == 0
        assert image.read("/etc/app.conf") == "dev:80\n"

    def settings(self, port: int, more: str = "") -> None:
        self.image.settings(source_table(self.bench, self.image, port, "http", more) + CONTRACT, site=False)

    def once(self) -> tuple[int, str]:
        """Run `once`, and return its exit code and output."""
        code = main(["--root", str(self.image.root), "once"])
        out, err = self._capsys.readouterr()
        return code, out + err

    def refused(self, code: int, *words: str) -> None:
        """Hold that `once` ends with `code`, prints each of `words` and no value, and leaves the target unchanged."""
        target = self.image.path("/etc/app.conf")
        before = (target.stat().st_ino, target.read_bytes())
        actual, output = self.once()
        assert actual == code, output
        assert (target.stat().st_ino, target.read_bytes()) == before
        assert [word for word in words if word not in output] == []
        assert CANARY not in output
        status = self.image.status()
        assert status["state"] == ("stale" if code == 75 else "failed")
        if code == 75:
            assert status["sources"][0]["state"] == "stale"
            assert status["sources"][0]["error"]

    def drop(self, layer: str, key: str) -> None:
        """Remove one key. `Bench.drop` of a document removes the whole layer."""
        if isinstance(self.bench, Documents):
            del self.bench.trees[layer][key]
            self.bench.write(layer, json.dumps(self.bench.trees[layer]))
        else:
            self.bench.drop(layer, key)


@pytest.fixture
def converged(request: pytest.FixtureRequest, image: Image, capsys: pytest.CaptureFixture[str]) -> Iterator[Converged]:
    kind: type[Bench] = request.param
    if reason := kind.missing():
        pytest.skip(reason)
    bench = kind(image.root / "bench")
    with bench.held:
        bench.begin()
        yield Converged(bench, image, capsys)


def over(*kinds: type[Bench]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("converged", kinds, indirect=True, ids=[kind.backend for kind in kinds])


@over(*KINDS)
def test_removed_keys_are_accepted_only_if_that_is_allowed(converged: Converged) -> None:
    """A layer that lost its keys, and a store that lost all: stale, with the layer's name. `allow_empty` accepts it, and a
    missing required key stops the convergence all the same."""
    bench = converged.bench
    bench.drop("env/dev", "name")
    converged.refused(75, "env/dev had keys and has none now", "allow_empty = true")
    converged.drop("common", "port")
    converged.drop("common", "name")
    converged.refused(75, "common")
    bench.put("common", "name", "two")
    converged.settings(bench.port or 0, "allow_empty = true\n")
    converged.refused(65, "port: required, and in no layer")
    bench.put("common", "port", "80")
    assert converged.once()[0] == 0
    assert converged.image.read("/etc/app.conf") == "two:80\n"


@over(*KINDS)
def test_invalid_values_are_named_and_not_shown(converged: Converged) -> None:
    """A wrong type stops the convergence before anything is written; invalid UTF-8, and half a document, keep the last good."""
    converged.bench.put("common", "port", CANARY)
    converged.refused(65, "port: found a string, expected an integer", "source store, layer common")
    converged.bench.put("common", "port", "80")
    for key in converged.bench.odd_keys:
        converged.bench.put("common", key, CANARY)
    assert converged.once()[0] == 0
    for content in spoilt(converged.bench):
        content()
        converged.refused(75, "UTF-8" if content.__name__ == "latin" else "JSON")
    if converged.bench.flat:
        converged.bench.put("env/dev", "name", "dev")
        converged.bench.put("env/dev", "name/first", CANARY)
        converged.refused(75, "name", "is a value and has keys below it")


def spoilt(bench: Bench) -> list[Callable[[], object]]:
    """Return functions that write an invalid UTF-8 value and half a document, which the bench itself does not write."""
    text = f"{CANARY}-ä".encode("latin-1")

    def latin() -> object:
        if isinstance(bench, ConsulBench):
            return bench.server.put("site/env/dev/name", text)
        if isinstance(bench, EtcdBench):
            return bench.server.put("/site/env/dev/name", text)
        if isinstance(bench, RedisBench):
            return bench.server.ask("SET", "site:env:dev:name", text)
        assert isinstance(bench, (FileBench, HttpBench))
        return (bench.top / "env/dev.json").write_bytes(b'{"name": "' + text + b'"}')

    def half() -> object:
        assert isinstance(bench, (FileBench, HttpBench))
        return (bench.top / "env/dev.json").write_bytes(b'{"name": "' + CANARY.encode())

    return [latin, half] if isinstance(bench, Documents) else [latin]


@over(HttpBench, ConsulBench, EtcdBench, RedisBench)
def test_an_answer_of_another_server_is_not_accepted(converged: Converged) -> None:
    """A captive portal's page under two types, an empty answer, and answers that break off in the body or the headers."""
    page = b"<html><body>Please log in</body></html>"
    index = "X-Consul-Index: 7"
    cases = [
        answer(page, "200 OK", "Content-Type: text/html", index),
        answer(page, "200 OK", "Content-Type: application/json", index),
        answer(b"", "200 OK", "Content-Type: application/json", index),
        answer(b"{}", "200 OK", "Content-Type: application/json", index)[:-1],
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Cons",
    ]
    for number, case in enumerate(cases):
        with scripted(functools.partial(once_and_gone, case)) as server:
            converged.settings(server.port, 'timeout = "5s"\n')
            if number == 2 and isinstance(converged.bench, HttpBench):
                converged.refused(75, "had keys and has none now")  # an empty document is one without keys
            else:
                converged.refused(75)


def once_and_gone(content: bytes, wire: socket.socket) -> None:
    wire.recv(65536)
    wire.sendall(content)


HUGE = 100 << 20


@over(*KINDS)
def test_a_huge_answer_does_not_fit_into_memory(converged: Converged) -> None:
    """100 MB are an error, with and without a Content-Length, and are never in memory: the process stays below 200 MB."""
    bench = converged.bench
    if isinstance(bench, FileBench):
        with (bench.top / "env/dev.json").open("wb") as file:
            file.truncate(HUGE)
        bounded(converged)
    elif isinstance(bench, RedisBench):
        bench.server.ask("SET", "site:env:dev:name", b"x" * HUGE)
        bounded(converged)
    else:
        for announced in (True, False) if isinstance(bench, HttpBench) else (False,):
            with scripted() as server:
                server.plays = [functools.partial(flood, server, announced)]
                converged.settings(server.port)
                bounded(converged)


def flood(server: Scripted, announced: bool, wire: socket.socket) -> None:
    server.read_request(wire)
    length = f"Content-Length: {HUGE}\r\n" if announced else ""
    wire.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nX-Consul-Index: 7\r\n{length}\r\n".encode())
    for _ in range(HUGE >> 20):
        wire.sendall(b" " * (1 << 20))


SMALL = r"""
import re, sys
from agent.cli.main import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\s*(\d+)", open("/proc/self/status").read())[1])
sys.exit(code)
"""


def bounded(converged: Converged) -> None:
    """Run `once` in a separate process that prints its largest size, and hold that it is stale and small."""
    argv = [sys.executable, "-c", SMALL, "--root", str(converged.image.root), "once"]
    ran = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY, timeout=120, check=False
    )
    assert ran.returncode == 75
    assert "bytes" in converged.image.status()["sources"][0]["error"]
    assert int(ran.stdout.split()[-1]) < 200 << 10  # KiB
