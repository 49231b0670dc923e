"""Hetzner Cloud: https://docs.hetzner.cloud/reference/cloud#server-metadata"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, RawFacts, parsers, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import address, first, items, pick
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
META = "/hetzner/v1/metadata"
USERDATA = "/hetzner/v1/userdata"


class Hetzner:
    """Documents are YAML."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE) as client:
            document = client.yaml(META)
            if document is None:
                raise DiscoveryError(f"{BASE}{META} does not exist")
            yield parse(document)
            networks = client.get(f"{META}/private-networks")
            if networks:
                yield parse_networks({"networks": parsers.yaml_value(networks, f"{BASE}{META}/private-networks")})
            yield {"userdata": userdata.parbake_table(client.get(USERDATA) or b"")}


def parse(document: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of the metadata. Its local-ipv4 is always empty."""
    subnets = [subnet for device in items(document, "network-config", "config") for subnet in items(device, "subnets")]
    return {
        "instance_id": document.get("instance-id"),
        "region": document.get("region"),
        "zone": document.get("availability-zone"),
        "hostname": document.get("hostname"),
        "public_ipv4": document.get("public-ipv4"),
        "ipv6": first(ipv6 for subnet in subnets if ":" in (ipv6 := address(pick(subnet, "address")) or "")),
    }


def parse_networks(document: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of the private networks, a list under `networks`."""
    return {"private_ipv4": first(pick(network, "ip") for network in items(document, "networks"))}
