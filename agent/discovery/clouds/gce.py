"""Google Compute Engine: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, documents
from agent.discovery.service import Service
from agent.discovery.shapes import address, first, last_part, pick, region_of, tags_of, userdata_of
from agent.errors import DiscoveryError

# The name metadata.google.internal would need a resolver.
BASE = "http://169.254.169.254"
FLAVOR = {"Metadata-Flavor": "Google"}
INSTANCE = "/computeMetadata/v1/instance/?recursive=true"
PROJECT = "/computeMetadata/v1/project/project-id"
_NO_TAGS = (
    "ssh-keys",
    "sshKeys",
    "user-data",
    "startup-script",
    "shutdown-script",
    "windows-",
    "sysprep-",
    "vendor-data",
)


class Gce:
    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE, headers=FLAVOR) as service:
            reply = service.request("GET", INSTANCE, {})
            if reply.status != 200 or reply.headers.get("metadata-flavor") != "Google":
                raise DiscoveryError(f"{BASE} answered {reply.status}, and not as Google's metadata service does")
            yield parse(documents.json_table(reply.body, BASE))
            yield {"account_id": service.text(PROJECT)}


def parse(instance: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of `instance/?recursive=true`. Labels are not in it: attributes and network tags serve as tags."""
    zone = last_part(instance.get("zone"))
    interface = pick(instance, "networkInterfaces", 0)
    attributes = instance.get("attributes")
    attributes = attributes if isinstance(attributes, Mapping) else {}
    return {
        # An integer beyond 2^53, which a parser that only knows doubles would round.
        "instance_id": instance.get("id"),
        "region": region_of(zone),
        "zone": zone,
        "instance_type": last_part(instance.get("machineType")),
        "hostname": instance.get("hostname"),
        "private_ipv4": pick(interface, "ip"),
        "public_ipv4": first(pick(access, "externalIp") for access in pick(interface, "accessConfigs") or []),
        "ipv6": address(first([pick(interface, "ipv6", 0), pick(interface, "ipv6s", 0)])),
        "image_id": last_part(instance.get("image")),
        "tags": {**(tags_of(instance.get("tags")) or {}), **own_attributes(attributes)},
        "userdata": userdata_of(attributes.get("user-data"), base64=attributes.get("user-data-encoding") == "base64"),
    }


def own_attributes(attributes: Any) -> dict[str, Any]:
    """The attributes that a user gave, less those that programs of the platform read."""
    found = attributes if isinstance(attributes, Mapping) else {}
    return {name: value for name, value in found.items() if not str(name).startswith(_NO_TAGS)}
