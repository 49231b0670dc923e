"""UpCloud: https://upcloud.com/docs/products/cloud-servers/metadata/"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context
from agent.discovery.metadata_client import Service
from agent.discovery.shapes import first, items, pick, tags_of, userdata_of
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
META = "/metadata/v1.json"


class UpCloud:
    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE) as service:
            document = service.json(META)
            if document is None:
                raise DiscoveryError(f"{BASE}{META} is not there")
            yield parse(document)


def parse(document: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of v1.json. What it calls region ("fi-hel1") is one; the utility network is internal to UpCloud."""
    addresses = [
        (pick(face, "type"), pick(found, "family"), pick(found, "address"))
        for face in items(document, "network", "interfaces")
        for found in items(face, "ip_addresses")
    ]

    def find(family: str, *kinds: str) -> Any:
        return first(where for kind in kinds for k, f, where in addresses if k == kind and f == family)

    return {
        "instance_id": document.get("instance_id"),
        "region": document.get("region"),
        "hostname": document.get("hostname"),
        "private_ipv4": find("IPv4", "private", "utility"),
        "public_ipv4": find("IPv4", "public"),
        "ipv6": find("IPv6", "public"),
        "tags": tags_of(document.get("tags")),
        "userdata": userdata_of(document.get("user_data")),
    }
