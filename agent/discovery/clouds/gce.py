"""Google Compute Engine: https://cloud.google.com/compute/docs/metadata/predefined-metadata-keys"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

from agent.discovery import Context, userdata
from agent.discovery.metadata_client import Service
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
    """Looking for changes waits at the service until there is one, from the second look on."""

    poll_seconds: ClassVar[float] = 1.0

    def __init__(self) -> None:
        self._etag = ""
        self._waiting: Service | None = None

    @property
    def waits(self) -> bool:
        """Whether the next look takes as long as nothing changes."""
        return bool(self._etag)

    def discover(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE, headers=FLAVOR) as service:
            yield self._instance(service, INSTANCE)
            yield {"account_id": service.text(PROJECT)}

    def changing(self, context: Context) -> Iterator[Mapping[str, Any]]:
        with Service(context, BASE, headers=FLAVOR) as service:
            if not self._etag:
                yield self._instance(service, INSTANCE)
                return
            seconds = max(1, int(context.deadline - time.monotonic()))
            # The time that its answer needs on the way.
            context.deadline += 5
            self._waiting = service
            wait = f"&wait_for_change=true&timeout_sec={seconds}&last_etag={quote(self._etag)}"
            yield self._instance(service, INSTANCE + wait)

    def abort(self) -> None:
        """Make a `changing` in another thread return."""
        if self._waiting is not None:
            self._waiting.abort()

    def _instance(self, service: Service, path: str) -> dict[str, Any]:
        reply = service.request("GET", path, {}, patient="wait_for_change" in path)
        if reply.status != 200 or reply.headers.get("metadata-flavor") != "Google":
            raise DiscoveryError(f"{BASE} answered {reply.status}, and not as Google's metadata service does")
        self._etag = reply.headers.get("etag", "")
        return parse(userdata.json_table(reply.body, BASE))


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
        "terminating": _terminating(instance),
        "tags": {**(tags_of(instance.get("tags")) or {}), **own_attributes(attributes)},
        "userdata": userdata_of(attributes.get("user-data"), base64=attributes.get("user-data-encoding") == "base64"),
    }


def _terminating(instance: Mapping[str, Any]) -> str | None:
    if instance.get("preempted") == "TRUE":
        return "preempted"
    return "maintenance" if instance.get("maintenanceEvent") == "TERMINATE_ON_HOST_MAINTENANCE" else None


def own_attributes(attributes: Any) -> dict[str, Any]:
    """The attributes that a user gave, less those that programs of the platform read."""
    found = attributes if isinstance(attributes, Mapping) else {}
    return {name: value for name, value in found.items() if not str(name).startswith(_NO_TAGS)}
