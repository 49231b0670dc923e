"""Azure: https://learn.microsoft.com/en-us/azure/virtual-machines/instance-metadata-service"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context
from agent.discovery.service import Service
from agent.discovery.shapes import items, pick, userdata_of
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
INSTANCE = "/metadata/instance?api-version=2021-02-01"
HEADERS = {"Metadata": "true"}


class Azure:
    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        # Here 404 and 410 mean that the service is being updated; it asks to be tried again.
        with Service(context, BASE, headers=HEADERS, retried=(404, 410)) as service:
            instance = service.json(INSTANCE)
            if instance is None:
                raise DiscoveryError(f"{BASE}/metadata/instance is empty")
            yield parse(instance)


def parse(instance: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of /metadata/instance. `tags` is one string there, so tagsList is read."""
    compute = instance.get("compute")
    interface = pick(instance, "network", "interface", 0)
    return {
        "instance_id": pick(compute, "vmId"),
        "region": pick(compute, "location"),
        "zone": pick(compute, "zone"),
        "instance_type": pick(compute, "vmSize"),
        "hostname": pick(compute, "osProfile", "computerName") or pick(compute, "name"),
        "private_ipv4": pick(interface, "ipv4", "ipAddress", 0, "privateIpAddress"),
        "public_ipv4": pick(interface, "ipv4", "ipAddress", 0, "publicIpAddress"),
        "ipv6": pick(interface, "ipv6", "ipAddress", 0, "privateIpAddress"),
        "image_id": _image(pick(compute, "storageProfile", "imageReference")),
        "account_id": pick(compute, "subscriptionId"),
        "tags": {
            tag["name"]: tag.get("value") for tag in items(compute, "tagsList") if isinstance(tag.get("name"), str)
        },
        "userdata": userdata_of(pick(compute, "userData"), base64=True),
    }


def _image(reference: Any) -> str | None:
    """A gallery image by its id, one of the marketplace as publisher:offer:sku:version."""
    if identity := pick(reference, "id"):
        return str(identity)
    parts = [pick(reference, part) for part in ("publisher", "offer", "sku", "version")]
    return ":".join(parts) if all(isinstance(part, str) and part for part in parts) else None
