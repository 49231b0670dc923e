"""A network namespace with loopback and the addresses of a cloud, and without a route to the outside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from types import TracebackType

from tests.image.lab.commands import call
from tests.image.lab.names import unique_name
from tests.servers.processes import Child

METADATA_ADDRESS = "169.254.169.254"


class Network:
    """`with Network() as network:` makes the namespace; leaving ends what `spawn` started and removes it.

    `addresses` are added to its loopback interface.
    """

    def __init__(self, addresses: Sequence[str] = (METADATA_ADDRESS,)) -> None:
        self.name = unique_name()
        self._addresses = tuple(addresses)
        self._children: list[Child] = []

    @property
    def path(self) -> Path:
        """The namespace as a file, as `systemd-nspawn --network-namespace-path=` takes it."""
        return Path("/run/netns") / self.name

    @property
    def prefix(self) -> tuple[str, ...]:
        """Put before an argument list, it runs that program in the namespace, under the same pid."""
        return ("ip", "netns", "exec", self.name)

    def __enter__(self) -> Network:
        call(["ip", "netns", "add", self.name])
        try:
            call(["ip", "-n", self.name, "link", "set", "lo", "up"])
            for address in self._addresses:
                call(["ip", "-n", self.name, "address", "add", f"{address}/32", "dev", "lo"])
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for child in self._children:
            child.kill()
        call(["ip", "netns", "delete", self.name])

    def spawn(self, argv: Sequence[str], log: Path) -> Child:
        """Start a server in the namespace; it is killed when the namespace goes."""
        child = Child(argv, log, prefix=self.prefix)
        self._children.append(child)
        return child

    def run(self, argv: Sequence[str], *, check: bool = True, timeout_seconds: float = 30.0) -> CompletedProcess[str]:
        """Run a program in the namespace to its end; raises LabError when it fails and `check` is set."""
        return call([*self.prefix, *argv], check=check, timeout_seconds=timeout_seconds)
