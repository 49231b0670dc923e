"""Vultr: https://www.vultr.com/metadata/"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, RawFacts, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import first, items, pick, tags_of
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
META = "/v1.json"
HEADERS = {"Metadata-Token": "cloudinit"}


class Vultr:
    """One document has everything."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE, headers=HEADERS) as client:
            document = client.json(META)
            if document is None:
                raise DiscoveryError(f"{BASE}{META} does not exist")
            yield parse(document)


def parse(document: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of v1.json. The v2 id is the one that the API uses."""
    interfaces = items(document, "interfaces")
    public = first(item for item in interfaces if pick(item, "network-type") == "public")
    private = first(item for item in interfaces if pick(item, "network-type") == "private")
    region = document.get("region")
    return {
        "instance_id": document.get("instance-v2-id") or document.get("instanceid"),
        # In cloud-init's copy of the document the region is a string.
        "region": region if isinstance(region, str) else pick(region, "regioncode"),
        "hostname": document.get("hostname"),
        "private_ipv4": pick(private, "ipv4", "address"),
        "public_ipv4": pick(public, "ipv4", "address"),
        "ipv6": pick(public, "ipv6", "address"),
        "tags": tags_of(document.get("tags")),
        "userdata": userdata.parbake_table_in(document.get("user-data")),
    }
