"""The provider contract, and the table of providers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.model import Attempt, FactValue
from agent.paths import Paths
from agent.settings.models import Discovery

__all__ = [
    "CHANGING",
    "NAMES",
    "PROVIDERS",
    "TABLES",
    "Context",
    "Provider",
    "clouds",
    "engine",
    "fact_validation",
    "identity",
    "watcher",
]

PROVIDERS: dict[str, str] = {
    "kernel": "agent.discovery.providers.kernel:Kernel",
    "credentials": "agent.discovery.providers.credentials:Credentials",
    "cloud-init": "agent.discovery.providers.cloud_init:CloudInit",
    "imds": "agent.discovery.providers.imds:Imds",
    "file": "agent.discovery.providers.fact_files:File",
    "host": "agent.discovery.providers.host:Host",
}

NAMES = (
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
"""The facts that have these names on every platform; absent, not empty, where the platform does not say."""

TABLES = ("tags", "userdata")
"""The facts that are tables; every other of `NAMES` is a string."""

CHANGING = ("tags", "terminating", "terminating_at", "lifecycle_state", "rebalance")
"""The facts that change while an instance runs."""


@dataclass(slots=True)
class Context:
    """What a provider may look at, and where it says what it did.

    `deadline` is in seconds of `time.monotonic()`. `known` is what the providers before it said. A provider may write
    what it tried to `attempts`, for `parbake facts -v`; to `label` by which name its facts are to be shown ("imds:ec2")
    where that is not the provider's own; and to `partial` what it knows already, which is taken where it comes back
    too late.
    """

    paths: Paths
    settings: Discovery
    deadline: float
    known: Mapping[str, FactValue] = field(default_factory=dict)
    attempts: list[Attempt] = field(default_factory=list)
    label: str = ""
    partial: dict[str, Any] = field(default_factory=dict)


class Provider(Protocol):
    """One way to discover facts. It is constructed without arguments and does no work before `discover`.

    A class may say in `gives: ClassVar[tuple[str, ...]]` which facts it can know; without it, any. Where it fails, those
    stay what they were in this run, over [facts]: it might have said something else.
    """

    def discover(self, context: Context) -> Mapping[str, Any]:
        """Facts by name, raw: they are validated by who asked. {} where this provider has nothing to say.

        Raises DiscoveryError where it should have had something to say and could not: discovery goes on without it.
        Called in a thread that is abandoned some time after the deadline.
        """
        ...
