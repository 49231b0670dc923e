"""DigitalOcean: https://docs.digitalocean.com/reference/api/metadata/"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context
from agent.discovery.metadata_client import Service
from agent.discovery.shapes import pick, tags_of, userdata_of
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
META = "/metadata/v1.json"


class DigitalOcean:
    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE) as service:
            document = service.json(META)
            if document is None:
                raise DiscoveryError(f"{BASE}{META} is not there")
            yield parse(document)


def parse(document: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of v1.json. The anchor address is not the private one: it only carries a reserved address."""
    public = pick(document, "interfaces", "public", 0)
    return {
        "instance_id": document.get("droplet_id"),
        "region": document.get("region"),
        "hostname": document.get("hostname"),
        "private_ipv4": pick(document, "interfaces", "private", 0, "ipv4", "ip_address"),
        "public_ipv4": pick(public, "ipv4", "ip_address"),
        "ipv6": pick(public, "ipv6", "ip_address"),
        "tags": tags_of(document.get("tags")),
        "userdata": userdata_of(document.get("user_data")),
    }
