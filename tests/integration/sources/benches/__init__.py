"""One bench for each backend: its store on loopback, and the means to write to it. The suites run over all benches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.integration.sources.benches.base import Bench
from tests.integration.sources.benches.clouds import (
    AppConfigBench,
    AwsBench,
    AzureBench,
    DynamodbBench,
    GcpBench,
    S3Bench,
    SecretsManagerBench,
    SsmBench,
)
from tests.integration.sources.benches.local import EnvBench, ExecBench, FileBench, FileKeysBench
from tests.integration.sources.benches.stores import (
    ConsulBench,
    DnsBench,
    EtcdBench,
    HttpBench,
    RedisBench,
    VaultBench,
    VaultOneBench,
    ZookeeperBench,
)

__all__ = [
    "BENCHES", "OVER_NETWORK", "AppConfigBench", "AwsBench", "AzureBench", "Bench", "ConsulBench", "DynamodbBench",
    "EtcdBench", "FileBench", "GcpBench", "HttpBench", "RedisBench", "S3Bench", "SsmBench", "VaultBench", "ZookeeperBench",
    "running",
]  # fmt: skip

BENCHES: tuple[type[Bench], ...] = (
    FileBench, FileKeysBench, EnvBench, ExecBench, HttpBench, ConsulBench, EtcdBench, RedisBench, ZookeeperBench, VaultBench,
    VaultOneBench, GcpBench, AzureBench, SsmBench, SecretsManagerBench, S3Bench, DynamodbBench, AppConfigBench,
)  # fmt: skip

OVER_NETWORK: tuple[type[Bench], ...] = (
    HttpBench, ConsulBench, EtcdBench, RedisBench, ZookeeperBench, DnsBench, VaultBench, GcpBench, AzureBench, SsmBench,
    SecretsManagerBench, S3Bench, DynamodbBench, AppConfigBench,
)  # fmt: skip
"""One bench for each backend with a server."""


def running(kind: type[Bench], directory: Path) -> Iterator[Bench]:
    """Yield the bench with its store running, and remove it at the end."""
    bench = kind(directory)
    with bench.held:
        bench.begin()
        yield bench
    shutil.rmtree(directory, ignore_errors=True)
