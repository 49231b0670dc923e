"""UpCloud: https://upcloud.com/docs/products/cloud-servers/metadata/"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, RawFacts, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import first, items, pick, tags_of
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
META = "/metadata/v1.json"


class UpCloud:
    """One document has everything."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE) as client:
            document = client.json(META)
            if document is None:
                raise DiscoveryError(f"{BASE}{META} does not exist")
            yield parse(document)


def parse(document: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of v1.json. Its region ("fi-hel1") is the fact region. The utility network is internal to UpCloud."""
    addresses = [
        (pick(interface, "type"), pick(entry, "family"), pick(entry, "address"))
        for interface in items(document, "network", "interfaces")
        for entry in items(interface, "ip_addresses")
    ]

    def find(wanted_family: str, *wanted_kinds: str) -> object:
        return first(
            address
            for wanted_kind in wanted_kinds
            for kind, family, address in addresses
            if kind == wanted_kind and family == wanted_family
        )

    return {
        "instance_id": document.get("instance_id"),
        "region": document.get("region"),
        "hostname": document.get("hostname"),
        "private_ipv4": find("IPv4", "private", "utility"),
        "public_ipv4": find("IPv4", "public"),
        "ipv6": find("IPv6", "public"),
        "tags": tags_of(document.get("tags")),
        "userdata": userdata.parbake_table_in(document.get("user_data")),
    }
