"""The contracts of a platform's module, and the table of platforms."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from agent.discovery import Context, RawFacts

CLOUDS: dict[str, str] = {
    "akamai": "agent.discovery.clouds.akamai:Akamai",
    "alibaba": "agent.discovery.clouds.alibaba:Alibaba",
    "azure": "agent.discovery.clouds.azure:Azure",
    "configdrive": "agent.discovery.clouds.configdrive:ConfigDrive",
    "digitalocean": "agent.discovery.clouds.digitalocean:DigitalOcean",
    "ec2": "agent.discovery.clouds.ec2:Ec2",
    "exoscale": "agent.discovery.clouds.exoscale:Exoscale",
    "gce": "agent.discovery.clouds.gce:Gce",
    "hetzner": "agent.discovery.clouds.hetzner:Hetzner",
    "lxd": "agent.discovery.clouds.lxd:Lxd",
    "openstack": "agent.discovery.clouds.openstack:OpenStack",
    "oracle": "agent.discovery.clouds.oracle:Oracle",
    "scaleway": "agent.discovery.clouds.scaleway:Scaleway",
    "upcloud": "agent.discovery.clouds.upcloud:UpCloud",
    "vultr": "agent.discovery.clouds.vultr:Vultr",
}


class Cloud(Protocol):
    """One platform's metadata service. The class is constructed without arguments."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        """Yield facts in parts, each as soon as it is known, so that a later failure does not lose it.

        Raises DiscoveryError if the service cannot be reached, denies access or answers with an invalid document.
        """
        ...


@runtime_checkable
class ChangingCloud(Protocol):
    """A platform that can be polled for changes with fewer requests than `discover`. The object is kept between polls."""

    @property
    def poll_seconds(self) -> float:
        """The pause between two polls."""
        ...

    @property
    def poll_timeout_seconds(self) -> float:
        """The time-out of the next poll if it needs more time than `[discovery] timeout`, else 0."""
        ...

    @property
    def long_polls(self) -> bool:
        """Whether the next poll is a long poll: it ends only at a change or at the context's deadline."""
        ...

    def changing(self, context: Context) -> Iterator[RawFacts]:
        """Yield the changing facts in parts, with None for a fact that no longer exists. Raises DiscoveryError."""
        ...
