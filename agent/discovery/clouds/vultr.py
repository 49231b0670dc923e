"""Vultr: https://www.vultr.com/metadata/"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context
from agent.discovery.metadata_client import Service
from agent.discovery.shapes import first, items, pick, tags_of, userdata_of
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
META = "/v1.json"
HEADERS = {"Metadata-Token": "cloudinit"}


class Vultr:
    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE, headers=HEADERS) as service:
            document = service.json(META)
            if document is None:
                raise DiscoveryError(f"{BASE}{META} is not there")
            yield parse(document)


def parse(document: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of v1.json. Of its two ids the v2 one is the one that the API knows."""
    interfaces = items(document, "interfaces")
    public = first(face for face in interfaces if pick(face, "network-type") == "public")
    private = first(face for face in interfaces if pick(face, "network-type") == "private")
    region = document.get("region")
    return {
        "instance_id": document.get("instance-v2-id") or document.get("instanceid"),
        # cloud-init, which passes the document on, puts a plain string here.
        "region": region if isinstance(region, str) else pick(region, "regioncode"),
        "hostname": document.get("hostname"),
        "private_ipv4": pick(private, "ipv4", "address"),
        "public_ipv4": pick(public, "ipv4", "address"),
        "ipv6": pick(public, "ipv6", "address"),
        "tags": tags_of(document.get("tags")),
        "userdata": userdata_of(document.get("user-data")),
    }
