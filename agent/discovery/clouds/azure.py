"""Azure: https://learn.microsoft.com/en-us/azure/virtual-machines/instance-metadata-service"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from agent.discovery import Context, RawFacts, parsers, userdata
from agent.discovery.metadata_client import MetadataClient
from agent.discovery.parsers import items, pick
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
INSTANCE = "/metadata/instance?api-version=2021-02-01"
EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
HEADERS = {"Metadata": "true"}


class Azure:
    """Only the watcher requests scheduled events: the first answer that an instance gets takes up to two minutes."""

    poll_seconds: ClassVar[float] = 10.0
    long_polls: ClassVar[bool] = False

    def __init__(self) -> None:
        # For the first answer only: a later request that stalls this long would hide a pre-emption, 30 s after its notice.
        self.poll_timeout_seconds = 130.0

    def discover(self, context: Context) -> Iterator[RawFacts]:
        with _client(context) as client:
            yield parse(_instance(client))

    def changing(self, context: Context) -> Iterator[RawFacts]:
        with _client(context) as client:
            instance = _instance(client)
            yield {"tags": parse(instance)["tags"]}
            reply = client.request("GET", EVENTS, {}, long_poll=True)
            self.poll_timeout_seconds = 0.0
            if reply.status == 200:
                events = parsers.json_table(reply.body, f"{BASE}/metadata/scheduledevents")
                yield parse_events(events, pick(instance, "compute", "name"))


def _client(context: Context) -> MetadataClient:
    # Here 404 and 410 mean that the service is being updated, and that the request should be repeated.
    return MetadataClient(context, BASE, headers=HEADERS, retried=(404, 410))


def _instance(client: MetadataClient) -> dict[str, Any]:
    instance = client.json(INSTANCE)
    if instance is None:
        raise DiscoveryError(f"{BASE}/metadata/instance is empty")
    return instance


def parse_events(document: Mapping[str, Any], name: object) -> dict[str, object]:
    """Return whether the virtual machine `name` will be terminated. The document lists the events of its whole set."""
    for event in items(document, "Events"):
        reason = {"Preempt": "spot", "Terminate": "scheduled"}.get(str(event.get("EventType")))
        if reason and name in (pick(event, "Resources") or []):
            return {"terminating": reason, "terminating_at": event.get("NotBefore")}
    return {"terminating": None, "terminating_at": None}


def parse(instance: Mapping[str, Any]) -> dict[str, object]:
    """Return the facts of /metadata/instance. `tags` is one string there, so tagsList is used."""
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
        "tags": {tag["name"]: tag.get("value") for tag in items(compute, "tagsList") if isinstance(tag.get("name"), str)},
        "userdata": userdata.parbake_table_in(pick(compute, "userData"), base64=True),
    }


def _image(reference: object) -> str | None:
    """Return the id of a gallery image, or publisher:offer:sku:version of a marketplace image."""
    if identity := pick(reference, "id"):
        return str(identity)
    parts = [pick(reference, part) for part in ("publisher", "offer", "sku", "version")]
    return ":".join(parts) if all(isinstance(part, str) and part for part in parts) else None
