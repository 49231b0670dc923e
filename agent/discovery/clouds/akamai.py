"""Akamai (Linode): https://techdocs.akamai.com/cloud-computing/docs/metadata-service-api"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context
from agent.discovery.metadata_client import Service
from agent.discovery.shapes import address, pick, tags_of, userdata_of
from agent.errors import DiscoveryError

BASES = ("http://169.254.169.254", "http://[fd00:a9fe:a9fe::1]")
HEADERS = {"Accept": "application/json"}


class Akamai:
    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, *BASES) as service:
            token = service.token("/v1/token", {"Metadata-Token-Expiry-Seconds": "300"})
            if token is None:
                raise DiscoveryError(f"{BASES[0]}/v1/token is not there, so nothing can be asked")
            service.headers["Metadata-Token"] = token
            yield parse(service.json("/v1/instance", HEADERS) or {})
            yield parse_network(service.json("/v1/network", HEADERS) or {})
            # Base64 of what was given at creation.
            body = service.text("/v1/user-data")
            yield {"userdata": userdata_of(body, base64=True)}


def parse(instance: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of /v1/instance."""
    return {
        "instance_id": instance.get("id"),
        "region": instance.get("region"),
        "instance_type": instance.get("type"),
        "hostname": instance.get("label"),
        "image_id": pick(instance, "image", "id"),
        "account_id": instance.get("account_euuid"),
        "tags": tags_of(instance.get("tags")),
    }


def parse_network(network: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of /v1/network, whose addresses carry a prefix length."""
    return {
        "private_ipv4": address(pick(network, "ipv4", "private", 0)),
        "public_ipv4": address(pick(network, "ipv4", "public", 0)),
        "ipv6": address(pick(network, "ipv6", "slaac")),
    }
