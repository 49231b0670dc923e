"""Azure: https://learn.microsoft.com/en-us/azure/virtual-machines/instance-metadata-service"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from agent.discovery import Context, userdata
from agent.discovery.metadata_client import Service
from agent.discovery.shapes import items, pick, userdata_of
from agent.errors import DiscoveryError

BASE = "http://169.254.169.254"
INSTANCE = "/metadata/instance?api-version=2021-02-01"
EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
HEADERS = {"Metadata": "true"}


class Azure:
    """Scheduled events are asked for by the watcher alone: the first answer of an instance takes up to two minutes."""

    poll_seconds: ClassVar[float] = 10.0

    def __init__(self) -> None:
        # Only until then: a request that stalls later would hide a pre-emption, which comes 30 s after its notice.
        self.look_seconds = 130.0

    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with _service(context) as service:
            yield parse(_instance(service))

    def changing(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with _service(context) as service:
            instance = _instance(service)
            yield {"tags": parse(instance)["tags"]}
            reply = service.request("GET", EVENTS, {}, patient=True)
            self.look_seconds = 0.0
            if reply.status == 200:
                events = userdata.json_table(reply.body, f"{BASE}/metadata/scheduledevents")
                yield parse_events(events, pick(instance, "compute", "name"))


def _service(context: Context) -> Service:
    # Here 404 and 410 mean that the service is being updated; it asks to be tried again.
    return Service(context, BASE, headers=HEADERS, retried=(404, 410))


def _instance(service: Service) -> dict[str, Any]:
    instance = service.json(INSTANCE)
    if instance is None:
        raise DiscoveryError(f"{BASE}/metadata/instance is empty")
    return instance


def parse_events(document: Mapping[str, Any], name: Any) -> dict[str, Any]:
    """Whether the virtual machine `name` is to go: the events of the others in its set are told to it too."""
    for event in items(document, "Events"):
        why = {"Preempt": "spot", "Terminate": "scheduled"}.get(str(event.get("EventType")))
        if why and name in (pick(event, "Resources") or []):
            return {"terminating": why, "terminating_at": event.get("NotBefore")}
    return {"terminating": None, "terminating_at": None}


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
        "tags": {tag["name"]: tag.get("value") for tag in items(compute, "tagsList") if isinstance(tag.get("name"), str)},
        "userdata": userdata_of(pick(compute, "userData"), base64=True),
    }


def _image(reference: Any) -> str | None:
    """A gallery image by its id, one of the marketplace as publisher:offer:sku:version."""
    if identity := pick(reference, "id"):
        return str(identity)
    parts = [pick(reference, part) for part in ("publisher", "offer", "sku", "version")]
    return ":".join(parts) if all(isinstance(part, str) and part for part in parts) else None
