"""Oracle Cloud: https://docs.oracle.com/en-us/iaas/Content/Compute/Tasks/gettingmetadata.htm"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.discovery import Context, userdata
from agent.discovery.metadata_client import Service
from agent.discovery.shapes import first, items, pick, userdata_of
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
HEADERS = {"Authorization": "Bearer Oracle"}


class Oracle:
    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE, headers=HEADERS) as service:
            version, document = "v2", service.json("/opc/v2/instance/")
            if document is None:
                version, document = "v1", service.json("/opc/v1/instance/")
            if document is None:
                raise DiscoveryError(f"{BASE}/opc/v2/instance/ is not there, and neither is v1")
            yield parse(document)
            vnics = service.get(f"/opc/{version}/vnics/")
            if vnics:
                wrapped = b'{"vnics":' + vnics + b"}"
                yield parse_vnics(userdata.json_table(wrapped, f"{BASE}/opc/{version}/vnics/"))


def parse(instance: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of /opc/v2/instance/. `region` is the short name of old regions, so canonicalRegionName is read."""
    free = instance.get("freeformTags")
    tags = dict(free) if isinstance(free, Mapping) else {}
    defined = instance.get("definedTags")
    for space, named in defined.items() if isinstance(defined, Mapping) else ():
        if isinstance(named, Mapping):
            tags.update({f"{space}.{name}": value for name, value in named.items()})
    return {
        "instance_id": instance.get("id"),
        "region": instance.get("canonicalRegionName") or instance.get("region"),
        "zone": instance.get("availabilityDomain"),
        "instance_type": instance.get("shape"),
        "hostname": instance.get("hostname") or instance.get("displayName"),
        "image_id": instance.get("image"),
        "account_id": instance.get("tenantId"),
        "tags": tags,
        "userdata": userdata_of(pick(instance, "metadata", "user_data"), base64=True),
    }


def parse_vnics(document: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the network cards, the first of which is the primary. Public addresses are not in it."""
    return {
        "private_ipv4": first(pick(vnic, "privateIp") for vnic in items(document, "vnics")),
        "ipv6": first(pick(vnic, "ipv6Addresses", 0) for vnic in items(document, "vnics")),
    }
