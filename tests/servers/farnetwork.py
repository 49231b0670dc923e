"""Three network namespaces: clients, a router, and the side where servers listen. Needs root.

To cut the network, the router stops forwarding: it drops every packet without an error, as a broken network does. No link goes
down, no connection is reset, and both ends keep their connections open.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tests.image.lab.commands import call
from tests.image.lab.names import unique_name
from tests.servers.processes import Child

T = TypeVar("T")
SERVERS = "10.213.2.2"
_ALWAYS = "the-resolver"
_CLONE_NEWNET = 0x40000000


class FarNetwork:
    """`with FarNetwork() as network:`; clients start with `network.prefix`, servers listen on `address` through `bind`."""

    address = SERVERS

    def __init__(self) -> None:
        self._clients, self._router, self._servers = unique_name(), unique_name(), unique_name()

    @property
    def prefix(self) -> tuple[str, ...]:
        """The words before an argument list that run the program among the clients, under the same pid."""
        return ("ip", "netns", "exec", self._clients)

    def __enter__(self) -> FarNetwork:
        try:
            for name in (self._clients, self._router, self._servers):
                call(["ip", "netns", "add", name])
                call(["ip", "-n", name, "link", "set", "lo", "up"])
            self._wire(self._clients, "10.213.1")
            self._wire(self._servers, "10.213.2")
            self.pass_on(True)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for name in (self._clients, self._router, self._servers):
            call(["ip", "netns", "delete", name], check=False)

    def _wire(self, end: str, net: str) -> None:
        """A pair of interfaces between the router, NET.1, and an end, NET.2, whose way out it is."""
        side = f"to-{net[-1]}"
        call(["ip", "-n", self._router, "link", "add", side, "type", "veth", "peer", "name", "eth0", "netns", end])
        call(["ip", "-n", self._router, "address", "add", f"{net}.1/24", "dev", side])
        call(["ip", "-n", self._router, "link", "set", side, "up"])
        call(["ip", "-n", end, "address", "add", f"{net}.2/24", "dev", "eth0"])
        call(["ip", "-n", end, "link", "set", "eth0", "up"])
        call(["ip", "-n", end, "route", "add", "default", "via", f"{net}.1"])

    def pass_on(self, passing: bool) -> None:
        """Whether the router passes packets on. When it does not, each is lost without a word."""
        call(["ip", "netns", "exec", self._router, "sh", "-c", f"echo {int(passing)} > /proc/sys/net/ipv4/ip_forward"])

    def bind(self, port: int) -> socket.socket:
        """A TCP socket that listens among the servers."""
        return self._among_servers(lambda: socket.create_server((SERVERS, port)))

    def bind_udp(self, port: int) -> socket.socket:
        def made() -> socket.socket:
            wire = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            wire.bind((SERVERS, port))
            return wire

        return self._among_servers(made)

    def _among_servers(self, make: Callable[[], T]) -> T:
        """Return `make()`, run in a thread in the servers' namespace: a socket stays in the namespace that it was made in."""
        made: list[T | BaseException] = []

        def run() -> None:
            try:
                descriptor = os.open(Path("/run/netns") / self._servers, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                finally:
                    os.close(descriptor)
                made.append(make())
            except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
                made.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if isinstance(made[0], BaseException):
            raise made[0]
        return made[0]


class Resolver:
    """A DNS server among the clients: dnsmasq on port 53 of their loopback, with or without a record for `name`."""

    name = "the-store"
    """It has no dot, because moto takes the part before a dot for a bucket."""

    def __init__(self, network: FarNetwork, directory: Path) -> None:
        self._network = network
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._config = directory / "resolv.conf"
        self._config.write_text("nameserver 127.0.0.1\nsearch .\noptions timeout:1 attempts:1\n")
        self._child: Child | None = None

    @property
    def prefix(self) -> tuple[str, ...]:
        """The network's prefix, with this server in the program's /etc/resolv.conf."""
        mount = f'mount --bind {self._config} /etc/resolv.conf && exec "$0" "$@"'
        return (*self._network.prefix, "sh", "-c", mount)

    def start(self, *, knowing: bool = True) -> None:
        """Start answering: with the servers' address, or that the name does not exist."""
        self.stop()
        known = [f"--host-record={self.name},{self._network.address}"] if knowing else []
        argv = [
            "dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root", "--pid-file=",
            "--bind-interfaces", "--listen-address=127.0.0.1", "--local=//", "--local-ttl=0",
            f"--host-record={_ALWAYS},127.0.0.1", *known,
        ]  # fmt: skip
        self._child = Child(argv, self._directory / "dnsmasq.log", prefix=self._network.prefix)
        self._child.wait_ready(lambda: self._knows(_ALWAYS), 20, "dnsmasq")
        assert self._knows(self.name) == knowing

    def _knows(self, name: str) -> bool:
        return call([*self.prefix, "getent", "ahostsv4", name], check=False).returncode == 0

    def stop(self) -> None:
        """Stop the DNS server."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> Resolver:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
