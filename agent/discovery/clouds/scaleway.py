"""Scaleway: https://www.scaleway.com/en/developers/api/instances/#instance-metadata"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, RawFacts, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import first, items, pick, region_of, tags_of
from agent.errors import DiscoveryError

BASES = ("http://169.254.42.42", "http://[fd00:42::42]")
CONF = "/conf?format=json"
USERDATA = "/user_data/cloud-init"


class Scaleway:
    """User-data needs a source port below 1024, which needs root."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, *BASES) as client:
            document = client.json(CONF)
            if document is None:
                raise DiscoveryError(f"{BASES[0]}/conf does not exist")
            yield parse(document)
        if os.geteuid() == 0:
            with MetadataClient(context, *BASES, privileged_port=True) as client:
                yield {"userdata": userdata.parbake_table(client.get(USERDATA) or b"")}


def parse(document: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of /conf."""
    zone = pick(document, "location", "zone_id") or document.get("zone")
    public = items(document, "public_ips")
    return {
        "instance_id": document.get("id"),
        "region": region_of(zone),
        "zone": zone,
        "instance_type": document.get("commercial_type"),
        "hostname": document.get("hostname"),
        "private_ipv4": document.get("private_ip"),
        "public_ipv4": pick(document, "public_ip", "address")
        or first(pick(ip, "address") for ip in public if pick(ip, "family") == "inet"),
        "ipv6": pick(document, "ipv6", "address")
        or first(pick(ip, "address") for ip in public if pick(ip, "family") == "inet6"),
        "account_id": document.get("project") or document.get("organization"),
        "tags": tags_of(document.get("tags")),
    }
