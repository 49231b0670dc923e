"""Hetzner Cloud: https://docs.hetzner.cloud/reference/cloud#server-metadata"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, userdata
from agent.discovery.metadata_client import Service
from agent.discovery.shapes import address, first, items, pick
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
META = "/hetzner/v1/metadata"
USERDATA = "/hetzner/v1/userdata"


class Hetzner:
    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE) as service:
            document = service.yaml(META)
            if document is None:
                raise DiscoveryError(f"{BASE}{META} is not there")
            yield parse(document)
            networks = service.get(f"{META}/private-networks")
            if networks:
                # A list, which alone is no table.
                yield parse_networks(userdata.yaml_table(b"networks:\n" + networks, f"{META}/private-networks"))
            # An instance without user-data gets 204.
            yield {"userdata": userdata.userdata(service.get(USERDATA) or b"")}


def parse(document: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the metadata. Its local-ipv4 is always empty."""
    subnets = [subnet for device in items(document, "network-config", "config") for subnet in items(device, "subnets")]
    return {
        "instance_id": document.get("instance-id"),
        "region": document.get("region"),
        "zone": document.get("availability-zone"),
        "hostname": document.get("hostname"),
        "public_ipv4": document.get("public-ipv4"),
        "ipv6": first(found for net in subnets if ":" in (found := address(pick(net, "address")) or "")),
    }


def parse_networks(document: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the private networks."""
    return {"private_ipv4": first(pick(network, "ip") for network in items(document, "networks"))}
