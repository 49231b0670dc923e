"""The contracts of a platform's file, and the table of platforms."""

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
    """A platform that can look for changes with fewer requests than `discover`. The object is kept between looks."""

    @property
    def poll_seconds(self) -> float:
        """The pause between two looks."""
        ...

    @property
    def look_seconds(self) -> float:
        """The least time for the next look if that is longer than `[discovery] timeout`, else 0."""
        ...

    @property
    def waits(self) -> bool:
        """Whether the next look ends only when something changes, or at the context's deadline."""
        ...

    def changing(self, context: Context) -> Iterator[RawFacts]:
        """Yield the changing facts in parts, with None for a fact that no longer exists. Raises DiscoveryError."""
        ...
