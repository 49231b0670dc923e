"""OpenStack: https://docs.openstack.org/nova/latest/user/metadata.html"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, RawFacts, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import address, first, items, pick
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
META = "/openstack/latest/meta_data.json"
NETWORK = "/openstack/latest/network_data.json"
USERDATA = "/openstack/latest/user_data"

EC2_PATHS = {
    "instance_type": "instance-type",
    "image_id": "ami-id",
    "private_ipv4": "local-ipv4",
    "public_ipv4": "public-ipv4",
}
"""The facts that are only in Nova's imitation of EC2's tree, which may be absent."""


class OpenStack:
    """Native documents, then the imitation of EC2's tree."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE) as client:
            document = client.json(META)
            if document is None:
                raise DiscoveryError(f"{BASE}{META} does not exist, so this is not an OpenStack metadata service")
            yield parse(document)
            # Before the tree, whose addresses are up to date and replace these.
            yield parse_network(client.json(NETWORK))
            yield {"userdata": userdata.parbake_table(client.get(USERDATA) or b"")}
            for name, path in EC2_PATHS.items():
                yield {name: client.text(f"/latest/meta-data/{path}")}


def parse(document: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of meta_data.json. It has no region."""
    return {
        "instance_id": document.get("uuid"),
        "zone": document.get("availability_zone"),
        "hostname": document.get("hostname") or document.get("name"),
        "account_id": document.get("project_id"),
        "tags": document.get("meta") if isinstance(document.get("meta"), Mapping) else None,
    }


def parse_network(document: Mapping[str, Any] | None) -> dict[str, object]:
    """Return the facts of network_data.json: addresses that were assigned statically."""
    networks = items(document, "networks")
    return {
        "private_ipv4": address(first(pick(net, "ip_address") for net in networks if pick(net, "type") == "ipv4")),
        "ipv6": address(first(pick(net, "ip_address") for net in networks if pick(net, "type") in _IPV6)),
    }


_IPV6 = ("ipv6", "ipv6_slaac", "ipv6_dhcpv6-stateful", "ipv6_dhcpv6-stateless")
