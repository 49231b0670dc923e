"""One instance of each backend, all at once: its store, a proxy before it, and `parbake run` below a separate root.

The tests of whole instances share their waits: fourteen daemons that wait for a back-off cost the machine nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.conftest import REPOSITORY, Image
from tests.integration.sources.benches import OVER_NETWORK, AwsBench, Bench
from tests.servers.faulty import Bind, Certificates, Faulty
from tests.servers.faultyudp import FaultyUdp
from tests.servers.stores import Moto

TARGET = "/etc/app/app.conf"
_ENVIRONMENT = {
    "PATH": os.environ.get("PATH", ""),
    "LANG": "C.UTF-8",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
}


class Instance:
    """One backend's store, the proxy before it, and the daemon that asks through the proxy."""

    def __init__(self, bench: Bench, proxy: Faulty | FaultyUdp, image: Image, prefix: Sequence[str]) -> None:
        self.bench, self.proxy, self.image = bench, proxy, image
        self._prefix = tuple(prefix)
        self._process: subprocess.Popen[bytes] | None = None
        self.log = image.root.parent / "daemon.log"

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *self._prefix, *self.image.command("run")],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=REPOSITORY, env=_ENVIRONMENT,
            )  # fmt: skip

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(30)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def status(self) -> dict[str, Any]:
        with suppress(OSError, ValueError):
            return self.image.status()
        return {}

    @property
    def error(self) -> str:
        """The source's error in status.json."""
        sources = self.status().get("sources") or [{}]
        return str(sources[0].get("error") or "")

    @property
    def ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    def is_(self, state: str) -> bool:
        return self.status().get("state") == state and not self.ended

    def shows(self, value: str) -> bool:
        return self.is_("converged") and self.image.read(TARGET) == value + "\n"

    def target(self) -> tuple[int, str]:
        """The target's inode and content."""
        return os.stat(self.image.path(TARGET)).st_ino, self.image.read(TARGET)

    def put(self, value: str) -> None:
        self.bench.put(self.bench.layers[-1], "name", value)

    def story(self) -> str:
        return f"{self.bench.backend}: {json.dumps(self.status().get('sources'))}\n{self.log.read_text()[-1500:]}"


class Fleet:
    """`with Fleet(directory, certificates) as fleet:` starts stores, proxies and daemons, each holding 10.0.0.1.

    `host` returns the store's address in the settings. `bind` and `bind_udp` make the proxies' sockets, and `prefix` starts the
    daemons in another network. `timeout` is that of each source.
    """

    def __init__(
        self,
        directory: Path,
        certificates: Certificates,
        *,
        host: Callable[[type[Bench]], str] = lambda kind: "127.0.0.1",
        bind: Bind | None = None,
        bind_udp: Bind | None = None,
        prefix: Sequence[str] = (),
        timeout: str = "5s",
    ) -> None:
        self._directory, self.certificates = directory, certificates
        self._host, self._bind, self._bind_udp, self._prefix, self._timeout = host, bind, bind_udp, prefix, timeout
        self._held = ExitStack()
        self.instances: list[Instance] = []

    def __enter__(self) -> Fleet:
        try:
            # Kept until the end: a server dies with the thread that started it, by Child's own guard.
            pool = self._held.enter_context(ThreadPoolExecutor(8))
            moto = self._held.enter_context(Moto(self._directory / "moto"))
            self.instances = list(pool.map(lambda kind: self._instance(kind, moto), OVER_NETWORK))
            for instance in self.instances:
                instance.start()
            self.wait(lambda one: one.shows("10.0.0.1"), "converge")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for instance in self.instances:
            instance.kill()
        self._held.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _instance(self, kind: type[Bench], moto: Moto) -> Instance:
        image = Image(self._directory / kind.__name__ / "root")
        image.root.mkdir(parents=True)
        bench = kind(image.root / "bench")
        bench.host = self._host(kind)
        if isinstance(bench, AwsBench):
            bench.moto = moto
        self._held.enter_context(bench.held)
        bench.begin()
        assert bench.port is not None
        proxy: Faulty | FaultyUdp
        if bench.udp:
            proxy = FaultyUdp(bench.port, **({"bind": self._bind_udp} if self._bind_udp else {}))
        else:
            certificate = self.certificates.good if bench.tls else None
            proxy = Faulty(bench.port, certificate, **({"bind": self._bind} if self._bind else {}))
        self._held.enter_context(proxy)
        instance = Instance(bench, proxy, image, self._prefix)
        instance.put("10.0.0.1")
        self._bake(instance)
        return instance

    def _bake(self, instance: Instance) -> None:
        bench, image = instance.bench, instance.image
        more = f'poll = "1s"\ntimeout = "{self._timeout}"\n'
        ca = self.certificates.ca if bench.tls else None
        source = source_table(bench, image, instance.proxy.port, "https" if bench.tls else "http", more, ca)
        image.settings(f'{source}[[template]]\nsource = "app.j2"\ntarget = "{TARGET}"\n', site=False)
        image.template("app.j2", bench.shows + "\n")

    def set(self, mode: str, among: Sequence[Instance]) -> None:
        """Set the mode of the instances' proxies, and reset their connections."""
        for instance in among:
            instance.proxy.mode = mode
            instance.proxy.cut()

    def wait(self, check: Callable[[Instance], bool], what: str, among: Sequence[Instance] = (), seconds: float = 240) -> None:
        """Wait until `check` holds for each of `among`, or of all instances."""
        end = time.monotonic() + seconds
        left = list(among or self.instances)
        while left := [one for one in left if not check(one)]:
            if time.monotonic() > end or any(one.ended for one in left):
                stories = "\n\n".join(one.story() for one in left)
                raise AssertionError(f"{len(left)} instance(s) did not {what} in {seconds:g} s:\n{stories}")
            time.sleep(0.1)


def source_table(bench: Bench, image: Image, port: int, scheme: str, more: str = "", ca: Path | None = None) -> str:
    """Return a [[source]] named store for the bench's store, or for a proxy before it, at a port.

    The bench's directory is below the image's root, because the daemon resolves paths there.
    """
    options = dict(bench.options(port, scheme))
    if ca is not None:
        image.write("/ca.pem", ca.read_bytes())
        options["ca_file"] = "/ca.pem"
    lines = "\n".join(f"{name} = {_toml(value)}" for name, value in options.items()).replace(str(image.root), "")
    head = f'[[source]]\nname = "store"\nbackend = "{bench.backend}"\nlayers = {_toml(bench.layers)}\n'
    return f"{head}{more}{lines}\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }"
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def needs_all() -> None:
    if reasons := [reason for kind in OVER_NETWORK if (reason := kind.missing())]:
        pytest.skip("; ".join(reasons))


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
    """Hold that each of `hit` is stale with the right reason, and that its target is the same file as before."""
    why = re.compile(REASONS.get(fault, "."))
    fleet.wait(lambda one: one.is_("stale") and bool(why.search(one.error)), f"be stale because of {fault}", hit)
    changed = [one.bench.backend for one in hit if one.target() != before[one.bench.backend]]
    assert not changed, f"{fault}: these wrote a target: {changed}"


def targets(fleet: Fleet) -> dict[str, tuple[int, str]]:
    return {one.bench.backend: one.target() for one in fleet.instances}


def put(fleet: Fleet, value: str) -> None:
    for one in fleet.instances:
        one.put(value)


def showing(value: str) -> Callable[[Instance], bool]:
    return lambda one: one.shows(value)
