"""The contract of a platform's file, and the table of platforms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol

from agent.discovery import Context

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
    """One platform's metadata service. It is constructed without arguments."""

    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        """The facts in parts, each as soon as it is known, so that a later failure does not lose it.

        Raises DiscoveryError where the service cannot be reached, refuses, or answers with rubbish.
        """
        ...


class Changing(Protocol):
    """What a platform can do besides, where looking for changes takes less than asking everything again.

    The object is kept between looks. `poll_seconds` is the pause between two; `changing` may itself wait for a change
    until the context's deadline.
    """

    poll_seconds: ClassVar[float]

    def changing(self, context: Context) -> Iterator[Mapping[str, Any]]:
        """The changing facts in parts, None where one is no more. Raises DiscoveryError."""
        ...
