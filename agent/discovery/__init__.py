"""The provider contract, and the table of providers."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from agent.model import Attempt, FactValue
from agent.paths import Paths
from agent.settings.models import Discovery

__all__ = [
    "CHANGING_FACTS",
    "FACT_NAMES",
    "PROVIDERS",
    "TABLE_FACTS",
    "Context",
    "Provider",
    "ProviderName",
    "RawFacts",
    "clouds",
    "engine",
    "fact_validation",
    "identity",
    "watcher",
]

RawFacts = Mapping[str, object]
"""Facts by name as a provider returns them. `fact_validation` decides which values are accepted."""


class ProviderName(StrEnum):
    """The names under which parbake shows the origin of a fact."""

    KERNEL = "kernel"
    CREDENTIALS = "credentials"
    CLOUD_INIT = "cloud-init"
    IMDS = "imds"
    FILE = "file"
    HOST = "host"
    FACTS_FROM = "facts_from"
    """The table [facts_from] of the settings. It is not a provider and cannot be configured as one."""
    SETTINGS = "settings"
    """The table [facts] of the settings, likewise."""


PROVIDERS: dict[str, str] = {
    ProviderName.KERNEL: "agent.discovery.providers.kernel:Kernel",
    ProviderName.CREDENTIALS: "agent.discovery.providers.credentials:Credentials",
    ProviderName.CLOUD_INIT: "agent.discovery.providers.cloud_init:CloudInit",
    ProviderName.IMDS: "agent.discovery.providers.imds:Imds",
    ProviderName.FILE: "agent.discovery.providers.fact_files:File",
    ProviderName.HOST: "agent.discovery.providers.host:Host",
}

FACT_NAMES = (
    "platform",
    "instance_id",
    "region",
    "zone",
    "instance_type",
    "hostname",
    "private_ipv4",
    "public_ipv4",
    "ipv6",
    "image_id",
    "account_id",
    "tags",
    "userdata",
)
"""The facts that have these names on every platform. A fact that the platform does not provide is absent, not empty."""

TABLE_FACTS = ("tags", "userdata")
"""The facts that are tables. All others of `FACT_NAMES` are strings."""

CHANGING_FACTS = ("tags", "terminating", "terminating_at", "lifecycle_state", "rebalance")
"""The facts that change while an instance runs."""


@dataclass(slots=True)
class Context:
    """The input of a provider, and the record of its work.

    `deadline` is in seconds of `time.monotonic()`. `known` holds the facts of the providers that were asked before.
    `stopping` is set when discovery must end early. A provider that sleeps should wait on this event instead.

    A provider may write to three fields. `attempts` receives each step, for `parbake facts -v`. `label` replaces the
    provider's name in output, as in "imds:ec2". `partial` receives facts as soon as they are known; they
    are used if the provider fails or misses the deadline.
    """

    paths: Paths
    settings: Discovery
    deadline: float
    known: Mapping[str, FactValue] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    label: str = ""
    partial: dict[str, object] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)


class Provider(Protocol):
    """One way to discover facts. The class is constructed without arguments and does no work before `discover`.

    A class may list the facts that it can provide in `gives: ClassVar[tuple[str, ...]]`; without it, any fact counts. If
    the provider fails, these facts keep the values that they had earlier in this run, in preference to [facts].
    """

    def discover(self, context: Context) -> RawFacts:
        """Return facts by name, not validated. {} if the provider has no facts.

        Called in a thread, which is abandoned some time after the deadline.

        Raises DiscoveryError if facts should exist and cannot be read. Discovery goes on with the next provider.
        """
        ...
