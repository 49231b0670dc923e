"""Akamai (Linode): https://techdocs.akamai.com/cloud-computing/docs/metadata-service-api"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, RawFacts, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import address, pick, tags_of
from agent.errors import DiscoveryError

BASES = ("http://169.254.169.254", "http://[fd00:a9fe:a9fe::1]")
HEADERS = {"Accept": "application/json"}


class Akamai:
    """Every request needs a token."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, *BASES) as client:
            token = client.token("/v1/token", {"Metadata-Token-Expiry-Seconds": "300"})
            if token is None:
                raise DiscoveryError(f"{BASES[0]}/v1/token does not exist, and all other requests need a token")
            client.headers["Metadata-Token"] = token
            yield parse(client.json("/v1/instance", HEADERS) or {})
            yield parse_network(client.json("/v1/network", HEADERS) or {})
            yield {"userdata": userdata.parbake_table_in(client.text("/v1/user-data"), base64=True)}


def parse(instance: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of /v1/instance."""
    return {
        "instance_id": instance.get("id"),
        "region": instance.get("region"),
        "instance_type": instance.get("type"),
        "hostname": instance.get("label"),
        "image_id": pick(instance, "image", "id"),
        "account_id": instance.get("account_euuid"),
        "tags": tags_of(instance.get("tags")),
    }


def parse_network(network: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of /v1/network, whose addresses have a prefix length."""
    return {
        "private_ipv4": address(pick(network, "ipv4", "private", 0)),
        "public_ipv4": address(pick(network, "ipv4", "public", 0)),
        "ipv6": address(pick(network, "ipv6", "slaac")),
    }
