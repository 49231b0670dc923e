"""The benches as fixtures, a new one for each test: a store that another test has filled proves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.sources.benches import BENCHES, Bench, running
from tests.servers.faulty import Certificates


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(predicate): only the benches that the predicate holds for")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise `bench` over every bench that the test's `needs` marker does not exclude."""
    if "bench" in metafunc.fixturenames:
        wanted = [mark.args for mark in metafunc.definition.iter_markers("needs")]
        kinds = [kind for kind in BENCHES if all(want[0](kind) for want in wanted)]
        metafunc.parametrize("bench", kinds, indirect=True, ids=[kind.__name__.removesuffix("Bench") for kind in kinds])


@pytest.fixture
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    kind: type[Bench] = request.param
    if reason := kind.missing():
        pytest.skip(reason)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    yield from running(kind, tmp_path / "bench")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the benches' own boto3."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
