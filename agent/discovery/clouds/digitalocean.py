"""DigitalOcean: https://docs.digitalocean.com/reference/api/metadata/"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, RawFacts, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import pick, tags_of
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
META = "/metadata/v1.json"


class DigitalOcean:
    """One document has everything."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE) as client:
            document = client.json(META)
            if document is None:
                raise DiscoveryError(f"{BASE}{META} does not exist")
            yield parse(document)


def parse(document: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of v1.json. The anchor address only carries a reserved address, so it is not the private one."""
    public = pick(document, "interfaces", "public", 0)
    return {
        "instance_id": document.get("droplet_id"),
        "region": document.get("region"),
        "hostname": document.get("hostname"),
        "private_ipv4": pick(document, "interfaces", "private", 0, "ipv4", "ip_address"),
        "public_ipv4": pick(public, "ipv4", "ip_address"),
        "ipv6": pick(public, "ipv6", "ip_address"),
        "tags": tags_of(document.get("tags")),
        "userdata": userdata.parbake_table_in(document.get("user_data")),
    }
