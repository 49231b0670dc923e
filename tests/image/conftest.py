"""Fixtures of the booted-image tests: machines, a private network, and the servers in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.image.lab import Image, Machine, Network, base_image, consul_binary, missing_requirements
from tests.image.lab.cache import cache_directory
from tests.image.lab.leftovers import sweep
from tests.image.lab.names import unique_name
from tests.image.lab.network import METADATA_ADDRESS
from tests.image.package import built_package
from tests.servers.consul import Consul
from tests.servers.receiver import Receiver

if TYPE_CHECKING:
    from pluggy import Result

SUITES = ("bookworm", "trixie")


class Machines:
    """Makes machines that are removed after the test: `machines(image, network=...)`, with the options of `Machine`."""

    def __init__(self, stack: ExitStack, scratch: Path) -> None:
        self.made: list[Machine] = []
        self._stack = stack
        self._scratch = scratch

    def __call__(self, image: Image, **options: Any) -> Machine:
        self.made.append(self._stack.enter_context(Machine(image, self._scratch, **options)))
        return self.made[-1]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Result[pytest.TestReport], None]:
    """Add the end of the console and of the journal of each machine to the report of a failed test."""
    report = (yield).get_result()
    if report.failed:
        values = getattr(item, "funcargs", {}).values()
        machines = [value for value in values if isinstance(value, Machine)]
        machines += [machine for value in values if isinstance(value, Machines) for machine in value.made]
        for machine in machines:
            report.sections.append((f"machine {machine.name}", machine.last_words(lines=80)))


@pytest.fixture(scope="session")
def lab() -> None:
    """Skip with the reasons if images cannot be booted here. Remove the leftovers of killed runs."""
    if missing := missing_requirements():
        pytest.skip("; ".join(missing))
    sweep()


@pytest.fixture(scope="session")
def session_scratch(lab: None) -> Iterator[Path]:
    """A directory on the file system of the cache, for layers and machines; removed with the run."""
    directory = cache_directory() / unique_name()
    directory.mkdir()
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def scratch(session_scratch: Path) -> Path:
    """A directory for one test below `session_scratch`."""
    return Path(tempfile.mkdtemp(dir=session_scratch))


@pytest.fixture(scope="session", params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """Each tested Debian release in turn."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def bare_image(lab: None, suite: str) -> Image:
    """Debian with the dependencies of the package, without the package itself."""
    return base_image(suite)


@pytest.fixture(scope="session")
def deb(session_scratch: Path) -> Path:
    """The package built from this tree."""
    return built_package(session_scratch / "deb")


@pytest.fixture
def network(lab: None) -> Iterator[Network]:
    """A network with only loopback and the metadata address."""
    with Network() as made:
        yield made


@pytest.fixture
def consul(network: Network, scratch: Path) -> Iterator[Consul]:
    """A real Consul at the link-local address of `network`, on its usual port."""
    directory = scratch / "consul"
    with Consul(consul_binary(), directory, address=METADATA_ADDRESS, port=8500, prefix=network.prefix) as server:
        yield server


@pytest.fixture
def receiver(network: Network, scratch: Path) -> Iterator[Receiver]:
    """A strict receiver of NDJSON at the link-local address of `network`."""
    directory = scratch / "receiver"
    with Receiver(directory, address=METADATA_ADDRESS, port=8080, prefix=network.prefix) as server:
        yield server


@pytest.fixture
def machines(scratch: Path) -> Iterator[Machines]:
    """Makes machines, `machines(image, network=...)`, that are removed after the test."""
    with ExitStack() as stack:
        yield Machines(stack, scratch)
