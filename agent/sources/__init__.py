"""The contract of a source, and the table of backends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol, TypeVar, cast, runtime_checkable

from agent.model import Snapshot
from agent.paths import Paths
from agent.settings import plugins

__all__ = [
    "BACKENDS",
    "AddsLayers",
    "Source",
    "SourceContext",
    "Watchable",
    "new_source",
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

Options = TypeVar("Options")
Options_co = TypeVar("Options_co", covariant=True)


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source gets in addition to its options.

    `timeout_seconds` bounds one fetch, retries included. `poll_seconds` is the interval for a `watch` whose store sends no
    notifications. `stopping` is set when parbake stops: a fetch then raises SourceUnreachable within 2 seconds, and a watch
    returns.
    """

    name: str
    paths: Paths
    timeout_seconds: float
    poll_seconds: float = 60.0
    stopping: Event = field(default_factory=Event)


class Source(Protocol[Options_co]):
    """One configured place that run config is pulled from. `Source[object]` is a source with any options."""

    def __init__(self, options: Options_co, context: SourceContext) -> None:
        """Keep the arguments. The constructor does no I/O."""

    @property
    def options_class(self) -> type[Options_co]:
        """The frozen dataclass of the backend's options; a class variable."""
        ...

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        """Read all layers in the given order, as consistently as the store can: one read a layer, not one a key.

        A layer that the store does not have is `Layer(name, None)`. The snapshot is complete. Raises SourceUnreachable,
        SourceDenied or SourceInvalid; the message names the place and holds no value.
        """
        ...

    def close(self) -> None:
        """Free connections and files, and end a `watch` in another thread soon."""
        ...


@runtime_checkable
class Watchable(Protocol):
    """A source whose store reports changes. `watch` is called in a thread, beside `fetch`."""

    def watch(self, seen: Snapshot, timeout_seconds: float) -> bool:
        """Block until the store may hold something other than `seen`, and return True.

        Return False after the time-out, and once the source is closed or parbake stops. Raises SourceError; the caller
        backs off and calls again.
        """
        ...


@runtime_checkable
class AddsLayers(Protocol):
    """A source that appends layers to those it was asked for, such as `services` or `dynamic`."""

    @property
    def added_layers(self) -> tuple[str, ...]:
        """The names of the layers that a fetch may append."""
        ...


def new_source(backend: str, options: Options, context: SourceContext) -> Source[Options]:
    """Construct the source of a backend, which is a name of BACKENDS or a third party's "module:Class".

    Raises SettingsError if the backend cannot be imported or needs a library that is not installed.
    """
    source_class = cast("type[Source[Options]]", plugins.load(BACKENDS, backend, "backend"))
    return source_class(options, context)
