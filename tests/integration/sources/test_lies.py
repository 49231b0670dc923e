"""A source that lies is not believed: `parbake once` on what real stores hold, and on what answers in their place."""

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


class Lied:
    """An image that has converged on a bench's store, and `once` on it again."""

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
        """The exit code, and what was said."""
        code = main(["--root", str(self.image.root), "once"])
        out, err = self._capsys.readouterr()
        return code, out + err

    def refused(self, code: int, *words: str) -> None:
        """`once` ends with `code`, says each of `words` and no value, and leaves the target as it is."""
        target = self.image.path("/etc/app.conf")
        before = (target.stat().st_ino, target.read_bytes())
        found, said = self.once()
        assert found == code, said
        assert (target.stat().st_ino, target.read_bytes()) == before
        assert [word for word in words if word not in said] == []
        assert CANARY not in said
        status = self.image.status()
        assert status["state"] == ("stale" if code == 75 else "failed")
        if code == 75:
            assert status["sources"][0]["state"] == "stale"
            assert status["sources"][0]["error"]

    def drop(self, layer: str, key: str) -> None:
        """One key, where `Bench.drop` of documents takes the layer."""
        if isinstance(self.bench, Documents):
            del self.bench.trees[layer][key]
            self.bench.write(layer, json.dumps(self.bench.trees[layer]))
        else:
            self.bench.drop(layer, key)


@pytest.fixture
def lied(request: pytest.FixtureRequest, image: Image, capsys: pytest.CaptureFixture[str]) -> Iterator[Lied]:
    kind: type[Bench] = request.param
    if reason := kind.missing():
        pytest.skip(reason)
    bench = kind(image.root / "bench")
    with bench.held:
        bench.begin()
        yield Lied(bench, image, capsys)


def over(*kinds: type[Bench]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lied", kinds, indirect=True, ids=[kind.backend for kind in kinds])


@over(*KINDS)
def test_what_went_is_believed_only_where_that_is_allowed(lied: Lied) -> None:
    """A layer without the keys it had, and a store without any: stale, with the layer's name. allow_empty believes it; and a
    required key that went stops everything, whatever is allowed."""
    bench = lied.bench
    bench.drop("env/dev", "name")
    lied.refused(75, "env/dev had keys and has none now", "allow_empty = true")
    lied.drop("common", "port")
    lied.drop("common", "name")
    lied.refused(75, "common")
    bench.put("common", "name", "two")
    lied.settings(bench.port or 0, "allow_empty = true\n")
    lied.refused(65, "port: required, and in no layer")
    bench.put("common", "port", "80")
    assert lied.once()[0] == 0
    assert lied.image.read("/etc/app.conf") == "two:80\n"


@over(*KINDS)
def test_values_that_cannot_be_are_named_and_not_shown(lied: Lied) -> None:
    """A wrong type stops everything with nothing written; bytes that are no text, and half a document, keep the last good."""
    lied.bench.put("common", "port", CANARY)
    lied.refused(65, "port: found a string, expected an integer", "source store, layer common")
    lied.bench.put("common", "port", "80")
    for key in lied.bench.odd_keys:
        lied.bench.put("common", key, CANARY)
    assert lied.once()[0] == 0
    for content in spoilt(lied.bench):
        content()
        lied.refused(75, "UTF-8" if content.__name__ == "latin" else "JSON")
    if lied.bench.flat:
        lied.bench.put("env/dev", "name", "dev")
        lied.bench.put("env/dev", "name/first", CANARY)
        lied.refused(75, "name", "is a value and has keys below it")


def spoilt(bench: Bench) -> list[Callable[[], object]]:
    """How to put a value that is not UTF-8, and a document that breaks off, past a bench's own writing."""
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
def test_what_answers_in_the_store_s_place_is_not_believed(lied: Lied) -> None:
    """A captive portal's page, however it calls itself; an empty answer; one that breaks off in its body or its headers."""
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
            lied.settings(server.port, 'timeout = "5s"\n')
            if number == 2 and isinstance(lied.bench, HttpBench):
                lied.refused(75, "had keys and has none now")  # an empty document is one without keys
            else:
                lied.refused(75)


def once_and_gone(content: bytes, wire: socket.socket) -> None:
    wire.recv(65536)
    wire.sendall(content)


HUGE = 100 << 20


@over(*KINDS)
def test_a_huge_answer_does_not_fit_into_memory(lied: Lied) -> None:
    """100 MB are an error, whether they are announced or not, and never held: the process stays below 200 MB."""
    bench = lied.bench
    if isinstance(bench, FileBench):
        with (bench.top / "env/dev.json").open("wb") as file:
            file.truncate(HUGE)
        bounded(lied)
    elif isinstance(bench, RedisBench):
        bench.server.ask("SET", "site:env:dev:name", b"x" * HUGE)
        bounded(lied)
    else:
        for announced in (True, False) if isinstance(bench, HttpBench) else (False,):
            with scripted() as server:
                server.plays = [functools.partial(flood, server, announced)]
                lied.settings(server.port)
                bounded(lied)


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


def bounded(lied: Lied) -> None:
    """`once` in a process of its own, which says how large it has been: stale, and small."""
    argv = [sys.executable, "-c", SMALL, "--root", str(lied.image.root), "once"]
    ran = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY, timeout=120, check=False
    )
    assert ran.returncode == 75
    assert "bytes" in lied.image.status()["sources"][0]["error"]
    assert int(ran.stdout.split()[-1]) < 200 << 10  # KiB
