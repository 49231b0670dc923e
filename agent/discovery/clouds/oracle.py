"""Oracle Cloud: https://docs.oracle.com/en-us/iaas/Content/Compute/Tasks/gettingmetadata.htm"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, RawFacts, parsers, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import first, items, pick
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
HEADERS = {"Authorization": "Bearer Oracle"}


class Oracle:
    """Version 2 of the service, or version 1 if that is switched off."""

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with MetadataClient(context, BASE, headers=HEADERS) as client:
            version, document = "v2", client.json("/opc/v2/instance/")
            if document is None:
                version, document = "v1", client.json("/opc/v1/instance/")
            if document is None:
                raise DiscoveryError(f"{BASE}/opc/v2/instance/ does not exist, and neither does v1")
            yield parse(document)
            vnics = client.get(f"/opc/{version}/vnics/")
            if vnics:
                yield parse_vnics({"vnics": parsers.json_value(vnics, f"{BASE}/opc/{version}/vnics/")})


def parse(instance: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of /opc/v2/instance/. `region` is a short name in old regions, so canonicalRegionName is used."""
    freeform = instance.get("freeformTags")
    tags = dict(freeform) if isinstance(freeform, Mapping) else {}
    defined = instance.get("definedTags")
    for namespace, table in defined.items() if isinstance(defined, Mapping) else ():
        if isinstance(table, Mapping):
            tags.update({f"{namespace}.{name}": value for name, value in table.items()})
    return {
        "instance_id": instance.get("id"),
        "region": instance.get("canonicalRegionName") or instance.get("region"),
        "zone": instance.get("availabilityDomain"),
        "instance_type": instance.get("shape"),
        "hostname": instance.get("hostname") or instance.get("displayName"),
        "image_id": instance.get("image"),
        "account_id": instance.get("tenantId"),
        "tags": tags,
        "userdata": userdata.parbake_table_in(pick(instance, "metadata", "user_data"), base64=True),
    }


def parse_vnics(document: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of the network interfaces, a list under `vnics`. The first is primary. It has no public addresses."""
    return {
        "private_ipv4": first(pick(vnic, "privateIp") for vnic in items(document, "vnics")),
        "ipv6": first(pick(vnic, "ipv6Addresses", 0) for vnic in items(document, "vnics")),
    }
