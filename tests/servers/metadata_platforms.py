"""The emulated platforms, written from their documentation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.servers.metadata_answers import State
from tests.servers.metadata_headers import Azure, Gce, Oracle
from tests.servers.metadata_plain import DigitalOcean, Exoscale, Hetzner, Lxd, OpenStack, Scaleway, UpCloud, Vultr
from tests.servers.metadata_tokens import Akamai, Alibaba, Ec2

PLATFORMS: dict[str, Callable[[dict[str, Any]], State]] = {
    "akamai": Akamai,
    "alibaba": Alibaba,
    "azure": Azure,
    "digitalocean": DigitalOcean,
    "ec2": Ec2,
    "exoscale": Exoscale,
    "gce": Gce,
    "hetzner": Hetzner,
    "lxd": Lxd,
    "openstack": OpenStack,
    "oracle": Oracle,
    "scaleway": Scaleway,
    "upcloud": UpCloud,
    "vultr": Vultr,
}
