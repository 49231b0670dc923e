"""The source contract, and the table of backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any, ClassVar, Protocol, runtime_checkable

from agent.model import Snapshot
from agent.paths import Paths

__all__ = [
    "BACKENDS",
    "Factory",
    "Source",
    "SourceContext",
    "Watching",
    "pull",
    "registry",
    "throttle",
    "watcher",
]

BACKENDS: dict[str, str] = {
    "file": "agent.sources.backends.file:FileSource",
    "env": "agent.sources.backends.env:EnvSource",
    "exec": "agent.sources.backends.exec:ExecSource",
    "http": "agent.sources.backends.http:HttpSource",
    "consul": "agent.sources.backends.consul:ConsulSource",
    "etcd": "agent.sources.backends.etcd:EtcdSource",
    "vault": "agent.sources.backends.vault:VaultSource",
    "redis": "agent.sources.backends.redis:RedisSource",
    "zookeeper": "agent.sources.backends.zookeeper:ZookeeperSource",
    "dns": "agent.sources.backends.dns:DnsSource",
    "aws-ssm": "agent.sources.backends.aws_ssm:SsmSource",
    "aws-secretsmanager": "agent.sources.backends.aws_secretsmanager:SecretsManagerSource",
    "aws-appconfig": "agent.sources.backends.aws_appconfig:AppConfigSource",
    "s3": "agent.sources.backends.s3:S3Source",
    "dynamodb": "agent.sources.backends.dynamodb:DynamodbSource",
    "gcp-secret-manager": "agent.sources.backends.gcp_secret_manager:GcpSecretManagerSource",
    "azure-keyvault": "agent.sources.backends.azure_keyvault:AzureKeyvaultSource",
}


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source is given besides its options. `timeout_seconds` bounds one fetch with its retries; when `stopping`
    is set, no further wait begins, and `close()` ends the one there is. `poll_seconds` is for a `watch` whose store turns
    out to tell of nothing."""

    name: str
    paths: Paths
    timeout_seconds: float
    poll_seconds: float = 60.0
    stopping: Event = field(default_factory=Event)


class Source(Protocol):
    """One configured place that run config is pulled from. The constructor takes (options, context) and does no I/O."""

    options_class: ClassVar[type[Any]]

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        """All layers, in the given order, read as consistently as the store can: one read a layer, not one a key.

        A layer that the store does not have is `Layer(name, None)`. Raises SourceUnreachable, SourceDenied or
        SourceInvalid; never returns half of what it was asked for.
        """
        ...

    def close(self) -> None:
        """Free what is held, and make a `watch` in another thread return soon."""
        ...


@runtime_checkable
class Watching(Protocol):
    """What a source can do besides, where its store tells of changes. Called in a thread of its own."""

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        """Block until the store may hold something else than `seen`: True. False after the time-out or once closed.

        Raises SourceError; the caller backs off and calls again.
        """
        ...


Factory = Callable[[Any, SourceContext], Source]
